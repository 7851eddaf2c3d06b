"""Shared fixtures, and one compilation cache for the session: many tests train the same tiny network, some of them in
processes of their own."""

import atexit
import contextlib
import ctypes
import gc
import importlib.metadata
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator

CACHE = tempfile.mkdtemp(prefix="jaxrl-tests-")
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
os.environ |= {
    "JAX_COMPILATION_CACHE_DIR": CACHE,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
# Most of the time goes into compiling programs that run once. Unless the shell says otherwise, XLA optimises little;
# .ci/run repeats the kernels' tests with all of its optimisations. A flag that a version lacks would end the process.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")

# Signals that the shell has these tests ignore (Ctrl-C in the background, SIGHUP under nohup) our commands would ignore
# too, and rightly. They are to be tested: a handler here is none there.
for kind in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(kind) is signal.SIG_IGN:
        signal.signal(kind, signal.default_int_handler)

import jax  # noqa: E402
import pytest  # noqa: E402

from jaxrl.data.memory import resident_bytes  # noqa: E402

MAX_RESIDENT_BYTES = 1.4 * 2**30


@pytest.fixture(autouse=True)
def _programs_for_nobody() -> Iterator[None]:
    """JAX keeps compiled programs for ever, and those of earlier tests serve nobody. The cache on the disk has them,
    where one is wanted after all."""
    yield
    if resident_bytes() > MAX_RESIDENT_BYTES:
        jax.clear_caches()
        gc.collect()
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
            trim(0)  # The GNU library keeps what the compiler has freed.


@contextlib.contextmanager
def _float_width(bits: int) -> Iterator[None]:
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", bits == 64)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


@pytest.fixture(params=[64, 32], ids=["float64", "float32"])
def tolerance(request: pytest.FixtureRequest) -> Iterator[float]:
    """Runs the test in float64 and in float32; the value is the relative error that is allowed there."""
    with _float_width(request.param):
        yield 1e-10 if request.param == 64 else 1e-5


@pytest.fixture
def float64() -> Iterator[None]:
    """Runs the test in float64."""
    with _float_width(64):
        yield

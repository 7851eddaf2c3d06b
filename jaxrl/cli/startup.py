"""How a command starts: settings of JAX, and the garbage collector's pause while it is imported. Nothing here imports
JAX, because what is set must be set before it."""

import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path


def prepare_jax() -> None:
    """Settings of JAX that suit the commands; whatever the user set in the environment stays as it is.

    The compilation cache makes a second start fast: by default it skips what compiles in under a second, which is all
    that we have.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        _fix_cache_folder()
    else:
        try:
            folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "jaxrl" / "xla"
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
        except (OSError, RuntimeError):  # No home, or one that cannot be written to, costs the cache, not the run.
            return
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def _fix_cache_folder() -> None:
    """An environment may move the working folder, and a relative cache folder must not move with it."""
    folder = os.environ["JAX_COMPILATION_CACHE_DIR"]
    if folder and "://" not in folder:
        with contextlib.suppress(OSError):  # The working folder is gone.
            os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(folder).absolute())


@contextlib.contextmanager
def nothing_collected() -> Iterator[None]:
    """For the time of importing JAX and ourselves: these 120,000 objects are there to stay, and the garbage collector
    looks through them again and again, which is a fifth of a start. Nor does it look at them afterwards.

    Where JAX has been imported before, there may be garbage, and little is left to import.
    """
    if "jax" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()

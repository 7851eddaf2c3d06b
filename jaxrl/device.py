"""Whether JAX can be used in this process: its platform must be there, and it does not outlive a fork."""

import os

import jax
import numpy as np

from jaxrl.errors import BadInput

SWITCHES = "JAX_PLATFORMS", "JAX_PLATFORM_NAME", "JAX_DEFAULT_DEVICE", "CUDA_VISIBLE_DEVICES"
_used_by: int | None = None  # The process that used JAX first, as a forked one inherits it.


def check_process() -> None:
    """Raises BadInput in a process that was forked after JAX was used here: JAX would wait there for threads that a
    fork does not copy, without end and without a word."""
    global _used_by  # noqa: PLW0603
    if _used_by is None:
        _used_by = os.getpid()
    elif _used_by != os.getpid():
        raise BadInput(
            "this process was forked after JAX was used, and JAX hangs in it: it must be started by "
            "multiprocessing.get_context('spawn')"
        )


def check_device() -> None:
    """Raises BadInput unless JAX finds the platform that it is told to use, and that takes a number."""
    check_process()
    try:
        jax.devices()
        jax.device_put(np.zeros(()))
    except Exception as error:  # JAX raises many kinds, an AssertionError without a word among them.
        told = ", ".join(f"{name}={os.environ[name]}" for name in SWITCHES if name in os.environ) or "this machine"
        why = " ".join(str(error).split()) or "that platform is not installed"
        raise BadInput(f"JAX finds no device with {told}: {why}; JAX_PLATFORMS=cpu takes the CPU") from error

"""How functions of ours use JAX: as programs of their own, in a process where it can be used. Its platform must be
there, and it does not outlive a fork."""

import functools
import os
import sys
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import PartitionSpec

from jaxrl.errors import BadInput
from jaxrl.output import say

DEVICES = "devices"  # The name of the mesh axis along which several devices share a program.
SWITCHES = "JAX_PLATFORMS", "JAX_PLATFORM_NAME", "JAX_DEFAULT_DEVICE", "CUDA_VISIBLE_DEVICES"
Function = TypeVar("Function", bound=Callable[..., object])

_is_told = False
_used_by: int | None = None  # The process that used JAX first, as a forked one inherits it.


def compiled(function: Function) -> Function:
    """`function` as a program of its own where it is called eagerly, so that its constants are no transfers to the
    device. Inside another program it is as if it was written there.

    It stays a plain function, which can be pickled by its name.
    """
    program = jax.jit(function, inline=True)

    @functools.wraps(function)
    def call(*arguments: object, **options: object) -> object:
        check_process()
        return program(*arguments, **options)

    return call  # type: ignore[return-value]


def split_over_devices(x: jax.Array, axis: int) -> jax.Array:
    """`x`, of which each of the devices that share a program has a part along `axis`: each computes with its part, and
    XLA adds up what is a sum over all. Without such devices, or where they do not divide the axis, `x` as it is."""
    sharing = jax.sharding.get_abstract_mesh().shape.get(DEVICES, 1)
    if sharing == 1 or x.shape[axis] % sharing:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*[None] * axis, DEVICES))


def check_process() -> None:
    """Raises BadInput in a process that was forked after JAX was used here: JAX would wait there for threads that a
    fork does not copy, without end and without a word."""
    global _used_by  # noqa: PLW0603
    if _used_by is None:
        _used_by = os.getpid()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=_warn_of_fork)
    elif _used_by != os.getpid():
        raise BadInput(
            "this process was forked after JAX was used, and JAX hangs in it: it must be started by "
            "multiprocessing.get_context('spawn')"
        )


def _warn_of_fork() -> None:
    """Says so once, before the fork: in the new process, a kernel that is compiled already hangs without a word."""
    global _is_told  # noqa: PLW0603
    if not _is_told:
        _is_told = True
        remedy = "start it by multiprocessing.get_context('spawn')"
        say(f"jaxrl: a process is forked after JAX was used, and JAX hangs in such a one: {remedy}", sys.stderr)


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

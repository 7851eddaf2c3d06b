"""Tools that distributions share: methods that are programs of their own, and arrays on the host or on the device."""

import functools
from typing import Any

import jax
import numpy as np
from jax import Array

compiled = functools.partial(jax.jit, inline=True)


def in_line_with(x: Array, numbers: Any) -> Any:
    """`numbers`, one for each place on the last axis of `x`, with as many axes as `x` and in its type."""
    return np.asarray(numbers, x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


def on_host(x: Array | np.ndarray) -> np.ndarray:
    """`x` in NumPy, fetched from the device where it is there."""
    return x if isinstance(x, np.ndarray) else np.asarray(jax.device_get(x))

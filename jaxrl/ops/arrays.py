"""Tools that distributions share: methods that are programs of their own, and arrays on the host or on the device."""

import functools

import jax
import numpy as np
from jax import Array

compiled = functools.partial(jax.jit, inline=True)


def on_host(x: Array | np.ndarray) -> np.ndarray:
    """`x` in NumPy, fetched from the device where it is there."""
    return x if isinstance(x, np.ndarray) else np.asarray(jax.device_get(x))

"""Tools of the formulas: methods that are programs of their own, arrays on the host or on the device, and types."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

compiled = functools.partial(jax.jit, inline=True)


def on_host(x: Array | np.ndarray) -> np.ndarray:
    """`x` in NumPy, fetched from the device where it is there."""
    return x if isinstance(x, np.ndarray) else np.asarray(jax.device_get(x))


def common_type(dtype: DTypeLike, other: DTypeLike) -> np.dtype:
    """The type in which JAX computes with both, also where `jax_numpy_dtype_promotion=strict` forbids to choose one."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(dtype, other)

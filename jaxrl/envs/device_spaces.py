"""Observations and actions of environments on the device, between their spaces and what networks see and give."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jax import Array

from jaxrl.data.spaces import Binary, OneHot, layout, layout_parts
from jaxrl.errors import BadInput
from jaxrl.ops.arrays import common_type


def flatten_observations(space: spaces.Space, obs: Any, num_rows: int) -> Array:
    """Flattens observations as `jaxrl.data.spaces.flatten` does, inside JAX.

    Args:
      space: of one observation.
      obs: `num_rows` observations: an array with a leading axis, of a Dict or a Tuple its parts so.
      num_rows: how many they are.

    Returns:
      `(num_rows, S)`, in JAX's default floating type. Where a number is not in a Discrete, MultiDiscrete or
      MultiBinary, all numbers of that part become NaN.
    """
    return _flatten(layout(space), obs, num_rows)


def _flatten(of: Any, obs: Any, num_rows: int) -> Array:
    if isinstance(of, dict | list):
        return jnp.concatenate([_flatten(part, obs[key], num_rows) for key, part in layout_parts(of)], axis=1)
    if isinstance(of, OneHot):
        columns = jnp.reshape(obs, (num_rows, len(of.sizes)))
        parts = [
            jax.nn.one_hot(columns[:, i] - start, size, dtype=float)
            for i, (start, size) in enumerate(zip(of.starts, of.sizes, strict=True))
        ]
        rows = jnp.concatenate(parts, axis=1)
        return jnp.where(rows.sum(1, keepdims=True) == len(of.sizes), rows, jnp.nan)
    rows = jnp.reshape(jnp.asarray(obs, float), (num_rows, -1))
    if isinstance(of, Binary):
        return jnp.where(((rows == 0) | (rows == 1)).all(1, keepdims=True), rows, jnp.nan)
    return rows


def to_env_actions(space: spaces.Space, action: Array, num_rows: int) -> tuple[Array, Array]:
    """Brings actions into their space's shape and type; a Box action is clipped to its bounds.

    Args:
      space: of one action: a Box, Discrete, MultiDiscrete or MultiBinary.
      action: `(num_rows, ...)`, in the space's shape or flattened.
      num_rows: how many they are.

    Returns:
      The actions, `(num_rows, *shape)`, and whether each is finite and, but for a Box, in its space, `(num_rows,)`.

    Raises:
      BadInput: the actions have another shape.
    """
    action, shape = jnp.asarray(action), (num_rows, *(space.shape or ()))
    size = math.prod(shape[1:])
    if action.shape not in {shape, (num_rows, size), *([(num_rows,)] if size == 1 else [])}:
        raise BadInput(f"actions have the shape {action.shape}: it must be {shape}")
    action = jnp.reshape(action, shape)
    dtype = jax.dtypes.canonicalize_dtype(space.dtype)
    if isinstance(space, spaces.Box):
        fits = jnp.isfinite(action)
        action = jnp.clip(
            action, jnp.asarray(space.low[None], action.dtype), jnp.asarray(space.high[None], action.dtype)
        )
    else:
        # In a type that holds the bounds: 300 is no uint8, and no type is changed in passing.
        wide = action.astype(common_type(action.dtype, np.int32))
        low, high = (
            np.asarray(bound, wide.dtype).reshape((1,) * (wide.ndim - np.ndim(bound)) + np.shape(bound))
            for bound in whole_number_bounds(space)
        )
        fits = (wide >= low) & (wide <= high) & (wide == jnp.floor(wide))
    return action.astype(dtype), fits.reshape(num_rows, -1).all(1)


def whole_number_bounds(space: Any) -> tuple[Any, Any]:
    """The smallest and the largest value of each number of a Discrete, MultiDiscrete or MultiBinary."""
    if isinstance(space, spaces.Discrete):
        return int(space.start), int(space.start + space.n - 1)
    if isinstance(space, spaces.MultiDiscrete):
        return np.asarray(space.start, np.int32), np.asarray(space.start + space.nvec - 1, np.int32)
    return 0, 1

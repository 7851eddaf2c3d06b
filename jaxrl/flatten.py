"""Observations as networks see them: a Box of any shape, or a Dict of such Boxes, flattened to rows of float32. No JAX.

A Box is flattened in C order. A Dict is its parts one after the other, in the order of its keys as the space holds them
(Gymnasium sorts the keys of a plain dict), and so on inwards.
"""

import math
from typing import Any

import numpy as np
from gymnasium import spaces

from jaxrl.errors import BadInput

Layout = tuple[int, ...] | dict[str, Any]  # The shape of a Box; the layout of each part of a Dict.


def layout(space: spaces.Space) -> Layout:
    """What `flatten` needs to know of an observation space.

    Raises:
      BadInput: the space is neither a Box nor a Dict of what is accepted, or it is empty, or holds images.
    """
    if isinstance(space, spaces.Dict) and space.spaces:
        if odd := [key for key in space.spaces if not isinstance(key, str)]:
            raise BadInput(f"observation space Dict has the key {odd[0]!r}: its keys must be strings")
        return {key: layout(part) for key, part in space.spaces.items()}
    if not isinstance(space, spaces.Box):
        raise BadInput(
            f"observation space {type(space).__name__} is not supported: it must be a Box, or a Dict of Boxes; "
            "gymnasium.wrappers.FlattenObservation makes a Box"
        )
    if space.dtype == np.uint8 and len(space.shape) > 1:
        raise BadInput(
            f"observation space of pixels, {space.shape} uint8, is not supported: the networks are fully connected "
            "and want a vector of features"
        )
    if math.prod(space.shape) == 0:
        raise BadInput(f"observation space of shape {space.shape} is empty: it must hold at least one number")
    return tuple(space.shape)


def width(of: Layout) -> int:
    """How many numbers an observation has."""
    return sum(map(width, of.values())) if isinstance(of, dict) else math.prod(of)


def flatten(of: Layout, obs: Any, num_rows: int) -> np.ndarray:
    """`num_rows` observations as `(num_rows, S)` float32, in memory of their own: an environment may write its next
    observation over the one that it gave. What float32 cannot hold becomes infinite."""
    if isinstance(of, dict):
        return np.concatenate([flatten(part, obs[key], num_rows) for key, part in of.items()], axis=1)
    if getattr(obs, "dtype", None) == np.float32:
        return obs.reshape(num_rows, -1).copy()
    with np.errstate(over="ignore"):
        return np.array(obs, np.float32).reshape(num_rows, -1)


def describe(of: Layout) -> str:
    """The layout in words: the shape, or the parts' names and shapes in their order."""
    if isinstance(of, dict):
        return ", ".join(f"{key} {describe(part)}" for key, part in of.items())
    return str(of)

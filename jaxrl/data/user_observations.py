"""Observations that a user gives, one or many, read by their shape and checked. No JAX."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxrl.data.spaces import (
    Layout,
    OneHot,
    describe,
    flatten,
    layout_leaves,
    layout_parts,
    leaf_shape,
    to_float32,
    width,
)
from jaxrl.errors import BadInput


def read_observations(layout: Layout, obs: Any) -> tuple[np.ndarray, bool]:
    """Checks and flattens observations that a user gives: one, or N of them, or such as are flattened already.

    An array is read by its shape. `shape` is that of the space, and S is how many numbers a flattened observation has.
    The first line that fits counts:

    1. `shape`: one observation.
    2. `(N, *shape)`: N observations.
    3. `(S,)`: one flattened observation.
    4. `(N, S)`: N flattened observations.

    So one dimension always means N observations where the space is a Discrete or another space of shape `()`. And
    `(1, W)` always means one observation where the space has that shape.

    Observations of a Dict are a mapping with its keys, and those of a Tuple are a tuple or a list of its parts. Either
    each part is read by line 1, or each is read by line 2 with the same N. An array, or a list where the space is a
    Dict, is read by lines 3 and 4.

    Args:
      layout: of one observation.
      obs: the observations.

    Returns:
      `(N, S)` float32, in memory of its own, and whether it is one observation that came without an axis for N.

    Raises:
      BadInput: the observations have another structure or shape; or they are not numbers, not finite in float32, or
        not in their space where that is a Discrete, MultiDiscrete or MultiBinary.
    """
    in_parts = (isinstance(layout, dict) and isinstance(obs, Mapping)) or (
        isinstance(layout, list) and isinstance(obs, tuple | list)
    )
    if not in_parts:
        obs = _numbers("obs", obs)
        if not _fits(layout, obs.shape) and obs.ndim in (1, 2) and obs.shape[-1] == width(layout):
            rows = to_float32(obs).reshape(-1, width(layout))
            leaves = list(layout_leaves(layout))
            columns = np.split(rows, np.cumsum([width(leaf) for leaf in leaves])[:-1], axis=1)
            for leaf, block in zip(leaves, columns, strict=True):
                _check_values("obs, taken as already flattened,", leaf, block)
            return rows, obs.ndim == 1
    named = list(_named_arrays("obs", layout, obs))
    count = _common_count(named)
    if count == 0:
        return np.zeros((0, width(layout)), np.float32), False
    blocks = [flatten(leaf, array, count or 1) for _, leaf, array in named]
    for (name, leaf, _), block in zip(named, blocks, strict=True):
        _check_values(name, leaf, block)
    return np.concatenate(blocks, axis=1), count is None


def _fits(layout: Layout, shape: tuple[int, ...]) -> bool:
    """Returns whether an array of this shape is one observation that is no Dict or Tuple, or N of them."""
    if isinstance(layout, dict | list):
        return False
    axes = len(shape) - len(leaf_shape(layout))
    return axes in (0, 1) and shape[axes:] == leaf_shape(layout)


def _numbers(name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except Exception as error:  # Of a ragged list NumPy's, of an object of a user's whatever it may be.
        raise BadInput(f"{name} is of type {type(value).__name__}, no array: {' '.join(str(error).split())}") from error
    if not np.can_cast(array.dtype, np.float64, "same_kind"):
        raise BadInput(f"{name} is of type {type(value).__name__} and {array.dtype}: it must hold real numbers")
    return array


def _named_arrays(name: str, layout: Layout, obs: Any) -> Iterator[tuple[str, Any, np.ndarray]]:
    """The arrays of which observations consist, each with its name and its layout, once their shapes are checked."""
    if isinstance(layout, dict | list):
        _check_parts(name, layout, obs)
        for key, part in layout_parts(layout):
            yield from _named_arrays(f"{name}[{key!r}]", part, obs[key])
        return
    array, shape = _numbers(name, obs), leaf_shape(layout)
    if not _fits(layout, array.shape):
        many = f"({', '.join(map(str, ('N', *shape)))}{'' if shape else ','})"
        flat = f", or flattened (N, {width(layout)})" if name == "obs" and shape != (width(layout),) else ""
        raise BadInput(f"{name} has the shape {array.shape}: it must be {shape} for one, {many} for N of them{flat}")
    yield name, layout, array


def _check_parts(name: str, layout: dict[str, Any] | list[Any], obs: Any) -> None:
    is_dict = isinstance(layout, dict)
    wanted = f"a dict with the keys {', '.join(layout)}" if is_dict else f"a tuple of {len(layout)} parts"
    if not isinstance(obs, Mapping if is_dict else tuple | list):
        given = f"has the shape {obs.shape}" if isinstance(obs, np.ndarray) else f"is a {type(obs).__name__}"
        flat = f", or flattened, of shape (N, {width(layout)})" if name == "obs" else ""
        raise BadInput(f"{name} {given}: it must be {wanted}{flat}")
    if len(obs) != len(layout) or (isinstance(obs, Mapping) and obs.keys() != set(layout)):
        given = f"the keys {', '.join(map(str, obs))}" if is_dict else f"{len(obs)} parts"
        raise BadInput(f"{name} has {given}: it must be {wanted}")


def _common_count(named: list[tuple[str, Any, np.ndarray]]) -> int | None:
    """How many observations each of the arrays holds; None for one without an axis for N."""
    counts = [None if array.shape == leaf_shape(leaf) else len(array) for _, leaf, array in named]
    for (name, _, _), count in zip(named, counts, strict=True):
        if count != counts[0]:
            first, this = ("one without an axis for N" if each is None else each for each in (counts[0], count))
            raise BadInput(
                f"observations: {named[0][0]} holds {first}, {name} holds {this}; all parts must hold as many"
            )
    return counts[0]


def _check_values(name: str, leaf: Any, rows: np.ndarray) -> None:
    if isinstance(leaf, tuple):
        if not np.isfinite(rows).all():
            raise BadInput(f"{name} holds a number that is not finite in float32: there is no action for it")
        return
    valid = ((rows == 0) | (rows == 1)).all()
    if isinstance(leaf, OneHot) and valid:
        firsts = np.cumsum((0, *leaf.sizes[:-1]))
        valid = (np.add.reduceat(rows, firsts, axis=1) == 1).all()
    if not valid:
        raise BadInput(f"{name} holds a value that is not in its space, {describe(leaf)}")

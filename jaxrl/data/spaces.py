"""Observations as networks see them: flattened to rows of float32. No JAX.

The order and the values are those of `gymnasium.spaces.flatten`. A Box or a MultiBinary is taken in C order. A Discrete
becomes one-hot: a number for each of its values, of which the present one's is 1 and all others are 0. So does each
number of a MultiDiscrete, in C order. A Dict or a Tuple is its parts one after the other, and so on inwards. The parts
of a Dict are in the order of its keys as the space holds them; Gymnasium sorts the keys of a plain dict.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from jaxrl.errors import BadInput

MOST_VALUES = 2**20  # Of a one-hot observation: at this width a layer of 64 units already takes 256 MiB.


@dataclasses.dataclass(frozen=True)
class OneHot:
    """A Discrete, whose shape is (), or a MultiDiscrete: number i is one of `starts[i], ..., starts[i] + sizes[i] - 1`,
    in C order."""

    shape: tuple[int, ...]
    sizes: tuple[int, ...]
    starts: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Binary:
    """A MultiBinary: zeros and ones."""

    shape: tuple[int, ...]


# The shape of a Box; the layout of each part of a Dict; of each part of a Tuple.
Layout = tuple[int, ...] | OneHot | Binary | dict[str, Any] | list[Any]


def layout(space: spaces.Space) -> Layout:
    """Returns all that is needed to flatten the observations of a space.

    Raises:
      BadInput: the space or a part of it is of a kind that is not supported, or is empty.
    """
    if isinstance(space, spaces.Dict | spaces.Tuple):
        if not space.spaces:
            raise BadInput(f"observation space {type(space).__name__} is empty: it must have at least one part")
        if isinstance(space, spaces.Tuple):
            return [layout(part) for part in space.spaces]
        if odd := [key for key in space.spaces if not isinstance(key, str)]:
            raise BadInput(f"observation space Dict has the key {odd[0]!r}: its keys must be strings")
        return {key: layout(part) for key, part in space.spaces.items()}
    if not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        hint = "; gymnasium.wrappers.FlattenObservation makes a Box of it" if space.is_np_flattenable else ""
        raise BadInput(
            f"observation space {type(space).__name__} is not supported: it must be a Box, Discrete, MultiDiscrete or "
            f"MultiBinary, or a Dict or Tuple of these{hint}"
        )
    shape = tuple(space.shape or ())
    if math.prod(shape) == 0:
        raise BadInput(f"observation space of shape {shape} is empty: it must hold at least one number")
    if isinstance(space, spaces.MultiBinary):
        return Binary(shape)
    if isinstance(space, spaces.Box):
        return shape
    sizes = space.n if isinstance(space, spaces.Discrete) else space.nvec
    found = OneHot(shape, *(tuple(map(int, np.ravel(numbers))) for numbers in (sizes, space.start)))
    if width(found) > MOST_VALUES:
        raise BadInput(
            f"observation space {type(space).__name__} has {width(found):,} values, each of which becomes an input of "
            f"the networks: there must be at most {MOST_VALUES:,}; an ObservationWrapper can give a Box instead"
        )
    return found


def width(of: Layout) -> int:
    """Returns how many numbers a flattened observation has."""
    if isinstance(of, dict | list):
        return sum(width(part) for _, part in _parts(of))
    return sum(of.sizes) if isinstance(of, OneHot) else math.prod(_shape(of))


def flatten(of: Layout, obs: Any, num_rows: int) -> np.ndarray:
    """Flattens observations, as a vector environment gives them, to rows of float32.

    Args:
      of: the layout of one observation.
      obs: `num_rows` observations: an array with a leading axis, of a Dict or a Tuple its parts so.
      num_rows: how many they are.

    Returns:
      `(num_rows, S)` float32, in memory of its own: an environment may write its next observation over this one. A
      number that float32 cannot hold becomes infinite. Of a Discrete, MultiDiscrete or MultiBinary that holds a value
      which its space does not have, all numbers of that row become NaN.
    """
    if isinstance(of, tuple):
        return to_float32(obs).reshape(num_rows, -1)
    if isinstance(of, OneHot):
        return _one_hot(of, obs, num_rows)
    if isinstance(of, Binary):
        rows = to_float32(obs).reshape(num_rows, -1)
        rows[~((rows == 0) | (rows == 1)).all(1)] = np.nan
        return rows
    return np.concatenate([flatten(part, obs[key], num_rows) for key, part in _parts(of)], axis=1)


def describe(of: Layout) -> str:
    """Returns the layout in words: the shape of a Box, the parts' names and shapes in their order, and so on."""
    if isinstance(of, dict):
        return ", ".join(f"{key} {describe(part)}" for key, part in of.items())
    if isinstance(of, list):
        return f"Tuple({', '.join(map(describe, of))})"
    if isinstance(of, OneHot):
        kind = "MultiDiscrete" if of.shape else "Discrete"
        sizes, starts = (np.reshape(numbers, of.shape).tolist() for numbers in (of.sizes, of.starts))
        return f"{kind} {sizes} from {starts}"
    return f"MultiBinary {list(of.shape)}" if isinstance(of, Binary) else str(of)


def layout_to_json(of: Layout) -> Any:
    """Returns what `layout_from_json` makes the layout of again, JSON-able: a Box is its shape, a Dict an object, and
    anything else a list that begins with its name."""
    if isinstance(of, dict):
        return {key: layout_to_json(part) for key, part in of.items()}
    if isinstance(of, list):
        return ["Tuple", *map(layout_to_json, of)]
    return list(of) if isinstance(of, tuple) else [type(of).__name__, *map(list, dataclasses.astuple(of))]


def layout_from_json(record: Any) -> Layout:
    """Returns the layout that `layout_to_json` wrote."""
    if isinstance(record, dict):
        return {key: layout_from_json(part) for key, part in record.items()}
    match record:
        case ["Tuple", *parts]:
            return [layout_from_json(part) for part in parts]
        case ["OneHot", shape, sizes, starts]:
            return OneHot(tuple(shape), tuple(sizes), tuple(starts))
        case ["Binary", shape]:
            return Binary(tuple(shape))
    return tuple(record)


def what_is_wrong(of: Layout) -> str:
    """Returns what can be wrong with an observation that `flatten` turned into a row which is not finite."""
    boxes_only = all(isinstance(leaf, tuple) for leaf in _leaves(of))
    return "not finite" if boxes_only else "not finite, or not in its space"


def observation_at(obs: Any, index: int) -> Any:
    """Returns one of the observations that a vector environment gives together."""
    if isinstance(obs, Mapping):
        return {key: observation_at(part, index) for key, part in obs.items()}
    if isinstance(obs, tuple):
        return tuple(observation_at(part, index) for part in obs)
    return obs[index]


def rows_of(of: Layout, obs: Any) -> tuple[np.ndarray, bool]:
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
      of: the layout of one observation.
      obs: the observations.

    Returns:
      `(N, S)` float32, in memory of its own, and whether it is one observation that came without an axis for N.

    Raises:
      BadInput: the observations have another structure or shape; or they are not numbers, not finite in float32, or
        not in their space where that is a Discrete, MultiDiscrete or MultiBinary.
    """
    in_parts = (isinstance(of, dict) and isinstance(obs, Mapping)) or (
        isinstance(of, list) and isinstance(obs, tuple | list)
    )
    if not in_parts:
        obs = _numbers("obs", obs)
        if not _fits(of, obs.shape) and obs.ndim in (1, 2) and obs.shape[-1] == width(of):
            rows = to_float32(obs).reshape(-1, width(of))
            leaves = list(_leaves(of))
            columns = np.split(rows, np.cumsum([width(leaf) for leaf in leaves])[:-1], axis=1)
            for leaf, block in zip(leaves, columns, strict=True):
                _check_values("obs, taken as already flattened,", leaf, block)
            return rows, obs.ndim == 1
    named = list(_named_arrays("obs", of, obs))
    count = _common_count(named)
    if count == 0:
        return np.zeros((0, width(of)), np.float32), False
    blocks = [flatten(leaf, array, count or 1) for _, leaf, array in named]
    for (name, leaf, _), block in zip(named, blocks, strict=True):
        _check_values(name, leaf, block)
    return np.concatenate(blocks, axis=1), count is None


def _parts(of: dict[str, Any] | list[Any]) -> Iterable[tuple[Any, Layout]]:
    return of.items() if isinstance(of, dict) else enumerate(of)


def _leaves(of: Layout) -> Iterator[Any]:
    """What is neither a Dict nor a Tuple, in the order of the row."""
    if isinstance(of, dict | list):
        for _, part in _parts(of):
            yield from _leaves(part)
    else:
        yield of


def _shape(leaf: Any) -> tuple[int, ...]:
    return leaf if isinstance(leaf, tuple) else leaf.shape


def to_float32(numbers: Any) -> np.ndarray:
    """A copy in float32. A number that float32 cannot hold becomes infinite or zero, whatever `np.seterr` says."""
    if getattr(numbers, "dtype", None) == np.float32:
        return numbers.copy()
    with np.errstate(all="ignore"):
        return np.array(numbers, np.float32)


def _one_hot(of: OneHot, obs: Any, num_rows: int) -> np.ndarray:
    number, value = _columns(of)
    hit = np.asarray(obs).reshape(num_rows, len(of.sizes))[:, number] == value
    rows = hit.astype(np.float32)
    rows[hit.sum(1) != len(of.sizes)] = np.nan
    return rows


@functools.lru_cache(maxsize=64)
def _columns(of: OneHot) -> tuple[np.ndarray, np.ndarray]:
    """Of each column of a one-hot row, the number that it belongs to, by index, and the value that it stands for."""
    number = np.repeat(np.arange(len(of.sizes)), of.sizes)
    values = [np.arange(start, start + size) for start, size in zip(of.starts, of.sizes, strict=True)]
    return number, np.concatenate(values)


def _fits(of: Layout, shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape is one observation that is no Dict or Tuple, or N of them."""
    if isinstance(of, dict | list):
        return False
    axes = len(shape) - len(_shape(of))
    return axes in (0, 1) and shape[axes:] == _shape(of)


def _numbers(name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except Exception as error:  # Of a ragged list NumPy's, of an object of a user's whatever it may be.
        raise BadInput(f"{name} is of type {type(value).__name__}, no array: {' '.join(str(error).split())}") from error
    if not np.can_cast(array.dtype, np.float64, "same_kind"):
        raise BadInput(f"{name} is of type {type(value).__name__} and {array.dtype}: it must hold real numbers")
    return array


def _named_arrays(name: str, of: Layout, obs: Any) -> Iterator[tuple[str, Any, np.ndarray]]:
    """The arrays of which observations consist, each with its name and its layout, once their shapes are checked."""
    if isinstance(of, dict | list):
        _check_parts(name, of, obs)
        for key, part in _parts(of):
            yield from _named_arrays(f"{name}[{key!r}]", part, obs[key])
        return
    array, shape = _numbers(name, obs), _shape(of)
    if not _fits(of, array.shape):
        many = f"({', '.join(map(str, ('N', *shape)))}{'' if shape else ','})"
        flat = f", or flattened (N, {width(of)})" if name == "obs" and shape != (width(of),) else ""
        raise BadInput(f"{name} has the shape {array.shape}: it must be {shape} for one, {many} for N of them{flat}")
    yield name, of, array


def _check_parts(name: str, of: dict[str, Any] | list[Any], obs: Any) -> None:
    wanted = f"a dict with the keys {', '.join(of)}" if isinstance(of, dict) else f"a tuple of {len(of)} parts"
    if not isinstance(obs, Mapping if isinstance(of, dict) else tuple | list):
        given = f"has the shape {obs.shape}" if isinstance(obs, np.ndarray) else f"is a {type(obs).__name__}"
        flat = f", or flattened, of shape (N, {width(of)})" if name == "obs" else ""
        raise BadInput(f"{name} {given}: it must be {wanted}{flat}")
    if len(obs) != len(of) or (isinstance(obs, Mapping) and obs.keys() != set(of)):
        given = f"the keys {', '.join(map(str, obs))}" if isinstance(of, dict) else f"{len(obs)} parts"
        raise BadInput(f"{name} has {given}: it must be {wanted}")


def _common_count(named: list[tuple[str, Any, np.ndarray]]) -> int | None:
    """How many observations each of the arrays holds; None for one without an axis for N."""
    counts = [None if array.shape == _shape(leaf) else len(array) for _, leaf, array in named]
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

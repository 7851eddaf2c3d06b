"""Observations as networks see them: flattened to rows of float32. No JAX; Gymnasium only where a space is given.

The order and the values are those of `gymnasium.spaces.flatten`. A Box or a MultiBinary is taken in C order. A Discrete
becomes one-hot: a number for each of its values, of which the present one's is 1 and all others are 0. So does each
number of a MultiDiscrete, in C order. A Dict or a Tuple is its parts one after the other, and so on inwards. The parts
of a Dict are in the order of its keys as the space holds them; Gymnasium sorts the keys of a plain dict.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrl.errors import BadInput

if TYPE_CHECKING:
    from gymnasium import spaces

MAX_ONE_HOT_VALUES = 2**20  # Of a one-hot observation: at this width a layer of 64 units already takes 256 MiB.


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


def layout(space: "spaces.Space") -> Layout:
    """Returns all that is needed to flatten the observations of a space.

    Raises:
      BadInput: the space or a part of it is of a kind that is not supported, or is empty.
    """
    from gymnasium import spaces

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
    if width(found) > MAX_ONE_HOT_VALUES:
        raise BadInput(
            f"observation space {type(space).__name__} has {width(found):,} values, each of which becomes an input of "
            f"the networks: there must be at most {MAX_ONE_HOT_VALUES:,}; an ObservationWrapper can give a Box instead"
        )
    return found


def width(layout: Layout) -> int:
    """Returns how many numbers a flattened observation has."""
    if isinstance(layout, dict | list):
        return sum(width(part) for _, part in layout_parts(layout))
    return sum(layout.sizes) if isinstance(layout, OneHot) else math.prod(leaf_shape(layout))


def flatten(layout: Layout, obs: Any, num_rows: int) -> np.ndarray:
    """Flattens observations, as a vector environment gives them, to rows of float32.

    Args:
      layout: of one observation.
      obs: `num_rows` observations: an array with a leading axis, of a Dict or a Tuple its parts so.
      num_rows: how many they are.

    Returns:
      `(num_rows, S)` float32, in memory of its own: an environment may write its next observation over this one. A
      number that float32 cannot hold becomes infinite. Of a Discrete, MultiDiscrete or MultiBinary that holds a value
      which its space does not have, all numbers of that row become NaN.
    """
    if isinstance(layout, tuple):
        return to_float32(obs).reshape(num_rows, -1)
    if isinstance(layout, OneHot):
        return _one_hot(layout, obs, num_rows)
    if isinstance(layout, Binary):
        rows = to_float32(obs).reshape(num_rows, -1)
        rows[~((rows == 0) | (rows == 1)).all(1)] = np.nan
        return rows
    return np.concatenate([flatten(part, obs[key], num_rows) for key, part in layout_parts(layout)], axis=1)


def describe(layout: Layout) -> str:
    """Returns the layout in words: the shape of a Box, the parts' names and shapes in their order, and so on."""
    if isinstance(layout, dict):
        return ", ".join(f"{key} {describe(part)}" for key, part in layout.items())
    if isinstance(layout, list):
        return f"Tuple({', '.join(map(describe, layout))})"
    if isinstance(layout, OneHot):
        kind = "MultiDiscrete" if layout.shape else "Discrete"
        sizes, starts = (np.reshape(numbers, layout.shape).tolist() for numbers in (layout.sizes, layout.starts))
        return f"{kind} {sizes} from {starts}"
    return f"MultiBinary {list(layout.shape)}" if isinstance(layout, Binary) else str(layout)


def layout_to_json(layout: Layout) -> Any:
    """Returns what `layout_from_json` makes the layout of again, JSON-able: a Box is its shape, a Dict an object, and
    anything else a list that begins with its name."""
    if isinstance(layout, dict):
        return {key: layout_to_json(part) for key, part in layout.items()}
    if isinstance(layout, list):
        return ["Tuple", *map(layout_to_json, layout)]
    if isinstance(layout, tuple):
        return list(layout)
    return [type(layout).__name__, *map(list, dataclasses.astuple(layout))]


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


def what_is_wrong(layout: Layout) -> str:
    """Returns what can be wrong with an observation that `flatten` turned into a row which is not finite."""
    boxes_only = all(isinstance(leaf, tuple) for leaf in layout_leaves(layout))
    return "not finite" if boxes_only else "not finite, or not in its space"


def observation_at(obs: Any, index: int) -> Any:
    """Returns one of the observations that a vector environment gives together."""
    if isinstance(obs, Mapping):
        return {key: observation_at(part, index) for key, part in obs.items()}
    if isinstance(obs, tuple):
        return tuple(observation_at(part, index) for part in obs)
    return obs[index]


def layout_parts(layout: dict[str, Any] | list[Any]) -> Iterable[tuple[Any, Layout]]:
    """Returns the parts of a Dict or a Tuple, each with its key or its index."""
    return layout.items() if isinstance(layout, dict) else enumerate(layout)


def layout_leaves(layout: Layout) -> Iterator[Any]:
    """Yields the layout of each part that is neither a Dict nor a Tuple, in the order of the row."""
    if isinstance(layout, dict | list):
        for _, part in layout_parts(layout):
            yield from layout_leaves(part)
    else:
        yield layout


def leaf_shape(leaf: Any) -> tuple[int, ...]:
    """Returns the shape of one observation of a space that is neither a Dict nor a Tuple."""
    return leaf if isinstance(leaf, tuple) else leaf.shape


def to_float32(numbers: Any) -> np.ndarray:
    """Returns a copy in float32. A number that it cannot hold becomes infinite or zero, whatever `np.seterr` says."""
    if getattr(numbers, "dtype", None) == np.float32:
        return numbers.copy()
    with np.errstate(all="ignore"):
        return np.array(numbers, np.float32)


def _one_hot(layout: OneHot, obs: Any, num_rows: int) -> np.ndarray:
    number, value = one_hot_columns(layout)
    hit = np.asarray(obs).reshape(num_rows, len(layout.sizes))[:, number] == value
    rows = hit.astype(np.float32)
    rows[hit.sum(1) != len(layout.sizes)] = np.nan
    return rows


@functools.lru_cache(maxsize=64)
def one_hot_columns(layout: OneHot) -> tuple[np.ndarray, np.ndarray]:
    """Returns the number that each column of a one-hot row belongs to, by index, and the value that it stands for."""
    number = np.repeat(np.arange(len(layout.sizes)), layout.sizes)
    values = [np.arange(start, start + size) for start, size in zip(layout.starts, layout.sizes, strict=True)]
    return number, np.concatenate(values)

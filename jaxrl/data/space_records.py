"""Spaces as JSON, and back again: what a record of a policy says of the environment that it was made for."""

import math
from collections import OrderedDict
from typing import Any

import numpy as np
from gymnasium import spaces

from jaxrl.errors import BadInput


def space_to_json(space: spaces.Space) -> dict[str, Any]:
    """A Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of these, JSON-able: its kind and what it needs.

    Bounds that are the same everywhere are one number; infinite ones are "inf" and "-inf".
    """
    if isinstance(space, spaces.Dict):
        return {"kind": "Dict", "spaces": {key: space_to_json(part) for key, part in space.spaces.items()}}
    if isinstance(space, spaces.Tuple):
        return {"kind": "Tuple", "spaces": [space_to_json(part) for part in space.spaces]}
    if isinstance(space, spaces.Box):
        low, high = _numbers(space.low), _numbers(space.high)
        return {"kind": "Box", "low": low, "high": high, "shape": list(space.shape), "dtype": space.dtype.name}
    if isinstance(space, spaces.Discrete):
        return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        nvec, start = space.nvec.tolist(), space.start.tolist()
        return {"kind": "MultiDiscrete", "nvec": nvec, "start": start, "dtype": np.dtype(space.dtype).name}
    if isinstance(space, spaces.MultiBinary):
        return {"kind": "MultiBinary", "shape": list(space.shape)}
    raise BadInput(f"space {type(space).__name__} cannot be recorded")


def space_from_json(record: Any) -> spaces.Space:
    """The space that `space_to_json` wrote."""
    match record:
        case {"kind": "Dict", "spaces": parts}:
            return spaces.Dict(OrderedDict((key, space_from_json(part)) for key, part in parts.items()))
        case {"kind": "Tuple", "spaces": parts}:
            return spaces.Tuple([space_from_json(part) for part in parts])
        case {"kind": "Box", "low": low, "high": high, "shape": shape, "dtype": dtype}:
            low, high = (_array(bound, tuple(shape), dtype) for bound in (low, high))
            return spaces.Box(low, high, dtype=np.dtype(dtype).type)
        case {"kind": "Discrete", "n": n, "start": start}:
            return spaces.Discrete(n, start=start)
        case {"kind": "MultiDiscrete", "nvec": nvec, "start": start, "dtype": dtype}:
            return spaces.MultiDiscrete(nvec, dtype=np.dtype(dtype).type, start=start)
        case {"kind": "MultiBinary", "shape": shape}:
            return spaces.MultiBinary(shape)
    raise ValueError(f"{record} describes no space")


def _numbers(bound: np.ndarray) -> Any:
    """An array in plain numbers; one number where all are equal."""
    if (bound == bound.flat[0]).all():
        return _number(bound.flat[0].item())
    return [_number(each) for each in bound.ravel().tolist()]


def _number(number: Any) -> Any:
    return str(number) if math.isinf(number) else number


def _array(numbers: Any, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    plain = [float(each) if isinstance(each, str) else each for each in numbers] if isinstance(numbers, list) else []
    return (
        np.array(plain, dtype).reshape(shape)
        if plain
        else np.full(shape, float(numbers) if isinstance(numbers, str) else numbers, dtype)
    )

"""Checks of the answers of environments against what Gymnasium asks of them. No JAX here.

An answer whose meaning is plain is taken, such as a reward of shape `(1,)`. Any other raises ValueError, whose message
says what the environment gave and what it must give.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from jaxrl.data.spaces import to_float32

ANSWER_RULES = {
    "step": (5, "a step must give five values: observation, reward, terminated, truncated and info"),
    "reset": (2, "a reset must give two values: observation and info"),
}


def parts_of(answer: Any, method: str) -> Sequence[Any]:
    """The values that `step` or `reset` has given, as many as there must be."""
    number, rule = ANSWER_RULES.get(method, (None, ""))
    if number is not None and (not isinstance(answer, tuple | list) or len(answer) != number):
        raise ValueError(f"gave {_kind(answer)}: {rule}")
    return answer


def unpacking_rule(error: BaseException) -> str:
    """The rule that an environment breaks where a wrapper cannot unpack its answer; else nothing."""
    text = str(error)
    if not isinstance(error, ValueError) or "values to unpack" not in text:
        return ""
    return f"; {ANSWER_RULES['step' if 'expected 5' in text else 'reset'][1]}"


def number(name: str, value: Any) -> float:
    """The number that a scalar is, or that an array of any shape holds alone."""
    try:
        return _number(value)
    except (TypeError, ValueError):
        raise ValueError(f"gave {_kind(value)} as {name}: it must be one number") from None


def flag(name: str, value: Any) -> bool:
    """The truth value that a scalar is, or that an array of any shape holds alone."""
    if isinstance(value, np.bool_):
        return bool(value)
    try:
        return {0.0: False, 1.0: True}[_number(value)]
    except (TypeError, ValueError, KeyError):
        raise ValueError(f"gave {_kind(value)} as {name}: it must be True or False") from None


def numbers(name: str, values: Any, num_envs: int) -> np.ndarray:
    """A copy of one number for each environment, `(N,)`: of what is shaped so, or is a column or a row of N."""
    try:
        array = np.array(values)
        array = array.astype(np.float64) if array.dtype.kind == "O" else array
    except (TypeError, ValueError, OverflowError):
        array = np.array("none")
    if array.shape == (num_envs,) and array.dtype.kind in "fbiu":
        return array
    if array.size != num_envs or max(array.shape, default=1) != num_envs or array.dtype.kind in "SUMmc":
        raise ValueError(f"gave {_kind(values)} as {name}: it must be numbers of shape ({num_envs},)")
    return array.reshape(num_envs)


def flags(name: str, values: Any, num_envs: int) -> np.ndarray:
    """As `numbers`, of truth values."""
    array = numbers(name, values, num_envs)
    if array.dtype == np.bool_:
        return array
    if not ((array == 0) | (array == 1)).all():
        raise ValueError(f"gave {name} {array.tolist()}: each must be True or False")
    return array.astype(np.bool_)


def narrowed(reward: np.ndarray) -> np.ndarray:
    """Rewards, which float32 can hold, in float32."""
    try:
        return reward.astype(np.float32)
    except FloatingPointError:  # One underflows, where `np.seterr` says to raise. To ask for that costs more than this.
        return to_float32(reward)


def check_shape(space: spaces.Space, obs: Any, num_envs: int | None = None) -> None:
    """Raises ValueError unless observations have the shape that their space says.

    Args:
      space: of one observation.
      obs: one observation; or those of N environments in one array, `(N, ...)`, or flattened, `(N, S)`. Of a Dict each
        part so.
      num_envs: N; None for one observation.
    """
    if (wrong := _misfit(space, obs, num_envs)) is not None:
        raise ValueError(f"gave an observation {wrong}")


def _number(value: Any) -> float:
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biufO":
        raise ValueError
    try:
        return float(array.item())
    except OverflowError:  # An int that no float holds.
        return math.inf


def _misfit(space: spaces.Space, obs: Any, num_envs: int | None) -> str | None:
    """How an observation differs from its space, in words; None where it does not."""
    if isinstance(space, spaces.Dict):
        if not isinstance(obs, Mapping):
            return f"that is {_kind(obs)}: observation_space says a dict"
        parts: list[tuple[Any, spaces.Space, Any]]
        parts = [(key, part, obs.get(key)) for key, part in space.spaces.items()]
    elif isinstance(space, spaces.Tuple):
        if not isinstance(obs, tuple | list) or len(obs) != len(space.spaces):
            return f"that is {_kind(obs)}: observation_space says a tuple of {len(space.spaces)}"
        parts = [(index, part, obs[index]) for index, part in enumerate(space.spaces)]
    else:
        return _misfit_of_array(space, obs, num_envs)
    for key, part, value in parts:
        if value is None:
            return f"without the part {key!r} that observation_space has"
        if (wrong := _misfit(part, value, num_envs)) is not None:
            return f"with a part {key!r} {wrong}"
    return None


def _misfit_of_array(space: spaces.Space, obs: Any, num_envs: int | None) -> str | None:
    if space.shape is None:
        return None
    try:
        shape = np.shape(obs)
    except ValueError:
        return "whose rows differ in length"
    wanted = space.shape if num_envs is None else (num_envs, *space.shape)
    flat = wanted if num_envs is None else (num_envs, math.prod(space.shape))
    if shape in (wanted, flat) or (num_envs == 1 and shape == space.shape):
        return None
    return f"of shape {shape}: observation_space says {wanted}"


def _kind(value: Any) -> str:
    """A value's type and shape, in few words."""
    if value is None or isinstance(value, str | bool | int | float):
        return repr(value)[:40]
    if isinstance(value, tuple | list | dict):
        return f"a {type(value).__name__} of {len(value)}"
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" + (f" of shape {tuple(shape)}" if isinstance(shape, tuple) else "")

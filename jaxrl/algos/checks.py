"""Spaces and numbers that a kernel can work with, checked before anything is built. Each check names the culprit, what
is wrong with it, and what would be right."""

import gc
import math
from collections.abc import Mapping
from typing import Any, TypeVar, get_args, get_type_hints

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from jaxrl.data.memory import NEGLIGIBLE, free_bytes
from jaxrl.data.transition import Transition
from jaxrl.errors import BadInput

Config = TypeVar("Config", bound=struct.PyTreeNode)

# Of a float32: a larger number is finite here and infinite where the kernels compute.
LARGEST = float(np.finfo(np.float32).max)
POSITIVE = float(np.finfo(np.float32).tiny), LARGEST  # XLA takes anything smaller for 0.
NOT_NEGATIVE = 0.0, LARGEST
COUNT = 1.0, LARGEST
FRACTION = 0.0, 1.0
RATE = 0.0, 1e6  # Beyond it a single step leaves the numbers that float32 can square.
WIDEST = 2**14


def check_actor_critic(
    config: Any,
    kind: type,
    ranges: Mapping[str, tuple[float, float]],
    observation_space: spaces.Space,
    action_space: spaces.Space,
    algo: str,
) -> None:
    """Raises BadInput unless `config` is a `kind` with its numbers in their ranges, and the spaces are those of one
    environment, with actions that `check_continuous` accepts."""
    check_kind("config", config, kind)
    check_single(observation_space, action_space)
    check_continuous(action_space, algo)
    check_numbers(config, ranges)


def check_kind(name: str, value: Any, kind: type) -> None:
    """Raises BadInput unless `value`, which the caller knows as `name`, is a `kind`."""
    if not isinstance(value, kind):
        raise BadInput(f"{name} is {described(value)}: it must be a {kind.__name__}")


def check_key(key: Any) -> None:
    """Raises BadInput unless `key` is one JAX key, of either style."""
    try:
        jax.eval_shape(jax.random.split, key)
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"key is {described(key)}: it must be one JAX key, such as jax.random.key(0); jax.vmap takes several"
        ) from error


def described(value: Any) -> str:
    """A value as a complaint names it: a number or a text itself, of all else the kind."""
    if isinstance(value, int | float | str | None):
        return repr(value)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    shape = f" of shape {value.shape} and {value.dtype}" if hasattr(value, "dtype") and hasattr(value, "shape") else ""
    return f"a {type(value).__name__}{shape}"


def check_single(observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """Raises BadInput if a space is a vector environment's for all of its environments together.

    Nothing in such a space says so: `(4, 3)` may be the observations of four environments, or of one with four robots.
    So the vector environments that exist are asked whether it is theirs. It takes a tenth of a second to find them,
    which is spent only where a space has an axis that could be the environments'.
    """
    both = {"observation_space": observation_space, "action_space": action_space}
    for name, space in both.items():
        if isinstance(space, VectorEnv):
            raise BadInput(f"{name} is a {type(space).__name__}: give its single_{name}")
        check_kind(name, space, spaces.Space)
    if not any(map(_may_be_batched, both.values())):
        return
    for owner in [each for each in gc.get_objects() if issubclass(type(each), VectorEnv)]:
        for name, space in both.items():
            if getattr(owner, name, None) is space and getattr(owner, f"single_{name}", None) is not space:
                raise BadInput(
                    f"{name} is that of all environments of a {type(owner).__name__} together: give its "
                    "single_observation_space and its single_action_space"
                )


def _may_be_batched(space: spaces.Space) -> bool:
    if isinstance(space, spaces.Dict):
        return any(map(_may_be_batched, space.spaces.values()))
    return isinstance(space, spaces.MultiDiscrete) or (isinstance(space, spaces.Box) and len(space.shape) > 1)


def check_width(name: str, obs: Any, width: int) -> None:
    """Raises BadInput unless the last axis of `obs`, which the caller knows as `name`, is an observation."""
    shape = jnp.shape(obs)
    if shape[-1:] != (width,):
        hint = several(width, *shape[-1:])
        raise BadInput(f"{name} has the shape {shape}: its last axis must be an observation's {width} numbers{hint}")


def several(width: int, found: int = 0) -> str:
    """The end of a complaint that an array's last axis is `found` and not `width`, where its spaces may be why."""
    if found in (0, width) or width % found:
        return ""
    return f"; {width} is {width // found} x {found}: a state must be made with a vector environment's single spaces"


def check_batch_widths(batch: Transition, obs_dim: int, action_dim: int) -> None:
    """Raises AssertionError, naming the field, unless a batch's observations are `(B, obs_dim)` and its actions
    `(B, action_dim)`."""
    for name, field, letter, size in (("obs", batch.obs, "S", obs_dim), ("action", batch.action, "A", action_dim)):
        words = f"batch.{name} must be (B, {letter}) with {letter} = {size}{several(size, *jnp.shape(field)[-1:])}"
        chex.assert_shape(field, (len(batch.reward), size), custom_message=words)


def check_fits(what: str, size: float) -> None:
    """Raises BadInput if `size` bytes, which `what` takes, are more than there is."""
    if size > NEGLIGIBLE and size > (free := free_bytes()):
        raise BadInput(f"{what} takes {size / 2**30:,.1f} GiB, and {free / 2**30:,.1f} are free")


def check_network_memory(config: Any, num_parameters: int, copies: int, observations: int, outputs: int) -> None:
    """Raises BadInput if networks do not fit into memory with all that an update makes for each of their parameters.

    Args:
      config: has their `hidden_sizes`.
      num_parameters: of all networks together.
      copies: how many numbers an update has for each: itself, its gradient, Adam's two moments, ...
      observations, outputs: how many numbers go into the actor, and come out.
    """
    check_fits(
        f"a state of {num_parameters:,} parameters (hidden_sizes {config.hidden_sizes}, {observations:,} numbers "
        f"observed, {outputs:,} of the policy's), with gradients and Adam's moments,",
        num_parameters * copies * jnp.dtype(jnp.result_type(float)).itemsize,
    )


def check_box_actions(space: spaces.Box) -> None:
    """Accepts a Box of real numbers, of any shape, with finite bounds, low below high; raises BadInput for anything
    else."""
    if math.prod(space.shape) == 0 or not np.issubdtype(space.dtype, np.floating):
        raise BadInput(
            f"action space Box of shape {space.shape} and {space.dtype} is not supported: real numbers are, one or "
            "more; a MultiDiscrete holds whole ones"
        )
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise BadInput(
            f"action space is unbounded, from {space.low.min()} to {space.high.max()}: its bounds must be finite; "
            "gymnasium.wrappers.TransformAction sets some"
        )
    if np.maximum(np.abs(space.low), np.abs(space.high)).max() > LARGEST / 2:
        raise BadInput(
            f"action space reaches from {space.low.min()} to {space.high.max()}, which float32 cannot compute with: "
            "its bounds must be smaller"
        )
    if not (space.low < space.high).all():
        raise BadInput("action space has a lower bound that is not below its upper bound")


def check_vectors(space: spaces.Space) -> None:
    """Raises BadInput if observations hold pixels, which built-in networks cannot learn from."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        for part in space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces:
            check_vectors(part)
    elif is_pixels(space):
        raise BadInput(
            f"observation space of pixels, {space.shape} uint8, is not supported: the built-in networks are fully "
            "connected and want a vector of features; networks of your own can take pixels"
        )


def is_pixels(space: spaces.Space) -> bool:
    """True if observations are a picture: whole numbers from 0 to 255, of two or more axes."""
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) > 1


def bounds(space: spaces.Space) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The lower and the upper bounds of a Box's numbers, flattened."""
    assert isinstance(space, spaces.Box)
    low, high = (tuple(map(float, np.ravel(bound))) for bound in (space.low, space.high))
    return low, high


def check_continuous(space: spaces.Space, algo: str) -> None:
    """Accepts what `check_box_actions` does; raises BadInput, naming the algorithm, for anything else."""
    if not isinstance(space, spaces.Box):
        kind = type(space).__name__
        whole = isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)
        also = f"; ppo and ppo_kl take {kind} ones" if whole else ""
        raise BadInput(f"action space {kind} is not supported by {algo}, which takes Box actions{also}")
    check_box_actions(space)


def check_numbers(config: Any, ranges: Mapping[str, tuple[float, float]], stacked: bool = False) -> None:
    """Raises BadInput unless each named field of `config` is a number in its closed range, or if `stacked` an array of
    them. Tracers pass, and None where the field's type has it."""
    types = get_type_hints(type(config))
    for name, (low, high) in ranges.items():
        number = getattr(config, name)
        if isinstance(number, jax.core.Tracer) or (number is None and type(None) in get_args(types[name])):
            continue
        exact = _exact(number)
        if exact is None or (exact.ndim and not stacked):
            raise BadInput(f"{name} is {described(number)}: it must be one number")
        if not np.all((low <= exact) & (exact <= high)):
            bound = f"at least {low:g} and finite" if high == LARGEST else f"between {low:g} and {high:g}"
            bound = "positive and finite" if (low, high) == POSITIVE else bound
            raise BadInput(f"{name} is {number}: it must be {bound}")


def _exact(number: Any) -> np.ndarray | None:
    """A number or several in float64; None if it is no real number."""
    if number is None or isinstance(number, str | bytes) or np.iscomplexobj(number):
        return None
    try:
        return np.asarray(jax.device_get(number), np.float64)
    except (TypeError, ValueError):
        return None


def check_whole(config: Any, *names: str) -> None:
    """Raises BadInput unless each named field of `config` is a whole number."""
    for name in names:
        number = getattr(config, name)
        if not _is_whole(number):
            raise BadInput(f"{name} is {described(number)}: it must be a whole number")


def _is_whole(number: Any) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool)


def check_hidden_sizes(hidden_sizes: Any, at_least: int) -> None:
    """Raises BadInput unless `hidden_sizes` is a tuple of `at_least` or more widths from 1 to 16,384."""
    whole = isinstance(hidden_sizes, tuple) and all(map(_is_whole, hidden_sizes))
    if not whole or len(hidden_sizes) < at_least or min(hidden_sizes, default=1) < 1:
        raise BadInput(f"hidden_sizes {hidden_sizes}: it must be a tuple of {at_least} or more widths of at least 1")
    if max(hidden_sizes, default=1) > WIDEST:
        raise BadInput(f"hidden_sizes {hidden_sizes}: a width must be at most {WIDEST:,}")


def strong(config: Config) -> Config:
    """Every number as an array of the default float type: a Python float is weakly typed and would trace anew later."""
    return jax.tree.map(lambda x: _as_array(x, jnp.result_type(float)), config)


def with_numbers(
    config: Config, numbers: Mapping[str, float], ranges: Mapping[str, tuple[float, float]], init: str
) -> Config:
    """A state's config with some of its numbers changed, in the types that they had; BadInput if they cannot be."""
    for name in numbers:
        if not isinstance(getattr(config, name, None), jax.Array | np.ndarray):
            raise BadInput(f"{name} is no number of this state's config: what is static or off is set at {init}")
    arrays = {name: _as_array(number, getattr(config, name).dtype) for name, number in numbers.items()}
    config = config.replace(**arrays)
    check_numbers(config, ranges, stacked=True)
    return config


@np.errstate(all="ignore")
def _as_array(number: Any, dtype: Any) -> jax.Array:
    """The number on the device, put there on purpose: JAX's transfer guard stops `jnp.asarray` of a Python number."""
    return number.astype(dtype) if isinstance(number, jax.Array) else jax.device_put(np.asarray(number, dtype))

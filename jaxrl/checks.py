"""What a kernel can work with: spaces and numbers, checked before anything is built. Each check names the culprit, what
is wrong with it, and what would be right."""

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnasium import spaces

from jaxrl.errors import BadInput

Config = TypeVar("Config", bound=struct.PyTreeNode)

# Of a float32: a larger number is finite here and infinite where the kernels compute.
LARGEST = float(np.finfo(np.float32).max)
POSITIVE = math.ulp(0.0), LARGEST
NOT_NEGATIVE = 0.0, LARGEST
COUNT = 1.0, LARGEST
FRACTION = 0.0, 1.0
RATE = 0.0, 1e6  # Beyond it a single step leaves the numbers that float32 can square.
WIDEST = 2**14


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


def check_numbers(config: Any, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Raises BadInput unless each named number of `config` lies in its closed range. None and tracers pass."""
    for name, (low, high) in ranges.items():
        number = getattr(config, name)
        if number is None or isinstance(number, jax.core.Tracer):
            continue
        exact = np.asarray(number, np.float64)
        if not np.all((low <= exact) & (exact <= high)):
            bound = f"at least {low:g} and finite" if high == LARGEST else f"between {low:g} and {high:g}"
            bound = "positive and finite" if (low, high) == POSITIVE else bound
            raise BadInput(f"{name} is {number}: it must be {bound}")


def check_hidden_sizes(hidden_sizes: Any, at_least: int) -> None:
    """Raises BadInput unless `hidden_sizes` is a tuple of `at_least` or more widths from 1 to 16,384."""
    if not isinstance(hidden_sizes, tuple) or len(hidden_sizes) < at_least or min(hidden_sizes) < 1:
        raise BadInput(f"hidden_sizes {hidden_sizes}: it must be a tuple of {at_least} or more widths of at least 1")
    if max(hidden_sizes) > WIDEST:
        raise BadInput(f"hidden_sizes {hidden_sizes}: a width must be at most {WIDEST:,}")


def strong(config: Config) -> Config:
    """Every number as an array of the default float type: a Python float is weakly typed and would trace anew later."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(float)), config)


def with_numbers(
    config: Config, numbers: Mapping[str, float], ranges: Mapping[str, tuple[float, float]], init: str
) -> Config:
    """A state's config with some of its numbers changed, in the types that they had; BadInput if they cannot be."""
    for name in numbers:
        if not isinstance(getattr(config, name, None), jax.Array | np.ndarray):
            raise BadInput(f"{name} is no number of this state's config: what is static or off is set at {init}")
    arrays = {name: jnp.asarray(number, getattr(config, name).dtype) for name, number in numbers.items()}
    config = config.replace(**arrays)
    check_numbers(config, ranges)
    return config

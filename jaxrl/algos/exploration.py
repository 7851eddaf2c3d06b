"""How policies explore: the action that is drawn from a policy's output, as it is recorded and as the environment gets
it.

Noise that is drawn anew at every step cancels itself out where a task answers slowly: a car in a valley must be pushed
the same way for many steps. With a correlation, the noise of a step is in part that of the step before.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrl.errors import BadInput
from jaxrl.ops.continuous import DiagGaussian, TanhGaussian


class Noise(NamedTuple):
    """What an action is to be drawn with, in place of a generator.

    Attributes:
      numbers: `(N, A)`, each standard normal; NumPy's on the host.
    """

    numbers: Array | np.ndarray


def sample(output: Any, source: Any, settings: Any, bounds: Any) -> tuple[Any, Any]:
    """An action drawn from a distribution, as it is recorded and as the environment gets it."""
    action = _draw(output, source)
    return action, output.to_env(action)


def add_noise(output: Any, source: Any, settings: Any, bounds: tuple[np.ndarray, np.ndarray]) -> tuple[Any, Any]:
    """The deterministic action with Gaussian noise, clipped to the bounds."""
    low, high = bounds
    mode = output.mode()
    numbers = _standard_normal(source, mode)
    if not isinstance(numbers, np.ndarray):
        lowest, highest, reach = (jnp.asarray(each[None], mode.dtype) for each in (low, high, (high - low) / 2))
        scale = jnp.asarray(settings.exploration_noise, mode.dtype) * reach
        action = (mode + scale * numbers.astype(mode.dtype)).clip(lowest, highest)
        return action, action
    with np.errstate(all="ignore"):
        action = np.clip(mode + settings.exploration_noise * (high - low) / 2 * numbers, low, high).astype(np.float32)
    return action, action


def sample_in_units(output: Any, source: Any, settings: Any, bounds: Any) -> tuple[Any, Any]:
    """An action drawn from a distribution, recorded as the environment gets it: in its units, within the bounds."""
    action = output.to_env(_draw(output, source))
    if isinstance(source, np.random.Generator) or (
        isinstance(source, Noise) and isinstance(source.numbers, np.ndarray)
    ):
        action = np.asarray(action, np.float32)
    return action, action


def next_noise(last: Any, fresh: Any, correlation: float) -> Any:
    """Noise after noise: `rho * last + sqrt(1 - rho^2) * fresh`.

    It is a first-order autoregression, and the Ornstein-Uhlenbeck process of step 1 and `theta = 1 - rho`, scaled to a
    variance of 1: if `last` and `fresh` are standard normal and independent, so is the result standard normal.

    Args:
      last: `(N, A)`, of the step before.
      fresh: `(N, A)`, standard normal.
      correlation: rho, from 0 to below 1: the correlation of one step with the next; of steps k apart `rho^k`.

    Returns:
      `(N, A)`, in NumPy or JAX as the arguments.

    Source: Lillicrap et al. 2015 (arXiv 1509.02971), section 7, for DDPG (`theta` 0.15). Eberhard et al. 2023, "Pink
    noise is all you need", draw a policy's samples with noise that lasts, too; theirs is pink.
    """
    return correlation * last + math.sqrt(1 - correlation**2) * fresh


def check_noise_correlation(row: Any, settings: Any) -> None:
    """Raises BadInput unless the row can explore by noise with the correlation that the settings of its loop have. Only
    the loop off_policy asks for it."""
    if row.loop != "off_policy":
        return
    correlation = settings.noise_correlation
    if not isinstance(correlation, int | float) or not 0 <= correlation < 1:
        raise BadInput(f"noise_correlation is {correlation}: it must be at least 0, and below 1")
    if correlation and row.explore not in (sample, add_noise, sample_in_units):
        raise BadInput(
            f"noise_correlation is {correlation}, but {row.name} explores by a function of its own: set it to 0"
        )


def check_takes_noise(row: Any, output: Any) -> None:
    """Raises BadInput unless actions can be drawn from the output of the row's policy with given noise."""
    if row.explore is not add_noise and type(output) not in (DiagGaussian, TanhGaussian):
        raise BadInput(
            f"noise_correlation needs a DiagGaussian or TanhGaussian, and the actor gives a {type(output).__name__}: "
            "set it to 0"
        )


def _draw(output: Any, source: Any) -> Any:
    """An action, drawn in NumPy where `source` is a Generator, in JAX where it is a key, and else with its noise."""
    if isinstance(source, Noise):
        return output.from_noise(source.numbers)
    return output.sample(source) if isinstance(source, np.random.Generator) else output.sample_jax(source)


def _standard_normal(source: Any, like: Any) -> Any:
    """Numbers for each place of `like`, in NumPy or in JAX, as the source is."""
    if isinstance(source, Noise):
        return source.numbers
    if isinstance(source, np.random.Generator):
        return source.standard_normal(like.shape)
    return jax.random.normal(source, like.shape, like.dtype)

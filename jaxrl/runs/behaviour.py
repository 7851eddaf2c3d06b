"""A row of the table of algorithms as a policy inside JAX: how it acts in training, and how in an evaluation."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jax import Array

from jaxrl.algos.algorithm import Algorithm
from jaxrl.algos.exploration import Noise, add_noise
from jaxrl.algos.networks import as_policy
from jaxrl.data.normalize import Normalizer
from jaxrl.data.normalize_on_device import observer_on_device
from jaxrl.errors import BadInput
from jaxrl.runs.algorithms import find


def behaviour_policy(
    algorithm: str | Algorithm, state: Any, normalizer: Normalizer | None = None, settings: Any = None
) -> Callable[[Array, Array], tuple[Any, Any]]:
    """How a row acts in training, for `jaxrl.collect`.

    Args:
      algorithm: a row, or its name.
      state: of that row.
      normalizer: of JAX arrays, frozen here; None where observations are not normalised.
      settings: of the row's loop; None for their defaults.

    Returns:
      `act(key, obs) -> (action, env_action)`, from raw observations `(N, S)`: what is recorded, and what the
      environment gets.

    Raises:
      BadInput: the row adds noise to its actions, and the state does not say within which bounds; or the settings have
        a `noise_correlation`, and what is returned here does not remember the noise of the step before.
    """
    row = find(algorithm) if isinstance(algorithm, str) else algorithm
    settings = row.settings() if settings is None else settings
    if row.loop == "off_policy" and settings.noise_correlation:
        raise BadInput(
            f"noise_correlation is {settings.noise_correlation}, but this policy does not remember the noise of the "
            "step before: set it to 0"
        )
    return exploring_policy(row, state, normalizer, settings)


def exploring_policy(
    row: Algorithm, state: Any, normalizer: Normalizer | None, settings: Any, noise: Array | None = None
) -> Callable[[Array, Array], tuple[Any, Any]]:
    """`behaviour_policy` for one step, with its noise where that lasts from step to step.

    Args:
      row, state, normalizer, settings: as of `behaviour_policy`.
      noise: `(N, A)`, standard normal: what the step is explored with. None where `act` draws it.
    """
    bounds = _bounds(state)
    if row.explore is add_noise and bounds is None:
        raise BadInput(f"the state of {row.name} has no task with low and high: noise on actions needs their bounds")
    see = observer_on_device(normalizer)

    def act(key: Array, obs: Array) -> tuple[Any, Any]:
        source = key if noise is None else Noise(noise)
        return row.explore(as_policy(row.act(state, see(obs))), source, settings, bounds)

    return act


def greedy_policy(
    algorithm: str | Algorithm, state: Any, normalizer: Normalizer | None = None
) -> Callable[[Array], Any]:
    """How a row acts in an evaluation, for `jaxrl.evaluate_on_device`: the most probable action.

    Args:
      algorithm, state, normalizer: as of `behaviour_policy`.

    Returns:
      `policy(obs) -> env_action`, from raw observations `(N, S)`.
    """
    row = find(algorithm) if isinstance(algorithm, str) else algorithm
    see = observer_on_device(normalizer)

    def policy(obs: Array) -> Any:
        output = as_policy(row.act(state, see(obs)))
        return output.to_env(output.mode())

    return policy


def _bounds(state: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """The lowest and the highest actions, `(A,)` each, where the state keeps them."""
    task = getattr(state, "task", None)
    if task is None or not (hasattr(task, "low") and hasattr(task, "high")):
        return None
    return np.asarray(task.low, np.float32), np.asarray(task.high, np.float32)

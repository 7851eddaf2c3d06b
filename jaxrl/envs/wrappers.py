"""A look inside an environment: its time limit, and Gymnasium's wrappers that normalise. No JAX here.

A normalising wrapper keeps running statistics of its own, which no saved policy and no checkpoint holds. Each
environment has its own, those of an evaluation too, unless `follow` gives them those of the training.
"""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
from gymnasium.vector import VectorWrapper
from gymnasium.wrappers import NormalizeObservation, NormalizeReward, TimeLimit, vector

NORMALIZING = NormalizeObservation, NormalizeReward, vector.NormalizeObservation, vector.NormalizeReward
STATISTICS = "obs_rms", "return_rms"  # The attributes that hold Gymnasium's RunningMeanStd in those four.


class Inside(NamedTuple):
    """The inside of one environment: the steps after which its TimeLimit ends an episode, None without one; and the
    names of its normalising wrappers."""

    time_limit: int | None
    normalizing: tuple[str, ...]


def layers(env: Any) -> list[Any]:
    """The wrappers, the outermost first, and the environment itself; of a vector environment likewise."""
    found = [env]
    while isinstance(found[-1], gym.Wrapper | VectorWrapper):
        found.append(found[-1].env)
    return found


def normalizers(env: Any) -> list[Any]:
    """The normalising wrappers, the outermost first."""
    return [layer for layer in layers(env) if isinstance(layer, NORMALIZING)]


def inside(env: Any) -> Inside:
    """Looks through the wrappers of one environment. Its `spec` is not asked for the limit: an environment that was
    taken out of its TimeLimit keeps the spec."""
    limits = [layer._max_episode_steps for layer in layers(env) if isinstance(layer, TimeLimit)]
    return Inside(min(limits, default=None), tuple(type(layer).__name__ for layer in normalizers(env)))


def follow(evaluated: Sequence[Sequence[Any]], trained: Sequence[Sequence[Any]]) -> bool:
    """Gives the normalising wrappers of an evaluation the statistics of the training, and keeps them from moving.

    Where each of the environments trained in has statistics of its own, they are merged:
    `mean = (n_a m_a + n_b m_b) / n`, `var = (n_a v_a + n_b v_b + n_a n_b / n (m_a - m_b)^2) / n`, `n = n_a + n_b`.

    Args:
      evaluated: of each environment evaluated in its normalising wrappers, the outermost first.
      trained: of each environment trained in likewise.

    Returns:
      True if that could be done: both must be visible, and have wrappers of the same kinds in the same order.

    Source: Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance", equation 2.1.
    """
    if not evaluated or not trained or len({_shapes(wrappers) for wrappers in [*evaluated, *trained]}) > 1:
        return False
    for name in STATISTICS:
        per_layer = list(zip(*(_having(name, wrappers) for wrappers in trained), strict=True))
        merged = [_merged([getattr(wrapper, name) for wrapper in layer]) for layer in per_layer]
        for wrappers in evaluated:
            for wrapper, statistics in zip(_having(name, wrappers), merged, strict=True):
                setattr(wrapper, name, copy.deepcopy(statistics))
                wrapper.update_running_mean = False
    return True


def _having(name: str, wrappers: Sequence[Any]) -> list[Any]:
    return [wrapper for wrapper in wrappers if hasattr(wrapper, name)]


def _shapes(wrappers: Sequence[Any]) -> tuple[Any, ...]:
    """The names of the statistics, and their shapes."""
    return tuple(
        (name, *getattr(wrapper, name).mean.shape) for name in STATISTICS for wrapper in _having(name, wrappers)
    )


def _merged(parts: Sequence[Any]) -> Any:
    """One RunningMeanStd of all that the different ones among `parts` have seen."""
    first, *others = {id(part): part for part in parts}.values()  # A wrapper around all environments comes with each.
    total = copy.deepcopy(first)
    for part in others:
        total.update_from_moments(part.mean, part.var, part.count)
    return total

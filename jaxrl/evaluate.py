"""Evaluation: whole episodes in environments of their own, a fixed number from each, so that short ones are not
favoured."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import VectorEnv

from jaxrl.envs import EnvLike, Envs, Fault, make_envs, steps_natively

MAX_ENVS_IN_TURN = 10  # More environments that step one after the other would only cost time to build.


class Evaluation(NamedTuple):
    """One row of `evaluations.csv`: returns over whole episodes at a training step; `wall_time` in seconds."""

    step: int
    mean_return: float
    std_return: float
    min_return: float
    max_return: float
    episodes: int
    wall_time: float


def make_eval_envs(
    env: EnvLike, num_episodes: int, wrapper: Sequence[Any] = (), on_fault: str = "stop", **make_options: Any
) -> Envs:
    """Environments for evaluations of `num_episodes`: one for each episode where they step natively vectorised, at most
    ten where they step in turn, all of a VectorEnv that is given. Always Gymnasium's, whatever one trains in."""
    if isinstance(env, VectorEnv):
        return make_envs(env, env.num_envs, 0, on_fault=on_fault)
    native = steps_natively(env, wrapper, on_fault, make_options)
    num_envs = num_episodes if native else min(num_episodes, MAX_ENVS_IN_TURN)
    return make_envs(env, num_envs, 0, wrapper=wrapper, on_fault=on_fault, **make_options)


def evaluate(
    policy: Callable[[np.ndarray], np.ndarray],
    envs: Envs,
    num_episodes: int,
    seed: int | np.random.SeedSequence | Sequence[int],
    interrupted: Callable[[], bool] = lambda: False,
    faults: list[Fault] | None = None,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Runs `num_episodes` whole episodes from fresh seeds.

    Every environment gives the same number of episodes (the first ones one more, where they do not divide evenly): the
    first that it finishes. Taking the first to finish from all of them would favour the short ones.

    Args:
      policy: from raw observations `(N, S)` to actions in the environment's units.
      envs: reset here with `seed`, so that what ran in them before leaves no trace.
      num_episodes: how many episodes count.
      seed: fixes every episode, given the number of environments. What a policy's record calls `seeds` repeats it.
      interrupted: asked at each step; True abandons the evaluation.
      faults: takes the faults that broke episodes off; such an episode does not count, and another is run instead.

    Returns:
      Episode returns and lengths, `(num_episodes,)` each, environment by environment; None if it was abandoned.
    """
    envs.reset(seed)
    quota = [math.ceil((num_episodes - index) / envs.num_envs) for index in range(envs.num_envs)]
    episodes: list[list[tuple[float, int]]] = [[] for _ in quota]
    missing = num_episodes
    while missing:
        if interrupted():
            return None
        if faults is not None:
            faults += envs.faults
        envs.step(policy(envs.obs))
        for index, episode_return, episode_length in envs.finished:
            if len(episodes[index]) < quota[index]:
                episodes[index].append((episode_return, episode_length))
                missing -= 1
    if faults is not None:
        faults += envs.faults
    returns, lengths = zip(*(episode for each in episodes for episode in each), strict=True)
    return np.array(returns), np.array(lengths)

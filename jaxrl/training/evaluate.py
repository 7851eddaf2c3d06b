"""Evaluation: whole episodes in environments of their own, a fixed number from each, so that short ones are not
favoured."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from jaxrl.envs.episodes import DEFAULT_MAX_STEPS, FinishedEpisode
from jaxrl.envs.faults import Fault
from jaxrl.envs.make import EnvLike, make_envs, steps_natively
from jaxrl.envs.vector import Envs

MAX_ENVS_IN_TURN = 10  # More environments that step one after the other would only cost time to build.


def make_eval_envs(
    env: EnvLike,
    num_episodes: int,
    wrapper: Sequence[Any] = (),
    on_fault: str = "stop",
    backend: str = "gymnasium",
    max_envs: int = MAX_ENVS_IN_TURN,
    **options: Any,
) -> Envs:
    """Environments for evaluations of `num_episodes`: one for each episode where they step natively vectorised, at most
    `max_envs` and ten elsewhere, all of a VectorEnv that is given. `backend` is "gymnasium" or "async", whatever one
    trains in; `options` are others of `make_envs`."""
    if isinstance(env, VectorEnv):
        return make_envs(env, env.num_envs, 0, backend, on_fault=on_fault, **options)
    make_options = {name: value for name, value in options.items() if name not in ("timeout", "like")}
    native = backend == "gymnasium" and steps_natively(env, wrapper, on_fault, make_options)
    num_envs = num_episodes if native else min(num_episodes, MAX_ENVS_IN_TURN, max_envs)
    return make_envs(env, num_envs, 0, backend, wrapper=wrapper, on_fault=on_fault, **options)


def episode_bound(envs: Envs, max_steps: int | None) -> int | None:
    """The length at which an evaluation in `envs` cuts an episode: `max_steps`, or where that is None
    `DEFAULT_MAX_STEPS`; None where it is None and the environments have a time limit of their own."""
    if max_steps is None and envs.time_limit is None:
        return DEFAULT_MAX_STEPS
    return max_steps


def cut_line(cut: Sequence[FinishedEpisode], num_episodes: int) -> str:
    """How many of an evaluation's episodes were cut, and at which length."""
    at = cut[0].episode_length
    return f"{len(cut)} of {num_episodes} episodes were cut at {at:,} steps, and count with their return up to there"


def evaluate(
    policy: Callable[[np.ndarray], np.ndarray],
    envs: Envs,
    num_episodes: int,
    seed: int | np.random.SeedSequence | Sequence[int],
    interrupted: Callable[[], bool] = lambda: False,
    faults: list[Fault] | None = None,
    max_steps: int | None = None,
    cut: list[FinishedEpisode] | None = None,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Runs `num_episodes` whole episodes from fresh seeds.

    Every environment gives the same number of episodes (the first ones one more, where they do not divide evenly): the
    first that it finishes. Taking the first to finish from all of them would favour the short ones.

    Args:
      policy: from raw observations `(N, S)` to actions in the environment's units.
      envs: reset here with `seed`, so that what ran in them before leaves no trace.
      num_episodes: how many episodes count.
      seed: fixes every episode, given the number of environments. A policy's record keeps it as `seeds`.
      interrupted: asked at each step; True abandons the evaluation.
      faults: takes the faults that broke episodes off; such an episode does not count, and another is run instead.
      max_steps: the length at which an episode is cut, as `episode_bound` says. It counts with what it has up to there.
      cut: takes the episodes that were cut.

    Returns:
      Episode returns and lengths, `(num_episodes,)` each, environment by environment; None if it was abandoned.
    """
    seeds = list(seed) if isinstance(seed, Sequence) else envs.seeds(seed)
    envs.reset(seeds)
    tally = _Tally(envs, num_episodes, seeds, episode_bound(envs, max_steps))
    steps, next_look = 0, tally.bound  # Before the step of the next look, no episode can have reached the bound.
    while tally.missing:
        if interrupted():
            return None
        if faults is not None:
            faults += envs.faults
        envs.step(policy(envs.obs))
        steps += 1
        if envs.finished:
            tally.take(envs.finished)
        if steps >= next_look:
            next_look = steps + tally.cut_late()
    if faults is not None:
        faults += envs.faults
    if cut is not None:
        cut += tally.cut
    counted = [episode for each in tally.episodes for episode in each]
    return np.array([each.episode_return for each in counted]), np.array([each.episode_length for each in counted])


class _Tally:
    """The episodes of an evaluation: of each environment the first ones, up to its quota.

    Attributes:
      episodes: of each environment those that count.
      missing: how many do not count yet.
      cut: those among them that were cut.
      bound: the length at which an episode is cut; infinite where the environments end it themselves.
    """

    def __init__(self, envs: Envs, num_episodes: int, seeds: Sequence[int], bound: int | None) -> None:
        self._envs, self._seeds, self.missing = envs, seeds, num_episodes
        self.bound = math.inf if bound is None else bound
        self._quota = [math.ceil((num_episodes - index) / envs.num_envs) for index in range(envs.num_envs)]
        self.episodes: list[list[FinishedEpisode]] = [[] for _ in self._quota]
        self.cut: list[FinishedEpisode] = []
        self._waiting: set[int] = set()  # Whose cut episode goes on, because it cannot be reset alone.

    def take(self, finished: Sequence[FinishedEpisode]) -> None:
        """Counts episodes that ended, where they are wanted."""
        for episode in finished:
            if episode.env_index in self._waiting:  # It was counted when it was cut.
                self._waiting.remove(episode.env_index)
            elif self._owes(episode.env_index):
                self.episodes[episode.env_index].append(episode)
                self.missing -= 1

    def cut_late(self) -> float:
        """Counts the episodes that have reached the bound, and begins others in their place.

        Returns:
          The number of steps before which no other episode can have reached the bound.
        """
        running = [each for each in self._envs.running if each.env_index not in self._waiting]
        running = [each for each in running if self._owes(each.env_index)]
        late = [each for each in running if each.episode_length >= self.bound]
        self.take(late)
        self.cut += late
        again = [each.env_index for each in late if self._owes(each.env_index)]
        if not self._envs.can_break_off:
            self._wait(again)
        elif again:
            self._envs.break_off(np.isin(np.arange(self._envs.num_envs), again))
        return self.bound - max((each.episode_length for each in running if each not in late), default=0)

    def _wait(self, indices: Sequence[int]) -> None:
        """Where no environment can be reset alone, those whose episode was cut wait for the last that has one to count;
        then all are reset."""
        self._waiting.update(indices)
        if self.missing and all(index in self._waiting for index in range(self._envs.num_envs) if self._owes(index)):
            self._seeds = self._envs.seeds(np.random.SeedSequence(self._seeds))
            self._envs.reset(self._seeds)
            self._waiting.clear()

    def _owes(self, index: int) -> bool:
        return len(self.episodes[index]) < self._quota[index]

"""Environments that step one after the other in this process."""

import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import concatenate, iterate

from jaxrl.errors import BadInput
from jaxrl.guard import FAULT
from jaxrl.memory import free_host_bytes, resident_bytes
from jaxrl.report import tell

LONG, MUCH = 10.0, 0.1  # Seconds, and a share of the memory that is free: more is not taken without a word.
LOOKS = 3, 9, 17, 33  # After so many environments there is a look at what they took,
SURE = 17  # and from this one on it says something of small environments too.


class Serial(SyncVectorEnv):
    """Gymnasium's SyncVectorEnv in SAME_STEP, without the infos that nobody here reads.

    Merging every entry of every environment's info into arrays, which happens at each step, costs a planar MuJoCo task
    a third of its speed. Of the infos here remain what a guard reports, and an episode's last observation.
    """

    def __init__(self, makers: Sequence[Callable[[], gym.Env]]) -> None:
        build = Builder(len(makers))
        super().__init__([functools.partial(build, make) for make in makers], autoreset_mode=AutoresetMode.SAME_STEP)
        self.env_fns = makers

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of each; where it ends an episode, the next one's first observation, and the last as `final_obs`."""
        infos: dict[str, Any] = {}
        rewards, terminated, truncated = self._rewards, self._terminations, self._truncations
        for index, (env, action) in enumerate(zip(self.envs, iterate(self.action_space, actions), strict=True)):
            obs, rewards[index], ends, cut, info = env.step(action)
            terminated[index], truncated[index] = ends, cut
            if FAULT in info:
                infos = self._add_info(infos, {FAULT: info[FAULT]}, index)
            if ends or cut:
                infos = self._add_info(infos, {"final_obs": obs}, index)
                obs, info = env.reset()
            self._env_obs[index] = obs
        self._autoreset_envs = terminated | truncated
        self._observations = concatenate(self.single_observation_space, self._env_obs, self._observations)
        # The observations go out as they are: who asked copies them, before the next step writes over them.
        return self._observations, rewards, terminated, truncated, infos


class Builder:
    """Builds environments, and says after the first few what all of them will take, if that is much.

    The first one is not counted, because it may load libraries. Of several looks the cheapest counts, because also a
    later one may load what the next ones share.
    """

    def __init__(self, num_envs: int) -> None:
        self._num_envs, self._built, self._told = num_envs, 0, False
        self._seconds = self._bytes = math.inf  # That one more environment takes, at least.

    def __call__(self, make: Callable[[], gym.Env]) -> gym.Env:
        """The environment that `make` makes.

        Raises:
          BadInput: there is not enough memory for as many.
        """
        env = make()
        self._built += 1
        if self._built == 1:
            self._mark = 1, time.monotonic(), resident_bytes()
        elif self._built in LOOKS and self._built < self._num_envs:
            self._look()
        return env

    def _look(self) -> None:
        before, self._mark = self._mark, (self._built, time.monotonic(), resident_bytes())
        number, seconds, size = (now - then for now, then in zip(self._mark, before, strict=True))
        self._seconds, self._bytes = min(self._seconds, seconds / number), min(self._bytes, size / number)
        left, free = self._num_envs - self._built, free_host_bytes()
        seconds, size = left * self._seconds, left * max(self._bytes, 0.0)
        if self._built < SURE and self._seconds < 1 and self._bytes < 2**26:
            return  # A few small ones say little: memory comes in pages, and other processes have their turns.
        needs, has = f"{size / 2**30:,.1f} GiB", f"{free / 2**30:,.1f} GiB are free"
        if size > free:
            raise BadInput(f"num_envs is {self._num_envs:,}: so many environments take another {needs}, and {has}")
        if not self._told and (seconds > LONG or size > MUCH * free):
            self._told = True
            tell(f"{self._num_envs:,} environments take about {seconds:,.0f} s and {needs} to build; {has}")

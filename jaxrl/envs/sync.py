"""Environments that step one after the other in this process."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import concatenate, iterate

from jaxrl.envs.building import Builder
from jaxrl.envs.guard import FAULT_KEY


class SyncEnvs(SyncVectorEnv):
    """Gymnasium's SyncVectorEnv in SAME_STEP, without the infos that nobody here reads.

    Merging every entry of every environment's info into arrays, which happens at each step, costs a planar MuJoCo task
    a third of its speed. Of the infos here remain what a guard reports, and an episode's last observation.
    """

    def __init__(self, makers: Sequence[Callable[[], gym.Env]]) -> None:
        build = Builder(len(makers))
        makers = [functools.partial(build, make) for make in makers]
        super().__init__(makers, autoreset_mode=AutoresetMode.SAME_STEP)

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of each; where it ends an episode, the next one's first observation, and the last as `final_obs`."""
        infos: dict[str, Any] = {}
        rewards, terminated, truncated = self._rewards, self._terminations, self._truncations
        for index, (env, action) in enumerate(zip(self.envs, iterate(self.action_space, actions), strict=True)):
            obs, rewards[index], ends, cut, info = env.step(action)
            terminated[index], truncated[index] = ends, cut
            if FAULT_KEY in info:
                infos = self._add_info(infos, {FAULT_KEY: info[FAULT_KEY]}, index)
            if ends or cut:
                infos = self._add_info(infos, {"final_obs": obs}, index)
                obs, info = env.reset()
            self._env_obs[index] = obs
        self._autoreset_envs = terminated | truncated
        self._observations = concatenate(self.single_observation_space, self._env_obs, self._observations)
        # The observations go out as they are: who asked copies them, before the next step writes over them.
        return self._observations, rewards, terminated, truncated, infos

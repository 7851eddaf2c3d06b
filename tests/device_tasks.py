"""Environments for the device whose every number is known, and their twins under Gymnasium."""

import dataclasses
from typing import ClassVar

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

BAD_OBS = 99.0  # A reward that stands for an observation that is not finite.
# The rewards of each episode. It terminates with the last one, or goes on with rewards of 1, as `ENDS` says.
SCRIPTS = ((1.0, 2.0), (4.0,), (8.0, 16.0, 32.0, 64.0), (128.0,))
ENDS = (True, True, True, False)  # Under a limit of 4: termination, one step, both at once, truncation.
WITH_FAULTS = (*SCRIPTS, (1.0, np.nan), (np.inf,), (2.0, 4.0, BAD_OBS))


@dataclasses.dataclass(frozen=True)
class ScriptedOnDevice:
    """Plays a script that is drawn at each reset. The observation is `[script, tag, step]`, the tag another number for
    each episode, so that a row which links two shows. The reward is the script's, and half the action."""

    observation_space: ClassVar = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space: ClassVar = spaces.Box(-1.0, 1.0, (1,), np.float32)

    scripts: tuple = SCRIPTS
    time_limit: int = 4

    def reset(self, key):
        script_key, tag_key = jax.random.split(key)
        script = jax.random.randint(script_key, (), 0, len(self.scripts)).astype(float)
        state = jnp.stack([script, jax.random.uniform(tag_key), jnp.zeros_like(script)])
        return state, state

    def step(self, state, action, key):
        script, step = state[0].astype(int), state[2].astype(int)
        rewards = np.ones((len(self.scripts), max(map(len, self.scripts)) + 1), np.float32)
        for row, numbers in zip(rewards, self.scripts, strict=True):
            row[: len(numbers)] = numbers
        lengths = np.array([len(numbers) for numbers in self.scripts])
        ends = np.array([each < len(ENDS) and ENDS[each] for each in range(len(self.scripts))])
        reward = jnp.asarray(rewards)[script, step]
        state = state.at[2].add(1)
        terminated = (step + 1 >= jnp.asarray(lengths)[script]) & jnp.asarray(ends)[script]
        obs = jnp.where(reward == BAD_OBS, jnp.nan, state)
        return state, obs, reward + action[0] / 2, terminated


class ScriptedOnHost(gym.Env):
    """The same task, which plays given episodes, each the number of its script and its tag, one after the other."""

    observation_space = ScriptedOnDevice.observation_space
    action_space = ScriptedOnDevice.action_space

    def __init__(self, scripts, episodes):
        self._scripts, self._episodes = scripts, iter(episodes)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._script, self._tag = next(self._episodes)
        self._step = 0
        return self._obs(), {}

    def step(self, action):
        numbers = self._scripts[int(self._script)]
        reward = numbers[self._step] if self._step < len(numbers) else 1.0
        self._step += 1
        ends = int(self._script) < len(ENDS) and ENDS[int(self._script)]
        obs = np.full(3, np.nan, np.float32) if reward == BAD_OBS else self._obs()
        return obs, reward + float(action[0]) / 2, ends and self._step >= len(numbers), False, {}

    def _obs(self):
        return np.array([self._script, self._tag, self._step], np.float32)


@dataclasses.dataclass(frozen=True)
class Noisy:
    """Every observation is a fresh draw of `sigma` around the last; the first is one of its own. It never ends."""

    observation_space: ClassVar = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space: ClassVar = spaces.Box(-1.0, 1.0, (1,), np.float32)

    time_limit: int | None = 5
    num_first_states: int = 0

    def reset(self, key):
        state = jax.random.normal(key, (1,))
        return state, state

    def step(self, state, action, key):
        state = state + jax.random.normal(key, (1,))
        return state, state, 1.0, False


@dataclasses.dataclass(frozen=True)
class EndlessOnDevice:
    """Reward 1 for ever, cut by a limit of 25 steps only: the value is 1 / (1 - gamma) if the cut is no end."""

    observation_space: ClassVar = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space: ClassVar = spaces.Discrete(2)

    time_limit: int = 25

    def reset(self, key):
        return jnp.zeros((), jnp.int32), jnp.zeros(1)

    def step(self, state, action, key):
        return state + 1, jnp.zeros(1), 1.0, False

"""Environments whose every step is known in advance, to hold the adapter and the loops against."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Scripted(gym.Env):
    """Walks through a list of episodes, each a list of (reward, terminated, truncated); then starts over.

    The observation is `[episode, step]`, so that a row which links two episodes shows. One array serves all
    observations: whoever keeps it without a copy sees it change.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, episodes, reuse_buffer=True):
        self._episodes, self._reuse = episodes, reuse_buffer
        self._buffer, self._episode, self.received = np.zeros(2), -1, []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._episode, self._step = self._episode + 1, 0
        return self._observation(), {}

    def step(self, action):
        self.received.append(np.array(action))
        reward, terminated, truncated = self._episodes[self._episode % len(self._episodes)][self._step]
        self._step += 1
        return self._observation(), reward, terminated, truncated, {"x": 1.0}

    def _observation(self):
        self._buffer[:] = self._episode, self._step
        return self._buffer if self._reuse else self._buffer.copy()


# A termination, a truncation, both at once, and episodes of a single step.
EPISODES = [
    [(1.0, False, False), (2.0, False, False), (4.0, True, False)],
    [(8.0, False, False), (16.0, False, True)],
    [(32.0, True, True)],
    [(64.0, False, True)],
    [(128.0, False, False), (256.0, True, True)],
]


class Probe(gym.Env):
    """One of four tasks with a known best value, each harder in one way than the one before.

    `constant`: reward 1, one step: V = 1. `observation`: the reward is the observation, +1 or -1: V(o) = o.
    `delay`: two steps, the reward comes with the second: V(0) = gamma, V(1) = 1. `action`: the reward is 1 if the
    action repeats the observation, else -1.
    """

    observation_space = spaces.Box(-2.0, 2.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, kind):
        self._kind = kind

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        coin = float(self.np_random.integers(2))
        self._obs = {"constant": 0.0, "observation": 2 * coin - 1, "delay": 0.0, "action": coin}[self._kind]
        return np.array([self._obs], np.float32), {}

    def step(self, action):
        if self._kind == "delay" and self._obs == 0:
            self._obs = 1.0
            return np.array([1.0], np.float32), 0.0, False, False, {}
        hit = 1.0 if action == self._obs else -1.0
        reward = {"constant": 1.0, "observation": self._obs, "delay": 1.0, "action": hit}[self._kind]
        return np.array([self._obs], np.float32), reward, True, False, {}


class Endless(gym.Env):
    """Reward 1 for ever, cut by a time limit only: the value is 1 / (1 - gamma) if the cut is no end."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, limit=25, says_terminated=False):
        self._limit, self._says_terminated = limit, says_terminated

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self._steps += 1
        over = self._steps >= self._limit
        return np.zeros(1, np.float32), 1.0, over and self._says_terminated, over and not self._says_terminated, {}

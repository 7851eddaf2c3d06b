"""Environments whose every step is known in advance, to hold the adapter and the loops against."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space


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


class ScriptedVector(VectorEnv):
    """A vector environment of its own kind over single environments, in any autoreset mode. One array serves all of
    its observations, and it resets one environment alone only in DISABLED mode, as it must."""

    def __init__(self, makers, mode):
        self.metadata = {"autoreset_mode": mode}
        self._mode, self._envs = mode, [make() for make in makers]
        self.num_envs = len(makers)
        self.single_observation_space = self._envs[0].observation_space
        self.single_action_space = self._envs[0].action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._obs = np.zeros(self.observation_space.shape, self.observation_space.dtype)
        self._over = np.zeros(self.num_envs, bool)

    def reset(self, *, seed=None, options=None):
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        assert mask.all() or self._mode is AutoresetMode.DISABLED
        for i in np.flatnonzero(mask):
            self._obs[i] = self._envs[i].reset(seed=None if seed is None else seed + int(i))[0]
        self._over[mask] = False
        return self._obs, {}

    def step(self, actions):
        reward, terminated, truncated = np.zeros(self.num_envs), *np.zeros((2, self.num_envs), bool)
        infos = {}
        for i, env in enumerate(self._envs):
            if self._over[i] and self._mode is AutoresetMode.NEXT_STEP:
                self._obs[i] = env.reset()[0]
                continue
            assert not (self._over[i] and self._mode is AutoresetMode.DISABLED), "stepped after its end"
            self._obs[i], reward[i], terminated[i], truncated[i], _ = env.step(actions[i])
            if (terminated[i] or truncated[i]) and self._mode is AutoresetMode.SAME_STEP:
                # Not an array of objects, as Gymnasium's: all rows, of which those of ended episodes count.
                infos.setdefault("final_obs", np.full_like(self._obs, np.nan))[i] = self._obs[i]
                self._obs[i] = env.reset()[0]
        self._over = terminated | truncated
        return self._obs, reward, terminated, truncated, infos


class Still(gym.Env):
    """Nothing happens; two actions with ranges of their own."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Box(np.array([-2.0, 0.1], np.float32), np.array([2.0, 0.7], np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, self.np_random.random() < 0.01, {}

"""A plain environment, and ways in which environments of users differ from it. Processes import it: no JAX here."""

import multiprocessing
import subprocess
import time

import gymnasium as gym
import numpy as np
from gymnasium import spaces

FLAT = spaces.Box(-np.inf, np.inf, (2,), np.float32)


FAULT = "jaxrl_fault"
INFOS = {
    "ragged": lambda i: {"x": np.zeros(3 + i)},
    "none and number": lambda i: {"x": [1.0, None][i]},
    "dict and array": lambda i: {"x": [{"y": 1}, np.zeros(2)][i]},
    "huge ints": lambda i: {"x": 10**400},
    "lambda": lambda i: {"x": lambda: None},
    "odd keys": lambda i: {1: 1, None: 2, ("a",): 3},
    "none": lambda i: None,
    "list": lambda i: [1, 2],
    "our key": lambda i: {FAULT: "gave up", f"_{FAULT}": True},
    "our key, a number": lambda i: {FAULT: 1.0},
    "our key in final_info": lambda i: {"final_info": {FAULT: "gave up"}},
    "final_obs": lambda i: {"final_obs": np.full(2, 7.0), "_final_obs": True, "reset_mask": None},
    "final_info": lambda i: {"final_info": np.zeros(2), "_final_info": 3},
}


class Plain(gym.Env):
    """Episodes of three steps, observed as [episode, step], with a reward of 1. Its class attributes are what it gives
    and takes otherwise. An action must be in the action space."""

    observation_space, action_space = FLAT, spaces.Discrete(2)
    info = reset_info = staticmethod(lambda index: {})
    reward, terminated, truncated, index = 1.0, False, None, 0
    step_answer, reset_answer = staticmethod(lambda *answer: answer), staticmethod(lambda *answer: answer)

    def __init__(self, **instead):
        self.__dict__ |= instead
        self.episode, self.received, self.seeds = -1, [], []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.now = self.episode + 1, 0
        self.seeds += [] if seed is None else [seed]
        return self.reset_answer(self.obs(), self.reset_info(self.index))

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.received.append(action)
        self.now += 1
        cut = self.now == 3 if self.truncated is None else self.truncated
        return self.step_answer(self.obs(), self.reward, self.terminated, cut, self.info(self.index))

    def obs(self):
        return np.array([self.episode, self.now], np.float32)


class CInt(Plain):
    """Its simulator takes a seed that fits a C int."""

    def reset(self, *, seed=None, options=None):
        if seed is not None and seed >= 2**31:
            raise OverflowError("signed integer is greater than maximum")
        return super().reset(seed=seed, options=options)


class Everything(CInt):
    """What a worker must take: it starts a process of its own, its infos cannot be pickled, its rewards are arrays."""

    action_space = spaces.Box(-1, 1, (), np.float32)
    reward = np.ones((1, 1))

    def __init__(self):
        super().__init__(info=INFOS["lambda"], reset_info=INFOS["final_obs"])
        if multiprocessing.parent_process() is not None:
            self.helper = subprocess.Popen(["sleep", "600"])
            child = multiprocessing.Process(target=time.sleep, args=(0,))
            child.start()
            child.join()

    def obs(self):
        helper = getattr(self, "helper", None)
        return np.array([helper.pid if helper else 0, self.now], np.float32)

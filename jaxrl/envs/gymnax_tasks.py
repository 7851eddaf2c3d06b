"""Tasks of gymnax for the device. gymnax 1 tells a task's end from its time limit; older versions merge both."""

import dataclasses
import functools
from typing import Any

import numpy as np
from gymnasium import spaces
from jax import Array

from jaxrl.envs.device_backends import missing_extra, no_task
from jaxrl.errors import BadInput, one_line

LARGEST = float(np.finfo(np.float32).max)  # What gymnax writes for an infinite bound.


@dataclasses.dataclass(frozen=True, eq=False)
class GymnaxTask:
    """An environment of gymnax, without its autoreset and its time limit.

    Its parameters may be arrays, so that it is equal to itself alone.

    Attributes:
      env: a gymnax Environment.
      params: its EnvParams.
    """

    env: Any
    params: Any

    @functools.cached_property
    def observation_space(self) -> spaces.Space:
        """That of gymnax, as Gymnasium's."""
        return _space(self.env.observation_space(self.params))

    @functools.cached_property
    def action_space(self) -> spaces.Space:
        """That of gymnax, as Gymnasium's."""
        return _space(self.env.action_space(self.params))

    @property
    def time_limit(self) -> int:
        """The steps after which `is_truncated` of gymnax is true."""
        return int(self.params.max_steps_in_episode)

    def reset(self, key: Array) -> tuple[Any, Any]:
        """A first state and its observation."""
        obs, state = self.env.reset_env(key, self.params)
        return state, obs

    def step(self, state: Any, action: Array, key: Array) -> tuple[Any, Any, Array, Array]:
        """A step that resets nothing."""
        obs, state, reward, terminated, _ = self.env.step_env(key, state, action, self.params)
        return state, obs, reward, terminated


@functools.cache
def find_task(name: str) -> GymnaxTask:
    """The task of that name with its own parameters; always the same object, so that compiled programs are shared.

    Raises:
      BadInput: gymnax is not installed, is too old, or has no such task; or the task needs what this machine lacks.
    """
    try:
        import gymnax
        from gymnax.environments.environment import Environment
    except ImportError as error:
        raise missing_extra("gymnax", error) from error
    if not hasattr(Environment, "is_truncated"):
        raise BadInput(
            "this gymnax is older than 1.0, and merges time limits into the ends of tasks: it must be 1.0 or newer, "
            "pip install 'jaxrl-kernels[gymnax]'"
        )
    if name not in gymnax.registered_envs:
        raise BadInput(no_task(name, "gymnax", gymnax.registered_envs))
    try:
        env, params = gymnax.make(name)
    except Exception as error:  # A task may load a data set, for one.
        raise BadInput(f"gymnax cannot make {name}: {one_line(error)}") from error
    if type(env).is_truncated is not Environment.is_truncated:
        raise BadInput(f"gymnax's {name} truncates by a rule of its own: only a limit of steps is supported")
    return GymnaxTask(env, params)


def _space(space: Any) -> spaces.Space:
    kind = type(space).__name__
    if kind == "Discrete":
        return spaces.Discrete(int(space.n))
    if kind == "Box":
        dtype = np.dtype(space.dtype)
        low, high = (np.broadcast_to(np.asarray(bound, dtype), space.shape) for bound in (space.low, space.high))
        if dtype.kind == "f":
            low, high = np.where(low <= -LARGEST, -np.inf, low), np.where(high >= LARGEST, np.inf, high)
        return spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype.type)
    if kind == "Dict":
        return spaces.Dict({key: _space(part) for key, part in space.spaces.items()})
    if kind == "Tuple":
        return spaces.Tuple([_space(part) for part in space.spaces])
    raise BadInput(f"gymnax's space {kind} is not supported: it must be a Box, Discrete, Dict or Tuple")

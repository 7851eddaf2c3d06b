"""Tasks of MuJoCo Playground for the device, without its training wrapper, which loses the last observations."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jax import Array

from jaxrl.envs.device_backends import missing_extra, no_task
from jaxrl.errors import BadInput, one_line


@dataclasses.dataclass(frozen=True, eq=False)
class PlaygroundTask:
    """An environment of MuJoCo Playground. Actions are in [-1, 1]. Where it gives several observations by name, the one
    that is named `state` counts: others, such as `privileged_state`, are not for a policy.

    Attributes:
      env: an MjxEnv, not wrapped.
      time_limit: steps of an episode.
    """

    num_first_states: ClassVar[int] = 256  # A reset costs as much as several steps.

    env: Any
    time_limit: int

    @functools.cached_property
    def observation_space(self) -> spaces.Space:
        """Numbers without bounds, in the shape of the observation."""
        _, obs = jax.eval_shape(self.reset, jax.random.key(0))
        boxes = jax.tree.map(lambda x: spaces.Box(-np.inf, np.inf, x.shape, np.float32), obs)
        return spaces.Dict(dict(boxes)) if isinstance(boxes, Mapping) else boxes

    @functools.cached_property
    def action_space(self) -> spaces.Box:
        """Every number of an action in [-1, 1]."""
        return spaces.Box(-1.0, 1.0, (self.env.action_size,), np.float32)

    def reset(self, key: Array) -> tuple[Any, Any]:
        """A first state and its observation."""
        state = self.env.reset(jax.random.key_data(key))
        return state, _seen(state.obs)

    def step(self, state: Any, action: Array, key: Array) -> tuple[Any, Any, Array, Array]:
        """One step. Playground keeps a key in its state, which the given one replaces: states that were copied from one
        must not have the same noise. Where the simulation came to numbers that are none, the reward is NaN, and the
        task does not count as ended."""
        if "rng" in state.info:
            state = state.replace(info=dict(state.info) | {"rng": jax.random.key_data(key)})
        state = self.env.step(state, action)
        finite = jnp.isfinite(state.data.qpos).all() & jnp.isfinite(state.data.qvel).all()
        return state, _seen(state.obs), jnp.where(finite, state.reward, jnp.nan), (state.done > 0) & finite


@functools.cache
def find_task(name: str) -> PlaygroundTask:
    """The task of that name with its own settings; always the same object, so that compiled programs are shared.

    Raises:
      BadInput: MuJoCo Playground is not installed or has no such task; or the task needs what this machine lacks.
    """
    try:
        from mujoco_playground import registry
    except ImportError as error:
        raise missing_extra("playground", error) from error
    if name not in registry.ALL_ENVS:
        raise BadInput(no_task(name, "playground", registry.ALL_ENVS))
    # Warp, which many tasks ask for, needs an NVIDIA GPU.
    overrides = {"impl": "jax"} if jax.default_backend() != "gpu" else None
    try:
        config = registry.get_default_config(name)
        env = registry.load(name, config_overrides=overrides if "impl" in config else None)
    except Exception as error:  # Tasks of some suites download their models, for one.
        raise BadInput(f"playground cannot make {name}: {one_line(error)}") from error
    if config.get("action_repeat", 1) != 1:
        raise BadInput(f"playground's {name} repeats an action {config.action_repeat} times: it must take each once")
    return PlaygroundTask(env, int(config.episode_length))


def _seen(obs: Any) -> Any:
    return obs["state"] if isinstance(obs, Mapping) and "state" in obs else obs

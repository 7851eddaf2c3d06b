"""Environments that are JAX functions: N of them as a stream of transitions, so that collecting and learning are one
program. Everything here is pure, and works under `jit`, `vmap` and `scan`.

An environment is an object with two pure functions, its spaces (Gymnasium's) and its time limit, in steps or None:

    reset(key) -> (state, obs)
    step(state, action, key) -> (state, obs, reward, terminated)
    observation_space, action_space, time_limit

It neither resets itself nor counts its steps. `DeviceEnvs` does both outside of it. So a transition's successor is the
true one, and `terminated` and `truncated` stay apart.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jax import Array

from jaxrl.data.transition import Transition
from jaxrl.device import compiled
from jaxrl.envs.device_backends import DEVICE_BACKENDS, check_env, find_task
from jaxrl.envs.device_spaces import flatten_observations, to_env_actions
from jaxrl.errors import BadInput

Act = Callable[[Array, Array], tuple[Any, Any]]


class DeviceEnvState(NamedTuple):
    """Where N environments stand: one pytree, from which they go on bit for bit.

    Attributes:
      obs: `(N, S)`, what to act on next; raw, flattened as `jaxrl.data.spaces` says.
      inner: the environments' own states; every array has a leading axis N.
      key: one JAX key, from which all others are split.
      episode_return: `(N,)`, the sum of the rewards of the episode under way.
      episode_length: `(N,)` int32, its number of steps.
      num_faults: `(N,)` int32, the faults of each environment since it last finished an episode.
      first_states: states and observations to begin episodes with, leading axis M; None where every reset is its own.
      noise: `(N, A)`, what the last actions were explored with; None where noise does not last from step to step.
    """

    obs: Array
    inner: Any
    key: Array
    episode_return: Array
    episode_length: Array
    num_faults: Array
    first_states: Any
    noise: Array | None = None


class Episodes(NamedTuple):
    """The episodes that ended on a step, for any number of leading axes: `(N,)`, or of a rollout `(T, N)`.

    Attributes:
      ended: `(...)` boolean, whether an episode ended here. Elsewhere the other two are those of the episode under way.
      episode_return: `(...)`, the sum of its rewards.
      episode_length: `(...)` int32, its number of steps.
    """

    ended: Array
    episode_return: Array
    episode_length: Array


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class DeviceEnvs:
    """N environments that step together on the device. `make_device_envs` makes it.

    It holds no arrays. Under `jit` it counts as a constant, and two that are equal share one compiled program.

    Attributes:
      env: the environment.
      num_envs: N.
      time_limit: steps after which an episode is truncated; None for no limit.
      num_first_states: M, from how many states new episodes begin until `renew_first_states` draws others; 0 where
        every reset is its own. For environments whose reset costs much more than a step: under `vmap`, all N are reset
        at each step, whether an episode ends or not.
    """

    env: Any
    num_envs: int
    time_limit: int | None = None
    num_first_states: int = 0

    @property
    def observation_space(self) -> spaces.Space:
        """That of a single environment."""
        return self.env.observation_space

    @property
    def action_space(self) -> spaces.Space:
        """That of a single environment."""
        return self.env.action_space

    @compiled
    def reset(self, key: Array) -> DeviceEnvState:
        """Begins an episode in every environment.

        Args:
          key: one JAX key; equal keys give equal streams, given equal actions.
        """
        key, first_key, draw_key = jax.random.split(key, 3)
        first_states = self._many_first_states(first_key, self.num_first_states) if self.num_first_states else None
        inner, obs = self._first_states(draw_key, first_states)
        zeros = jnp.zeros(self.num_envs, jnp.int32)
        return DeviceEnvState(obs, inner, key, zeros.astype(obs.dtype), zeros, zeros, first_states)

    def step(self, env_state: DeviceEnvState, action: Any) -> tuple[DeviceEnvState, Transition]:
        """Takes one step in every environment, and begins a new episode in those where one ends.

        A step that is not finite is a fault: the action, the reward, or an observation before or after it is not
        finite, or the action is none of its space. Its row is not valid, and another episode begins there.

        Args:
          env_state: from `reset` or the last step.
          action: in the environment's units, `(N, ...)` with the space's shape, or flattened. A Box action is clipped
            to the bounds on its way. The transition keeps what was given.

        Returns:
          The next state, and rows `(N,)` with true successors. Both flags are true where the task ends on the time
          limit's step.
        """
        env_state, transition, _ = self.step_counted(env_state, action)
        return env_state, transition

    @compiled
    def step_counted(self, env_state: DeviceEnvState, action: Any) -> tuple[DeviceEnvState, Transition, Episodes]:
        """`step`, and the episodes that ended on it."""
        key, step_key, first_key = jax.random.split(env_state.key, 3)
        obs, num_envs = env_state.obs, self.num_envs
        env_action, fits = to_env_actions(self.action_space, action, num_envs)
        keys = jax.random.split(step_key, num_envs)
        inner, raw_obs, reward, terminated = jax.vmap(self.env.step)(env_state.inner, env_action, keys)
        next_obs = flatten_observations(self.observation_space, raw_obs, num_envs)
        reward, terminated = jnp.asarray(reward, obs.dtype), jnp.asarray(terminated, bool)

        # A step that is not finite is no transition.
        valid = fits & jnp.isfinite(reward) & (jnp.isfinite(obs) & jnp.isfinite(next_obs)).all(1)
        reward, next_obs = jnp.where(valid, reward, 0), jnp.where(valid[:, None], next_obs, obs)
        episode_return, episode_length = (
            env_state.episode_return + reward,
            env_state.episode_length + valid.astype(jnp.int32),
        )
        terminated = terminated & valid
        truncated = jnp.zeros_like(valid)
        if self.time_limit is not None:  # More than an int32 counts, nobody can wait for.
            truncated = (episode_length >= min(self.time_limit, np.iinfo(np.int32).max)) & valid
        ended = terminated | truncated

        # A new episode where the last is over, or nothing can come of it.
        anew = ended | ~valid
        first_inner, first_obs = self._first_states(first_key, env_state.first_states)
        env_state = DeviceEnvState(
            jnp.where(anew[:, None], first_obs, next_obs),
            jax.tree.map(lambda first, going: _where(anew, first, going), first_inner, inner),
            key,
            jnp.where(anew, 0, episode_return),
            jnp.where(anew, 0, episode_length),
            jnp.where(ended, 0, env_state.num_faults + (~valid).astype(jnp.int32)),
            env_state.first_states,
            env_state.noise,
        )
        transition = Transition(obs, action, reward, next_obs, terminated, truncated, valid)
        return env_state, transition, Episodes(ended, episode_return, episode_length)

    def renew_first_states(self, env_state: DeviceEnvState) -> DeviceEnvState:
        """Draws other states for new episodes to begin with; the same state where every reset is its own."""
        if not self.num_first_states:
            return env_state
        key, first_key = jax.random.split(env_state.key)
        return env_state._replace(key=key, first_states=self._many_first_states(first_key, self.num_first_states))

    def _many_first_states(self, key: Array, count: int) -> tuple[Any, Array]:
        inner, obs = jax.vmap(self.env.reset)(jax.random.split(key, count))
        return jax.tree.map(_strong, inner), flatten_observations(self.observation_space, obs, count)

    def _first_states(self, key: Array, first_states: Any) -> tuple[Any, Array]:
        """A first state and its observation for each environment."""
        if first_states is None:
            return self._many_first_states(key, self.num_envs)
        chosen = jax.random.randint(key, (self.num_envs,), 0, self.num_first_states)
        return jax.tree.map(lambda x: x[chosen], first_states)


def make_device_envs(env: Any, num_envs: int, backend: str = "jax") -> DeviceEnvs:
    """N environments on the device.

    Args:
      env: the name of a task that the backend has, or an object with the parts that this module describes. It must be
        hashable, as a frozen dataclass is. Where its reset costs much more than a step, its attribute
        `num_first_states` says how many first states there are to be; no more than N are made.
      num_envs: N.
      backend: "jax" for the built-in tasks; "gymnax" for those of gymnax, 1.0 or newer, "playground" for those of
        MuJoCo Playground, and "envelope" for those of jax-envelope, `suite::task` (extras).

    Raises:
      BadInput: there is no such task (with the nearest names), or the environment cannot work; one line says why.
    """
    if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
        raise BadInput(f"num_envs is {num_envs!r}: it must be a whole number, and at least 1")
    if isinstance(env, str):
        env = find_task(env, backend)
    elif backend not in DEVICE_BACKENDS:
        raise BadInput(f"backend {backend!r} is not on the device: it must be one of {', '.join(DEVICE_BACKENDS)}")
    elif backend != "jax":
        raise BadInput(f"env is an environment of your own: backend must be 'jax', not {backend!r}")
    check_env(env)
    return DeviceEnvs(env, num_envs, env.time_limit, min(getattr(env, "num_first_states", 0), num_envs))


def collect(envs: DeviceEnvs, env_state: DeviceEnvState, act: Act, num_steps: int) -> tuple[DeviceEnvState, Transition]:
    """A rollout: `num_steps` steps of every environment under one policy.

    Args:
      envs: N environments.
      env_state: where they stand.
      act: `(key, obs) -> (action, env_action)` from raw observations `(N, S)`: the action that is recorded, and the one
        that the environment gets. `behaviour_policy` makes it of a row of the table of algorithms.
      num_steps: T.

    Returns:
      Where the environments stand then, and transitions `(T, N)`, raw. Before a row of a fault the episode is
      truncated, because what follows is another one.
    """
    env_state, rollout, _ = collect_counted(envs, env_state, act, num_steps)
    return env_state, rollout


def collect_counted(
    envs: DeviceEnvs, env_state: DeviceEnvState, act: Act, num_steps: int
) -> tuple[DeviceEnvState, Transition, Episodes]:
    """`collect`, and the episodes that ended, `(T, N)`."""

    def step(env_state: DeviceEnvState, _: None) -> tuple[DeviceEnvState, tuple[Transition, Episodes]]:
        key, act_key = jax.random.split(env_state.key)
        action, env_action = act(act_key, env_state.obs)
        env_state, transition, episodes = envs.step_counted(env_state._replace(key=key), env_action)
        return env_state, (transition._replace(action=action), episodes)

    if num_steps < 1:
        raise BadInput(f"num_steps is {num_steps}: it must be at least 1")
    env_state = envs.renew_first_states(env_state)
    env_state, (rollout, episodes) = jax.lax.scan(step, env_state, length=num_steps)
    broken = ~rollout.valid[1:] & rollout.valid[:-1] & ~rollout.terminated[:-1]
    truncated = rollout.truncated.at[:-1].set(rollout.truncated[:-1] | broken)
    return env_state, rollout._replace(truncated=truncated), episodes


def _strong(x: Any) -> Array:
    """An array of the type that it has, and keeps: one that came from a Python number would take that of others."""
    x = jnp.asarray(x)
    return x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else jax.lax.convert_element_type(x, x.dtype)


def _where(mask: Array, yes: Array, no: Array) -> Array:
    """`yes` where the mask, `(N,)`, says so; arrays `(N, ...)`."""
    return jnp.where(mask.reshape(mask.shape + (1,) * (yes.ndim - 1)), yes, no)

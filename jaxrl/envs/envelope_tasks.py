"""Tasks of jax-envelope for the device: those of every suite that is installed beside it, each named `suite::task`."""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jax import Array

from jaxrl.envs.device_backends import missing_extra, no_task
from jaxrl.errors import BadInput, one_line


@dataclasses.dataclass(frozen=True, eq=False)
class EnvelopeTask:
    """An environment of envelope's, without a wrapper that counts or resets.

    It keeps its key in its own state, and has it from `reset`. So no two begin with one state: there is no pool.

    Attributes:
      env: an envelope Environment.
      time_limit: steps of an episode, or None.
    """

    env: Any
    time_limit: int | None

    @functools.cached_property
    def observation_space(self) -> spaces.Space:
        """That of envelope, as Gymnasium's."""
        return _space(self.env.observation_space)

    @functools.cached_property
    def action_space(self) -> spaces.Space:
        """That of envelope, as Gymnasium's."""
        return _space(self.env.action_space)

    def reset(self, key: Array) -> tuple[Any, Any]:
        """A first state and its observation."""
        state, info = self.env.init(key)
        return state, info.obs

    def step(self, state: Any, action: Array, key: Array) -> tuple[Any, Any, Array, Array]:
        """A step that resets nothing. Envelope takes the suites' own limits away; where one truncates nevertheless, the
        reward is NaN, so that the episode is broken off as by a fault, and does not run on."""
        state, info = self.env.step(state, action)
        reward = jnp.where(jnp.asarray(info.truncated, bool), jnp.nan, info.reward)
        return state, info.obs, reward, jnp.asarray(info.terminated, bool)


@functools.cache
def find_task(name: str) -> EnvelopeTask:
    """The task of that name, `suite::task`; always the same object, so that compiled programs are shared.

    Raises:
      BadInput: envelope is not installed or has no such task, or its suite is not installed.
    """
    try:
        import envelope
    except ImportError as error:
        raise missing_extra("envelope", error) from error
    suite, _, task = name.partition("::")
    suites = envelope.registered_suites()
    if not task or suite not in suites:
        raise BadInput(f"backend envelope has no environment {name}: it must be suite::task, of {', '.join(suites)}")
    known = envelope.registered_environments(suite)
    if known and name not in known:
        raise BadInput(no_task(name, "envelope", known))
    try:
        env = envelope.create(name, max_episode_steps=None)
    except Exception as error:  # Its suite is not installed, for one.
        raise BadInput(f"envelope cannot make {name}: {one_line(error)}") from error
    return EnvelopeTask(env, env.default_max_steps)


def _space(space: Any) -> spaces.Space:
    """A space, or a tree of spaces, of envelope's as Gymnasium's."""
    kind = type(space).__name__
    if kind == "PyTreeSpace":
        return _space(space.tree)
    if isinstance(space, dict):
        return spaces.Dict({key: _space(part) for key, part in space.items()})
    if isinstance(space, tuple | list):
        return spaces.Tuple([_space(part) for part in space])
    if kind == "Continuous":
        low, high = np.asarray(space.low), np.asarray(space.high)
        return spaces.Box(low, high, low.shape, dtype=low.dtype.type)
    if kind == "Discrete":
        sizes = np.asarray(space.n)
        return spaces.Discrete(int(sizes)) if sizes.ndim == 0 else spaces.MultiDiscrete(sizes)
    raise BadInput(
        f"envelope's space {kind} is not supported: it must be Continuous, Discrete, or a dict or a tuple of these; "
        "envelope.FlattenObservationWrapper makes one array of observations"
    )

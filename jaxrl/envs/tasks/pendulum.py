"""Pendulum-v1 as two pure functions: a pendulum is to be swung up and held, with a torque too weak to lift it."""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jax import Array

GRAVITY, MASS, LENGTH, TAU = 10.0, 1.0, 1.0, 0.05  # m/s^2, kg, m, s
MAX_SPEED, MAX_TORQUE = 8.0, 2.0  # rad/s, N m
OBS_BOUND = np.array([1.0, 1.0, MAX_SPEED], np.float32)


@dataclasses.dataclass(frozen=True)
class Pendulum:
    """The state is `[theta, theta_dot]`, theta 0 upright; the observation `[cos theta, sin theta, theta_dot]`.

    Source: Gymnasium's Pendulum-v1, whose numbers these are.
    """

    observation_space: ClassVar[spaces.Box] = spaces.Box(-OBS_BOUND, OBS_BOUND, dtype=np.float32)
    action_space: ClassVar[spaces.Box] = spaces.Box(-MAX_TORQUE, MAX_TORQUE, (1,), np.float32)
    time_limit: ClassVar[int] = 200

    def reset(self, key: Array) -> tuple[Array, Array]:
        """The angle uniform in [-pi, pi], the speed in [-1, 1]."""
        state = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0) * jnp.array([math.pi, 1.0])
        return state, _observation(state)

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, Array, Array, Any]:
        """One step of 0.05 s under a torque; reward `-(theta^2 + theta_dot^2 / 10 + torque^2 / 1000)`, with theta in
        [-pi, pi]. It never terminates."""
        theta, theta_dot = state
        theta = (theta + math.pi) % (2 * math.pi) - math.pi  # So float32 stays exact, however often it turns over.
        torque = jnp.asarray(action[0], theta.dtype)
        cost = jnp.square(theta) + 0.1 * jnp.square(theta_dot) + 0.001 * jnp.square(torque)
        acceleration = 3 * GRAVITY / (2 * LENGTH) * jnp.sin(theta) + 3 / (MASS * LENGTH**2) * torque
        theta_dot = jnp.clip(theta_dot + TAU * acceleration, -MAX_SPEED, MAX_SPEED)
        state = jnp.stack([theta + TAU * theta_dot, theta_dot])
        return state, _observation(state), -cost, False


def _observation(state: Array) -> Array:
    theta, theta_dot = state
    return jnp.stack([jnp.cos(theta), jnp.sin(theta), theta_dot])

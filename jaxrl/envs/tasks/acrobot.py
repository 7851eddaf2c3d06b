"""Acrobot-v1 as two pure functions: two links hang from a joint, and the free end is to be swung up to one link's
length above it, by a torque on the joint between them."""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jax import Array

GRAVITY, TAU = 9.8, 0.2  # m/s^2, s
MASS, LENGTH, CENTRE, INERTIA = 1.0, 1.0, 0.5, 1.0  # Of each link: kg, m, m to its centre of mass, kg m^2.
MAX_SPEEDS = 4 * math.pi, 9 * math.pi  # rad/s
OBS_BOUND = np.array([1.0, 1.0, 1.0, 1.0, *MAX_SPEEDS], np.float32)


@dataclasses.dataclass(frozen=True)
class Acrobot:
    """The state is `[theta_1, theta_2, theta_1_dot, theta_2_dot]`: the first link's angle from hanging down, and the
    second's from the first's. The observation has the cosine and the sine of each angle in its place.

    Source: Sutton 1996, "Generalization in reinforcement learning: successful examples using sparse coarse coding";
    equations of motion as in Sutton and Barto 2018, "Reinforcement learning", and in Gymnasium's Acrobot-v1.
    """

    observation_space: ClassVar[spaces.Box] = spaces.Box(-OBS_BOUND, OBS_BOUND, dtype=np.float32)
    action_space: ClassVar[spaces.Discrete] = spaces.Discrete(3)
    time_limit: ClassVar[int] = 500

    def reset(self, key: Array) -> tuple[Array, Array]:
        """Each number uniform in [-0.1, 0.1]."""
        state = jax.random.uniform(key, (4,), minval=-0.1, maxval=0.1)
        return state, _observation(state)

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, Array, Array, Array]:
        """One Runge-Kutta step of 0.2 s under a torque of -1, 0 or 1 N m. Reward -1 until the end is up, then 0."""
        angles, speeds = jnp.split(_runge_kutta(state, jnp.asarray(action, state.dtype) - 1), 2)
        turns = jnp.where(jnp.abs(angles) > math.pi, jnp.round(angles / (2 * math.pi)), 0)
        angles = angles - 2 * math.pi * turns
        state = jnp.concatenate([angles, jnp.clip(speeds, -np.array(MAX_SPEEDS), np.array(MAX_SPEEDS))])
        is_up = -jnp.cos(angles[0]) - jnp.cos(angles[0] + angles[1]) > 1
        return state, _observation(state), jnp.where(is_up, 0.0, -1.0), is_up


def _observation(state: Array) -> Array:
    first, second, *speeds = state
    return jnp.stack([jnp.cos(first), jnp.sin(first), jnp.cos(second), jnp.sin(second), *speeds])


def _runge_kutta(state: Array, torque: Array) -> Array:
    """One step of the classical method of fourth order."""
    k1 = _derivative(state, torque)
    k2 = _derivative(state + TAU / 2 * k1, torque)
    k3 = _derivative(state + TAU / 2 * k2, torque)
    k4 = _derivative(state + TAU * k3, torque)
    return state + TAU / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def _derivative(state: Array, torque: Any) -> Array:
    """Speeds and accelerations of both joints."""
    theta_1, theta_2, speed_1, speed_2 = state
    moment = MASS * LENGTH * CENTRE
    cos, sin = jnp.cos(theta_2), jnp.sin(theta_2)
    d_1 = MASS * (2 * CENTRE**2 + LENGTH**2) + 2 * moment * cos + 2 * INERTIA
    d_2 = MASS * CENTRE**2 + moment * cos + INERTIA
    phi_2 = MASS * CENTRE * GRAVITY * jnp.sin(theta_1 + theta_2)
    phi_1 = -moment * speed_2 * (speed_2 + 2 * speed_1) * sin
    phi_1 += MASS * (CENTRE + LENGTH) * GRAVITY * jnp.sin(theta_1) + phi_2
    acceleration_2 = torque + d_2 / d_1 * phi_1 - moment * jnp.square(speed_1) * sin - phi_2
    acceleration_2 /= MASS * CENTRE**2 + INERTIA - jnp.square(d_2) / d_1
    acceleration_1 = -(d_2 * acceleration_2 + phi_1) / d_1
    return jnp.stack([speed_1, speed_2, acceleration_1, acceleration_2])

"""CartPole-v1 as two pure functions: a pole on a cart is to be kept upright."""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jax import Array

GRAVITY, CART_MASS, POLE_MASS, HALF_LENGTH = 9.8, 1.0, 0.1, 0.5  # m/s^2, kg, kg, m
TOTAL_MASS = CART_MASS + POLE_MASS
FORCE, TAU = 10.0, 0.02  # N, s
MAX_X, MAX_THETA = 2.4, 12 * 2 * math.pi / 360  # m, rad: beyond them the episode is over.
OBS_BOUND = np.array([2 * MAX_X, np.inf, 2 * MAX_THETA, np.inf], np.float32)


@dataclasses.dataclass(frozen=True)
class CartPole:
    """The state is the observation: `[x, x_dot, theta, theta_dot]`, in metres, radians and seconds.

    Source: Barto, Sutton and Anderson 1983, "Neuronlike adaptive elements that can solve difficult learning control
    problems"; its equations of motion are those of Florian 2007, "Correct equations for the dynamics of the cart-pole
    system", without friction; Gymnasium's CartPole-v1 has the same numbers.
    """

    observation_space: ClassVar[spaces.Box] = spaces.Box(-OBS_BOUND, OBS_BOUND, dtype=np.float32)
    action_space: ClassVar[spaces.Discrete] = spaces.Discrete(2)
    time_limit: ClassVar[int] = 500

    def reset(self, key: Array) -> tuple[Array, Array]:
        """Each number uniform in [-0.05, 0.05]."""
        state = jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)
        return state, state

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, Array, Any, Array]:
        """One Euler step of 0.02 s under the force of `action`: 0 pushes to the left, 1 to the right. Reward 1."""
        x, x_dot, theta, theta_dot = state
        force = jnp.where(action == 1, FORCE, -FORCE)
        cos, sin = jnp.cos(theta), jnp.sin(theta)
        push = (force + POLE_MASS * HALF_LENGTH * jnp.square(theta_dot) * sin) / TOTAL_MASS
        theta_acc = (GRAVITY * sin - cos * push) / (HALF_LENGTH * (4 / 3 - POLE_MASS * jnp.square(cos) / TOTAL_MASS))
        x_acc = push - POLE_MASS * HALF_LENGTH * theta_acc * cos / TOTAL_MASS
        x, x_dot = x + TAU * x_dot, x_dot + TAU * x_acc
        theta, theta_dot = theta + TAU * theta_dot, theta_dot + TAU * theta_acc
        state = jnp.stack([x, x_dot, theta, theta_dot])
        return state, state, 1.0, (jnp.abs(x) > MAX_X) | (jnp.abs(theta) > MAX_THETA)

"""MountainCar-v0 and MountainCarContinuous-v0 as two pure functions each: a car in a valley is to be rocked up the hill
on its right. Their states are their observations, `[position, velocity]`."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jax import Array

GRAVITY = 0.0025  # Units of length per step^2, as all that follows.
MIN_POSITION, MAX_POSITION, MAX_SPEED = -1.2, 0.6, 0.07
LOW, HIGH = np.array([[MIN_POSITION, -MAX_SPEED], [MAX_POSITION, MAX_SPEED]], np.float32)


@dataclasses.dataclass(frozen=True)
class MountainCar:
    """Three pushes: left, none, right.

    Source: Moore 1990, "Efficient memory-based learning for robot control"; Gymnasium's MountainCar-v0 has the same
    numbers.
    """

    observation_space: ClassVar[spaces.Box] = spaces.Box(LOW, HIGH, dtype=np.float32)
    action_space: ClassVar[spaces.Discrete] = spaces.Discrete(3)
    time_limit: ClassVar[int] = 200

    def reset(self, key: Array) -> tuple[Array, Array]:
        """At rest, the position uniform in [-0.6, -0.4]."""
        return _start(key)

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, Array, Any, Array]:
        """Reward -1, until the car is at 0.5 and does not roll back."""
        state = _roll(state, 0.001 * (jnp.asarray(action, state.dtype) - 1))
        return state, state, -1.0, _is_up(state, 0.5)


@dataclasses.dataclass(frozen=True)
class MountainCarContinuous:
    """A push of any strength in [-1, 1].

    Source: Gymnasium's MountainCarContinuous-v0, whose numbers these are.
    """

    observation_space: ClassVar[spaces.Box] = spaces.Box(LOW, HIGH, dtype=np.float32)
    action_space: ClassVar[spaces.Box] = spaces.Box(-1.0, 1.0, (1,), np.float32)
    time_limit: ClassVar[int] = 999

    def reset(self, key: Array) -> tuple[Array, Array]:
        """At rest, the position uniform in [-0.6, -0.4]."""
        return _start(key)

    def step(self, state: Array, action: Array, key: Array) -> tuple[Array, Array, Array, Array]:
        """Reward `-push^2 / 10`, and 100 when the car is at 0.45 and does not roll back."""
        push = jnp.asarray(action[0], state.dtype)
        state = _roll(state, 0.0015 * push)
        is_up = _is_up(state, 0.45)
        return state, state, jnp.where(is_up, 100.0, 0.0) - 0.1 * jnp.square(push), is_up


def _start(key: Array) -> tuple[Array, Array]:
    position = jax.random.uniform(key, minval=-0.6, maxval=-0.4)
    state = jnp.stack([position, jnp.zeros_like(position)])
    return state, state


def _roll(state: Array, push: Array) -> Array:
    """One step; at the wall on the left the car stops."""
    position, velocity = state
    velocity = jnp.clip(velocity + push - GRAVITY * jnp.cos(3 * position), -MAX_SPEED, MAX_SPEED)
    position = jnp.clip(position + velocity, MIN_POSITION, MAX_POSITION)
    velocity = jnp.where((position == MIN_POSITION) & (velocity < 0), 0, velocity)
    return jnp.stack([position, velocity])


def _is_up(state: Array, goal: float) -> Array:
    position, velocity = state
    return (position >= goal) & (velocity >= 0)

"""The replay buffer: a pytree of arrays and pure functions. Under `jax.jit` with the buffer donated, adding writes in
place, whatever the capacity, and sampling can sit in the same device call as the update that it feeds."""

import functools
import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from jaxrl.data.memory import free_bytes
from jaxrl.data.transition import Transition
from jaxrl.device import check_process, compiled
from jaxrl.errors import BadInput

MOST_ROWS = 2**31 - 1  # Rows are counted in int32.


class Replay(struct.PyTreeNode):
    """The last `capacity` transitions, oldest overwritten first.

    Attributes:
      rows: fields with leading axis `(capacity,)`, float32 and boolean, but for observations that are kept in another
        type; without `valid`, because only valid rows enter.
      position: where the next row goes.
      size: how many rows are filled; they are the first ones.
    """

    rows: Transition
    position: Array
    size: Array

    @property
    def capacity(self) -> int:
        """How many transitions fit."""
        return self.rows.reward.shape[0]


def replay_init(capacity: int, obs_dim: int, action_dim: int, *, obs_dtype: Any = np.float32) -> Replay:
    """An empty buffer, all of its memory taken at once.

    Args:
      capacity: how many transitions it holds.
      obs_dim: S, numbers in an observation.
      action_dim: A, numbers in an action.
      obs_dtype: the type in which observations are kept: np.uint8 keeps pixels in a quarter of the memory.

    Returns:
      The buffer.

    Raises:
      BadInput: a size below 1, a type that is neither np.float32 nor np.uint8, or more memory than there is.
    """
    for name, number in {"capacity": capacity, "obs_dim": obs_dim, "action_dim": action_dim}.items():
        if number < 1:
            raise BadInput(f"replay {name} is {number}: it must be at least 1")
    if obs_dtype not in (np.float32, np.uint8):
        raise BadInput(f"replay obs_dtype is {obs_dtype}: it must be np.float32 or np.uint8")
    check_capacity(capacity, obs_dim, action_dim, np.dtype(obs_dtype).itemsize)
    check_process()
    return _empty(capacity, obs_dim, action_dim, np.dtype(obs_dtype))


@compiled
def replay_add(replay: Replay, transition: Transition) -> Replay:
    """The buffer with N more transitions, in their order; those that are not valid are left out.

    Args:
      replay: donate it (`jax.jit(replay_add, donate_argnums=0)`) and the cost does not depend on its capacity.
      transition: fields with leading axis `(N,)`.

    Returns:
      The buffer. If more than `capacity` valid rows come at once, the last ones stay.

    Raises:
      AssertionError: a shape is wrong; the message names the field.
    """
    chex.assert_rank(transition.reward, 1, custom_message="transition.reward must be (N,)")
    num_rows = jnp.shape(transition.reward)[0]
    for name, row in replay.rows._asdict().items():
        if row is not None:
            shape = num_rows, *row.shape[1:]
            chex.assert_shape(getattr(transition, name), shape, custom_message=f"transition.{name} must be {shape}")
    valid = jnp.ones(num_rows, bool) if transition.valid is None else jnp.asarray(transition.valid, bool)
    chex.assert_shape(valid, (num_rows,), custom_message=f"transition.valid must be ({num_rows},)")

    # Each valid row's rank among them says where it goes. Of those that fall on one place only the last may be written;
    # the others, like invalid rows, are sent out of bounds, where a write is dropped.
    count, rank = valid.sum(dtype=jnp.int32), jnp.cumsum(valid, dtype=jnp.int32) - 1
    stays = valid & (rank >= count - replay.capacity)
    place = jnp.where(stays, (replay.position + rank) % replay.capacity, replay.capacity)
    rows = jax.tree.map(
        lambda stored, new: stored.at[place].set(jnp.asarray(new, stored.dtype), mode="drop"),
        replay.rows,
        transition._replace(valid=None),
    )
    return Replay(
        rows,
        position=((replay.position + count) % replay.capacity).astype(jnp.int32),
        size=jnp.minimum(replay.size + count, replay.capacity).astype(jnp.int32),
    )


def replay_sample(replay: Replay, key: Array, batch_size: int) -> Transition:
    """Draws transitions uniformly, with replacement.

    Args:
      replay: at least one row must be filled.
      key: JAX key.
      batch_size: B, how many to draw.

    Returns:
      Fields with leading axis `(B,)`.

    Raises:
      BadInput: the buffer is empty. Under `jax.jit`, where its size is not known, the rewards of such a batch are NaN,
        which no kernel learns from.
    """
    if batch_size < 1:
        raise BadInput(f"batch_size is {batch_size}: it must be at least 1")
    if not isinstance(replay.size, jax.core.Tracer) and jax.device_get(replay.size) == 0:
        raise BadInput("the replay buffer is empty: add transitions before sampling from it")
    return _drawn(replay, key, batch_size)


@functools.partial(jax.jit, static_argnames="batch_size", inline=True)
def _drawn(replay: Replay, key: Array, batch_size: int) -> Transition:
    index = jax.random.randint(key, (batch_size,), 0, replay.size)
    batch = jax.tree.map(lambda stored: stored[index], replay.rows)
    return batch._replace(reward=jnp.where(replay.size > 0, batch.reward, jnp.nan))


def replay_like(replay: Replay, size: int) -> Transition:
    """Arrays of the shapes and types of `size` of the buffer's rows, in NumPy."""
    return jax.tree.map(lambda stored: np.empty((size, *stored.shape[1:]), stored.dtype), replay.rows)


def replay_refill(replay: Replay, rows: Transition, position: int) -> Replay:
    """A buffer, which is consumed, with these rows in its first places, and the next to be written at `position`."""
    size = len(rows.reward)
    if position != size and not (size == replay.capacity and 0 <= position < size):
        raise BadInput(
            f"{size:,} rows with the next place at {position:,} cannot have come from a replay buffer of "
            f"{replay.capacity:,}"
        )
    # One field after the other and in place, so that this never holds the buffer twice.
    put = jax.jit(lambda stored, new: jax.lax.dynamic_update_slice_in_dim(stored, new, 0, 0), donate_argnums=0)
    filled = jax.tree.map(lambda stored, new: put(stored, jax.device_put(new)), replay.rows, rows)
    return Replay(filled, *jax.device_put((np.int32(position % replay.capacity), np.int32(size))))


def check_capacity(capacity: int, obs_dim: int, action_dim: int, obs_bytes: int = 4) -> None:
    """Raises BadInput if a buffer of this size does not fit into the memory of the device."""
    row = 2 * obs_dim * obs_bytes + (action_dim + 1) * 4 + 2
    room = free_bytes()
    fits = min(int(room / row), MOST_ROWS) if math.isfinite(room) else MOST_ROWS
    if capacity > fits:
        raise BadInput(
            f"buffer_size {capacity:,} takes {capacity * row / 2**30:.1f} GiB at {row} bytes a transition: "
            f"at most {fits:,} fit here ({min(room, fits * row) / 2**30:.1f} GiB)"
        )


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _empty(capacity: int, obs_dim: int, action_dim: int, obs_dtype: np.dtype) -> Replay:
    rows = Transition(
        obs=jnp.zeros((capacity, obs_dim), obs_dtype),
        action=jnp.zeros((capacity, action_dim), jnp.float32),
        reward=jnp.zeros(capacity, jnp.float32),
        next_obs=jnp.zeros((capacity, obs_dim), obs_dtype),
        terminated=jnp.zeros(capacity, bool),
        truncated=jnp.zeros(capacity, bool),
    )
    return Replay(rows, position=jnp.zeros((), jnp.int32), size=jnp.zeros((), jnp.int32))

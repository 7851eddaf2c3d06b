"""A rollout as an update sees it: its shapes checked, its invalid rows weighing nothing, its rows shuffled."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import Array

from jaxrl.errors import BadInput
from jaxrl.transition import Transition


def weigh_rollout(rollout: Transition, dtype: Any) -> tuple[Transition, Array]:
    """The rollout in the parameters' type, and the weight of each row: 1, or 0 where it is not valid.

    What stands in a row that is not valid, NaN included, is replaced by zeros, because 0 * NaN would still be NaN.

    Args:
      rollout: leading axes `(T, N)`; observations `(T, N, S)`.
      dtype: floating type of the parameters.

    Returns:
      The rollout, and weights `(T, N)` of type `dtype`.

    Raises:
      AssertionError: a shape is wrong; the message names the field.
    """
    # T and N are what most fields say, so that the odd one out gets the blame.
    leading = [jnp.shape(field)[:2] for field in rollout if field is not None]
    shape = max(leading, key=leading.count)
    chex.assert_shape(rollout.obs, (*shape, None), custom_message="rollout.obs must be (T, N, S)")
    chex.assert_shape(rollout.next_obs, jnp.shape(rollout.obs), custom_message="rollout.next_obs must be like obs")
    chex.assert_shape(rollout.action, (*shape, ...), custom_message="rollout.action must be (T, N) or (T, N, A)")
    for name in ("reward", "terminated", "truncated", "valid"):
        field = getattr(rollout, name)
        if field is not None:
            chex.assert_shape(field, shape, custom_message=f"rollout.{name} must be (T, N)")
    real = {name: jnp.asarray(getattr(rollout, name), dtype) for name in ("obs", "reward", "next_obs")}
    rollout = jax.tree.map(jnp.asarray, rollout)._replace(**real)
    valid = rollout.valid
    if valid is None:
        return rollout, jnp.ones(shape, dtype)

    def blank(x: Array) -> Array:
        return jnp.where(valid.reshape(shape + (1,) * (jnp.ndim(x) - 2)), x, jnp.zeros_like(x))

    return jax.tree.map(blank, rollout)._replace(valid=valid), valid.astype(dtype)


def shuffled_minibatches(key: Array, num_rows: int, num_epochs: int, num_minibatches: int) -> Array:
    """Row numbers of every gradient step, shuffled anew each epoch.

    Args:
      key: JAX key.
      num_rows: rows of the rollout, T * N.
      num_epochs, num_minibatches: how often each row is used, and in how many parts.

    Returns:
      `(num_epochs * num_minibatches, num_rows / num_minibatches)`, int32; each epoch's part holds every row once.

    Raises:
      BadInput: the minibatches do not divide the rows, or would hold a single one, whose standardised advantage is 0.
    """
    size, rest = divmod(num_rows, num_minibatches)
    if rest:
        raise BadInput(f"num_minibatches {num_minibatches} does not divide the rollout's {num_rows} rows")
    if size < 2:
        raise BadInput(f"num_minibatches {num_minibatches} leaves one row to each minibatch: it must leave 2 or more")
    if num_minibatches == 1:
        return jnp.tile(jnp.arange(num_rows, dtype=jnp.int32), (num_epochs, 1))
    # Random high bits over the row number in the low ones: sorting single words takes a CPU an eighth of the time of
    # jax.random.permutation, which sorts pairs, twice. Rows whose high bits agree keep their order; that they are
    # neighbours is as random as before.
    low = jnp.uint32((1 << (num_rows - 1).bit_length()) - 1)
    bits = jax.random.bits(key, (num_epochs, num_rows), jnp.uint32)
    order = jnp.sort(bits & ~low | jnp.arange(num_rows, dtype=jnp.uint32), axis=1) & low
    return order.astype(jnp.int32).reshape(-1, size)

"""Rows of transitions as an update sees them: shapes checked, invalid rows weighing nothing, rows shuffled."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import Array

from jaxrl.data.transition import Transition
from jaxrl.device import split_over_devices
from jaxrl.errors import BadInput


def mask_invalid(rows: Transition, name: str, axes: str, dtype: Any) -> tuple[Transition, Array]:
    """The rows in the parameters' type, and the weight of each: 1, or 0 where it is not valid.

    The content of a row that is not valid, NaN included, is replaced by zeros, because 0 * NaN would still be NaN.
    Flags may be numbers, each 0 or 1. The reward of a valid row with another flag becomes NaN, so that nothing is
    learned from it.

    Args:
      rows: observations and actions have one axis more than the other fields (discrete actions may have none).
      name: what to call them in a complaint: "rollout", "batch".
      axes: the leading axes by name: "TN", "B".
      dtype: floating type of the parameters.

    Returns:
      The rows, their flags as booleans, and weights of the leading axes' shape and of type `dtype`.

    Raises:
      AssertionError: a shape is wrong; the message names the field.
      BadInput: it is no Transition, lacks a field, or is a batch where a rollout is wanted, or the reverse.
    """
    rank, names = len(axes), ", ".join(axes)
    if not isinstance(rows, Transition):
        raise BadInput(f"{name} is a {type(rows).__name__}: it must be a Transition")
    if missing := [part for part, field in rows._asdict().items() if field is None and part != "valid"]:
        raise BadInput(f"{name}.{missing[0]} is None: only valid may be")
    # The rank and the leading shape are what most fields say, so that the odd one out gets the blame.
    ranks = [jnp.ndim(field) for field in (rows.reward, rows.terminated, rows.truncated)]
    if max(ranks, key=ranks.count) != rank:
        raise BadInput(
            f"{name}.reward has the shape {jnp.shape(rows.reward)}: it must have {rank} axes, ({names}); "
            "ppo_update takes a rollout, (T, N), and ddpg_update a batch, (B,)"
        )
    leading = [jnp.shape(field)[:rank] for field in rows if field is not None]
    shape = max(leading, key=leading.count)
    chex.assert_shape(rows.obs, (*shape, None), custom_message=f"{name}.obs must be ({names}, S)")
    chex.assert_shape(rows.next_obs, jnp.shape(rows.obs), custom_message=f"{name}.next_obs must be like obs")
    chex.assert_shape(rows.action, (*shape, ...), custom_message=f"{name}.action must be ({names}) or ({names}, A)")
    for part in ("reward", "terminated", "truncated", "valid"):
        field = getattr(rows, part)
        if field is not None:
            chex.assert_shape(field, shape, custom_message=f"{name}.{part} must be ({names})")
    real = {part: jnp.asarray(getattr(rows, part), dtype) for part in ("obs", "reward", "next_obs")}
    rows = Transition(*(None if field is None else jnp.asarray(field) for field in rows._replace(**real)))
    rows = _with_flags(rows)
    valid = rows.valid
    if valid is None:
        return rows, jnp.ones(shape, dtype)

    def blank(x: Array) -> Array:
        return jnp.where(valid.reshape(shape + (1,) * (jnp.ndim(x) - rank)), x, jnp.zeros_like(x))

    return jax.tree.map(blank, rows)._replace(valid=valid), valid.astype(dtype)


def _with_flags(rows: Transition) -> Transition:
    """The rows with booleans for flags, and with NaN for the reward where a flag is neither 0 nor 1."""
    for part in ("terminated", "truncated", "valid"):
        flag = getattr(rows, part)
        if flag is not None and flag.dtype != bool:
            is_one = (flag == 0) | (flag == 1)
            rows = rows._replace(**{part: flag != 0, "reward": jnp.where(is_one, rows.reward, jnp.nan)})
    return rows


def shuffled_minibatches(key: Array, num_rows: int, num_epochs: int, num_minibatches: int) -> Array:
    """Row numbers of every gradient step, shuffled anew each epoch.

    Args:
      key: JAX key.
      num_rows: rows of the rollout, T * N, or of the batch.
      num_epochs, num_minibatches: how often each row is used, and in how many parts.

    Returns:
      `(num_epochs * num_minibatches, num_rows / num_minibatches)`, int32; each epoch's part holds every row once.

    Raises:
      BadInput: the minibatches do not divide the rows, or would hold a single one, whose standardised advantage is 0.
    """
    size, rest = divmod(num_rows, num_minibatches)
    if rest:
        raise BadInput(f"num_minibatches {num_minibatches} does not divide {num_rows} rows")
    if size < 2:
        raise BadInput(f"num_minibatches {num_minibatches} leaves one row to each minibatch: it must leave 2 or more")
    if num_minibatches == 1:
        return split_over_devices(jnp.tile(jnp.arange(num_rows, dtype=jnp.int32), (num_epochs, 1)), 1)
    # Random high bits over the row number in the low ones: sorting single words takes a CPU an eighth of the time of
    # jax.random.permutation, which sorts pairs, twice. Rows whose high bits agree keep their order; that they are
    # neighbours is as random as before.
    low = jnp.uint32((1 << (num_rows - 1).bit_length()) - 1)
    bits = jax.random.bits(key, (num_epochs, num_rows), jnp.uint32)
    order = jnp.sort(bits & ~low | jnp.arange(num_rows, dtype=jnp.uint32)[None], axis=1) & low
    return split_over_devices(order.astype(jnp.int32).reshape(-1, size), 1)

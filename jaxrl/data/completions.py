"""Completions of prompts and their rewards: the record that samplers, rewards and `rloo_update` exchange, and what such
a record must be."""

from typing import Any, NamedTuple

import chex
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrl.errors import BadInput
from jaxrl.ops.arrays import common_type
from jaxrl.ops.sequences import peers

MAY_BE_NONE = "attention", "valid", "log_prob"
INT32 = np.iinfo(np.int32)


class Completions(NamedTuple):
    """B rows of L tokens, each a prompt and one completion of it.

    Attributes:
      tokens: `(B, L)`, whole numbers.
      mask: `(B, L)`, boolean: true on the completion's tokens, its end token included; false on the prompt and on
        padding. It comes from whoever made the completion: a token's number does not say whether it is padding, which
        may be the end token's.
      reward: `(B,)`, of each completion as a whole.
      group: `(B,)`, whole numbers: which prompt a row answers. Rows of a group may stand anywhere.
      attention: `(B, L)`, boolean: true on prompt and completion, false on padding; None where there is no padding.
        Padding may be on either side.
      valid: `(B,)`, boolean, or None when every row counts. A row that is not valid weighs nothing anywhere.
      log_prob: `(B,)`, the log-probability (nats) of the completion by the policy that sampled it, or None where that
        is the policy as the update finds it.
    """

    tokens: Any
    mask: Any
    reward: Any
    group: Any
    attention: Any = None
    valid: Any = None
    log_prob: Any = None


def check_completions(completions: Completions, vocab_size: int, prompt_mask: Any = None) -> None:
    """Raises BadInput, on the host, unless an update can learn from every valid row.

    Inside a compiled program nothing can be raised: there, rows that this refuses weigh nothing and are counted.

    Args:
      completions: arrays of NumPy or JAX.
      vocab_size: how many tokens there are.
      prompt_mask: `(B, L)`, boolean: true on the prompt; None where it is not known.

    Raises:
      BadInput: a field is missing or has a wrong shape or type; a token is not in the vocabulary; a completion has no
        token, or one that no logits predict, or one of the prompt's; a reward or log-probability is not finite; a group
        has one valid row. The message names the field and the first such row.
    """
    _check_fields(completions)
    tokens, mask, reward, group, attention, valid, log_prob = (
        None if field is None else np.asarray(field) for field in completions
    )
    prompt = None if prompt_mask is None else np.asarray(prompt_mask)
    assert tokens is not None and mask is not None and reward is not None and group is not None
    of_tokens = {"tokens": tokens, "mask": mask, "attention": attention, "prompt_mask": prompt}
    of_rows = {"reward": reward, "group": group, "valid": valid, "log_prob": log_prob}
    if tokens.ndim != 2:
        raise BadInput(f"tokens has the shape {tokens.shape}: it must be (B, L)")
    for name, field in (of_tokens | of_rows).items():
        expected = tokens.shape if name in of_tokens else tokens.shape[:1]
        if field is not None and field.shape != expected:
            raise BadInput(f"{name} has the shape {field.shape}: it must be {expected}, as tokens have {tokens.shape}")
    for name, field in {**of_tokens, "valid": valid}.items():
        if name != "tokens" and field is not None and not np.isin(field, (0, 1)).all():
            raise BadInput(f"{name} holds numbers that are neither 0 nor 1: it must hold booleans")
    if group.size and not (INT32.min <= group.min() and group.max() <= INT32.max):
        raise BadInput(f"group goes from {group.min()} to {group.max()}: its numbers must fit into 32 bits")
    mask = mask.astype(bool)
    attention = np.ones_like(mask) if attention is None else attention.astype(bool)
    valid = np.ones(len(mask), bool) if valid is None else valid.astype(bool)
    prompt = np.zeros_like(mask) if prompt is None else prompt.astype(bool)
    outside = attention & ((tokens < 0) | (tokens >= vocab_size))
    size = (group[:, None] == group[None, valid]).sum(1)
    complaints = {
        f"tokens are outside the vocabulary: they must be from 0 to {vocab_size - 1}": outside.any(1),
        "mask marks no token: a completion must have one, its end token at least": ~mask.any(1),
        "mask marks the prompt: it must be false there": (mask & prompt).any(1),
        "mask marks padding: attention must be true wherever mask is": (mask & ~attention).any(1),
        "mask marks the first of the tokens, which nothing predicts: a prompt must have a token": _first(
            attention, mask
        ),
        "mask marks a token that comes after padding: a completion must follow its prompt at once": _torn(
            attention, mask
        ),
        "reward is not finite": ~_finite(reward),
        "log_prob is not finite": ~_finite(0.0 if log_prob is None else log_prob),
        "group has one valid row alone: each prompt must have 2 completions or more": size < 2,
    }
    for words, rows in complaints.items():
        if (rows & valid).any():
            what, colon, rest = words.partition(":")
            raise BadInput(f"{what}, in row {int(np.argmax(rows & valid))}{colon}{rest}")


def check_shapes(completions: Completions) -> None:
    """Raises AssertionError, naming the field, for a wrong shape, and BadInput for a missing field or a wrong type."""
    _check_fields(completions)
    chex.assert_rank(completions.tokens, 2, custom_message="completions.tokens must be (B, L)")
    shape = jnp.shape(completions.tokens)
    for name, field in completions._asdict().items():
        axes = "(B, L)" if name in ("tokens", "mask", "attention") else "(B,)"
        if field is not None:
            expected = shape if axes == "(B, L)" else shape[:1]
            chex.assert_shape(field, expected, custom_message=f"completions.{name} must be {axes}")


def mask_unusable(completions: Completions, vocab_size: int, dtype: Any) -> tuple[Completions, Array, Array]:
    """Inside a compiled program: the completions as an update computes with them, and which rows it can use.

    Args:
      completions: as of `check_completions`.
      vocab_size: how many tokens there are.
      dtype: floating type of rewards and log-probabilities.

    Returns:
      The completions, all fields but `log_prob` filled in, with tokens in the vocabulary everywhere, and with attention
      to all of a row that cannot be learned from; `(B,)`, the rows
      that the caller calls valid; `(B,)`, those of them that can be learned from.

    Raises:
      AssertionError: a shape is wrong; the message names the field.
      BadInput: it is no Completions, or a field is missing or of a wrong type.
    """
    check_shapes(completions)
    shape = jnp.shape(completions.tokens)
    tokens, group = jnp.asarray(completions.tokens), jnp.asarray(completions.group)
    # An int8 or uint8 cannot hold every vocabulary's size, and would be compared with what is left of it.
    tokens = tokens.astype(common_type(tokens.dtype, jnp.int32))
    mask, odd_mask = _flags(completions.mask)
    attention, odd_attention = _flags(jnp.ones(shape, bool) if completions.attention is None else completions.attention)
    valid, odd_valid = _flags(jnp.ones(shape[:1], bool) if completions.valid is None else completions.valid)
    outside = (tokens < 0) | (tokens >= vocab_size)
    bad = odd_mask | odd_attention | (outside & attention) | (mask & ~attention)
    sound = ~bad.any(1) & mask.any(1) & ~odd_valid & ~_first(attention, mask) & ~_torn(attention, mask)
    tokens = jnp.where(outside | ~attention, 0, tokens)
    valid |= odd_valid  # So that they are counted.
    usable = valid & sound
    # A row of nothing but padding makes a softmax without an argument of some policies, and NaN of all gradients.
    attention |= ~usable[:, None]
    reward, log_prob = jnp.asarray(completions.reward).astype(dtype), completions.log_prob
    log_prob = None if log_prob is None else jnp.asarray(log_prob).astype(dtype)
    return Completions(tokens, mask, reward, group, attention, valid, log_prob), valid, usable


def finite_groups(number: Array, group: Array, usable: Array) -> Array:
    """Which usable rows can be compared: those whose group has two or more, all of them with a finite number.

    Args:
      number: `(B,)`.
      group: `(B,)`, whole numbers.
      usable: `(B,)`, boolean.

    Returns:
      Booleans, `(B,)`.
    """
    together = peers(group, usable)
    return usable & (together.sum(1) > 1) & ~(together & ~jnp.isfinite(number)[None, :]).any(1)


def _check_fields(completions: Completions) -> None:
    """Raises BadInput unless it is a Completions, with every field that it must have, of whole numbers where these are
    to be."""
    if not isinstance(completions, Completions):
        raise BadInput(f"completions is a {type(completions).__name__}: it must be a Completions")
    for name, field in completions._asdict().items():
        if field is None:
            if name not in MAY_BE_NONE:
                raise BadInput(f"{name} is None: only {', '.join(MAY_BE_NONE)} may be")
        elif not hasattr(field, "dtype"):
            raise BadInput(f"{name} is a {type(field).__name__}: it must be an array")
        elif name in ("tokens", "group") and not jnp.issubdtype(field.dtype, jnp.integer):
            raise BadInput(f"{name} is of type {field.dtype}: it must hold whole numbers")


@np.errstate(over="ignore")
def _finite(number: Any) -> Any:
    """Where a number is finite in the type that an update computes in: in float32, 1e39 is not."""
    return np.isfinite(np.asarray(number).astype(jnp.result_type(float)))


def _flags(field: Any) -> tuple[Array, Array]:
    """A field of booleans, or of numbers that are 0 or 1, as booleans, and where it holds other numbers."""
    field = jnp.asarray(field)
    return (field, jnp.zeros_like(field)) if field.dtype == bool else (field == 1, (field != 0) & (field != 1))


def _first(attention: Any, mask: Any) -> Any:
    """Rows whose completion begins where there is nothing before it."""
    return (mask & attention & (attention.cumsum(1) == 1)).any(1)


def _torn(attention: Any, mask: Any) -> Any:
    """Rows with a completion token right after padding."""
    return (mask[:, 1:] & ~attention[:, :-1]).any(1)

"""Whole sequences of tokens: what a policy thinks of a completion, and how much better it was than its siblings.

Logits are `(B, L, V)`: those at position t say how likely each of V tokens is at position t + 1. Positions that are not
of a completion do not count, whatever stands there. All is computed in float32 at least, also of a bfloat16 network.

Each is a program of its own where it is called eagerly, so that its constants are no transfers to the device. Inside
another program it is as if it was written there.
"""

import chex
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxrl.device import compiled
from jaxrl.ops.arrays import common_type


@compiled
def leave_one_out(reward: Array, group: Array, valid: Array | None = None) -> Array:
    """How much more reward each row got than the other rows of its group did on average.

    `A_i = R_i - 1 / (n - 1) * sum over j != i of R_j`, the sum over the n valid rows of i's group.

    It is computed as `1 / (n - 1) * sum_j (R_i - R_j)`, which is exactly 0 where all rewards are equal.

    Args:
      reward: `(B,)`.
      group: `(B,)`, whole numbers: rows of equal numbers are one group. Groups may have any size and any order.
      valid: `(B,)`, boolean (or 0 and 1), or None for all. The content of other rows does not matter.

    Returns:
      Advantages, `(B,)`. A row that is not valid, or alone in its group, has 0.

    Raises:
      AssertionError: a shape is wrong; the message names the argument.

    Source: Ahmadian et al. 2024 (arXiv 2402.14740), equation 9; Kool et al. 2019, "Buy 4 REINFORCE samples, get a
    baseline for free!".
    """
    chex.assert_rank(reward, 1, custom_message="reward must be (B,)")
    for name, argument in {"group": group, "valid": valid}.items():
        if argument is not None:
            chex.assert_shape(argument, jnp.shape(reward), custom_message=f"{name} must be shaped like reward")
    together = peers(group, jnp.ones(jnp.shape(group), bool) if valid is None else jnp.asarray(valid, bool))
    reward = jnp.asarray(reward)
    reward = reward.astype(common_type(reward.dtype, jnp.float32))
    difference = jnp.where(together, reward[:, None] - reward[None, :], 0)
    return difference.sum(1) / jnp.maximum(together.sum(1) - 1, 1).astype(reward.dtype)


@compiled
def peers(group: Array, valid: Array) -> Array:
    """Which rows are of one group, `(B, B)`: true at (i, j) where i and j have the same group and are both valid.

    Args:
      group: `(B,)`, whole numbers.
      valid: `(B,)`, boolean.

    Returns:
      Booleans, `(B, B)`, the diagonal included.
    """
    return (group[:, None] == group[None, :]) & valid[:, None] & valid[None, :]


@compiled
def sequence_log_prob(logits: Array, tokens: Array, mask: Array, temperature: ArrayLike = 1.0) -> Array:
    """The log-probability of each row's completion, given all that stands before it.

    `log pi(y) = sum over t of mask_t * log softmax(logits_{t-1} / temperature)[tokens_t]`

    Args:
      logits: `(B, L, V)`; those at position t predict the token at t + 1.
      tokens: `(B, L)`, whole numbers from 0 to V - 1.
      mask: `(B, L)`, boolean: true on completion tokens. The first position has nothing that predicts it, and does not
        count.
      temperature: divides the logits.

    Returns:
      Log-probabilities (nats), `(B,)`.

    Raises:
      AssertionError: a shape is wrong; the message names the argument.
    """
    _check(logits, mask, tokens=tokens)
    log_probs = _next_log_probs(logits, mask, temperature)
    taken = jnp.take_along_axis(log_probs, tokens[:, 1:, None], axis=-1)[..., 0]
    return jnp.where(mask[:, 1:], taken, 0).sum(-1)


@compiled
def sequence_entropy(logits: Array, mask: Array, temperature: ArrayLike = 1.0) -> Array:
    """The sum of the entropies of the distributions that a completion's tokens were drawn from.

    `sum over t of mask_t * H[softmax(logits_{t-1} / temperature)]`

    Its mean over completions that the policy drew is the entropy of whole completions, as an estimate of little
    variance.

    Args:
      logits, mask, temperature: as of `sequence_log_prob`.

    Returns:
      Entropies (nats), `(B,)`.

    Raises:
      AssertionError: a shape is wrong; the message names the argument.
    """
    _check(logits, mask)
    log_probs = _next_log_probs(logits, mask, temperature)
    probs = jnp.exp(log_probs)
    entropy = -jnp.where(probs > 0, probs * log_probs, 0).sum(-1)  # A token that is ruled out has 0 * -inf.
    return jnp.where(mask[:, 1:], entropy, 0).sum(-1)


def _check(logits: Array, mask: Array, **others: Array) -> None:
    chex.assert_rank(mask, 2, custom_message="mask must be (B, L)")
    chex.assert_shape(logits, (*jnp.shape(mask), None), custom_message="logits must be (B, L, V), with mask's B and L")
    for name, argument in others.items():
        chex.assert_shape(argument, jnp.shape(mask), custom_message=f"{name} must be shaped like mask")


def _next_log_probs(logits: Array, mask: Array, temperature: ArrayLike) -> Array:
    """Log-probabilities of the tokens at positions 1 to L - 1, `(B, L - 1, V)`."""
    # Zeros where nothing is predicted: a NaN there would reach the gradient in spite of a weight of 0.
    logits = jnp.where(mask[:, 1:, None], logits[:, :-1], jnp.zeros((), logits.dtype))
    logits = logits.astype(common_type(logits.dtype, jnp.float32))
    return jax.nn.log_softmax(logits / jnp.asarray(temperature, logits.dtype), axis=-1)

"""REINFORCE leave-one-out (RLOO) as a pure kernel: the policy gradient on whole completions of prompts.

Source: Ahmadian et al. 2024, "Back to basics: revisiting REINFORCE style optimization for learning from human feedback
in LLMs" (arXiv 2402.14740). One call of `rloo_update` is one update, of any function from tokens to logits.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from flax.training.train_state import TrainState
from jax import Array

from jaxrl.algos.checks import check_key, check_kind, described, strong, with_numbers
from jaxrl.algos.learner import Apply, adam, apply_gradients
from jaxrl.algos.rloo_config import RANGES, RLOOConfig, check_config
from jaxrl.data.batch import shuffled_minibatches
from jaxrl.data.completions import Completions, check_completions, check_shapes, finite_groups, mask_unusable
from jaxrl.device import check_process, compiled
from jaxrl.errors import BadInput
from jaxrl.ops.losses import clipped_surrogate, standardize, weighted_mean
from jaxrl.ops.sequences import leave_one_out, peers, sequence_entropy, sequence_log_prob

__all__ = [
    "METRICS",
    "Completions",
    "Policy",
    "RLOOConfig",
    "RLOOState",
    "check_completions",
    "rloo_init",
    "rloo_update",
]
METRICS = (
    "policy_loss",
    "reward",
    "kl",
    "entropy",
    "advantage_std",
    "clip_fraction",
    "grad_norm",
    "completion_length",
    "no_signal_fraction",
    "skipped_rows",
    "skipped_updates",
)
ADAM_EPS = 1e-8
MAX_LOG_RATIO = 20.0

Policy = Callable[[Any, Array, Array], Array]
"""`policy(params, tokens, attention) -> logits`: `(B, L)`, `(B, L)` to `(B, L, V)`. It counts positions by `attention`,
so that padding on either side gives the same."""


class RLOOState(struct.PyTreeNode):
    """All that one update hands to the next.

    Attributes:
      policy: the TrainState of the policy; its `apply_fn` is the function from parameters, tokens and attention to
        logits.
      reference_params: parameters of the same function, which stay as they are.
      key: JAX key.
      num_updates: updates done.
      config: the numbers.
    """

    policy: TrainState
    reference_params: Any
    key: Array
    num_updates: Array
    config: RLOOConfig

    def replace_config(self, **numbers: float) -> Self:
        """The same state with some of the config's numbers changed; compiles nothing anew.

        Raises:
          BadInput: one of them is static, or off (None) in this state, or out of its range.
        """
        return self.replace(config=with_numbers(self.config, numbers, RANGES, "rloo_init"))


class _Rows(NamedTuple):
    """Completions as minibatches see them: every field has one leading axis of B rows."""

    tokens: Array
    mask: Array
    attention: Array
    weight: Array
    old_log_prob: Array
    advantage: Array


def rloo_init(key: Array, config: RLOOConfig, policy: Policy, params: Any) -> RLOOState:
    """A fresh learner that goes on from given parameters; these are its reference too.

    Args:
      key: one JAX key, of either style: it shuffles minibatches.
      config: checked by `check_config`.
      policy: any function `(params, tokens, attention) -> logits`, see `Policy`; `module.apply` of a Flax module is
        one where the module takes tokens and attention. It draws nothing: dropout must be off. States of the same
        function, or of `apply` of equal modules, share their compiled programs.
      params: what the policy takes, a pytree of floating-point arrays. They are copied, once for the policy and once
        for the reference, so that the state can be donated.

    Returns:
      The state.

    Raises:
      BadInput: the key, the config, the policy or the parameters cannot work; one line says what would be right.
    """
    check_process()
    check_key(key)
    check_config(config)
    if not callable(policy):
        raise BadInput(f"policy is {described(policy)}: it must be a function (params, tokens, attention) -> logits")
    if isinstance(policy, nn.Module):
        raise BadInput("policy is a Flax module: it must be a function, such as the module's apply")
    leaves = jax.tree.leaves(params)
    if odd := [x for x in leaves if not jnp.issubdtype(getattr(x, "dtype", type(x)), jnp.floating)]:
        raise BadInput(f"params hold {described(odd[0])}: all must be arrays of floating-point numbers")
    if any(jnp.result_type(x) == jnp.float16 for x in leaves):
        raise BadInput("params hold float16, where Adam's epsilon of 1e-8 is 0: all must be float32 or bfloat16")
    if not leaves:
        raise BadInput("params hold no array: there is nothing to learn")
    owner = getattr(policy, "__self__", None)
    if isinstance(owner, nn.Module) and policy == owner.apply:
        policy = Apply(owner)
    return _fresh_state(key, strong(config), policy, params)


@functools.partial(jax.jit, static_argnames="policy")
def _fresh_state(key: Array, config: RLOOConfig, policy: Policy, params: Any) -> RLOOState:
    """Jitted, so that its constants are no transfers to the device."""
    tx, (mine, reference) = adam(ADAM_EPS, flat=False), (jax.tree.map(jnp.copy, params) for _ in range(2))
    return RLOOState(
        # Not by `TrainState.create`, which older versions of Flax have look for names in the parameters.
        policy=TrainState(jnp.zeros((), jnp.int32), policy, mine, tx, tx.init(mine)),
        reference_params=reference,
        key=jnp.copy(key),
        num_updates=jnp.zeros((), jnp.int32),
        config=config,
    )


@compiled
def rloo_update(state: RLOOState, completions: Completions) -> tuple[RLOOState, dict[str, Array]]:
    """One RLOO update: `num_epochs` passes of `num_minibatches` steps over completions, several of each prompt.

    `R_i = reward_i - kl_coef * (log pi_old(y_i) - log pi_ref(y_i))`
    `A_i = R_i - mean of R_j over the other valid rows j of i's group`, once, for the whole batch
    `r_i = pi(y_i) / pi_old(y_i)`, of whole completions; its logarithm is kept within -20 and 20
    Minimised: `-mean[ min(r A, clip(r, 1 - eps, 1 + eps) A) ]`; without clipping `-mean[ r A ]`, whose gradient is
    `-mean[ A grad log pi(y) ]` at r = 1.

    `log pi(y)` is the sum over the completion's tokens of their log-probabilities, with all logits divided by
    `temperature`. With `length_normalize` the logarithm of r is divided by the number of the completion's tokens.

    Nothing is learned from what cannot be learned from. Valid rows that weigh nothing are counted by `skipped_rows`:
    - Those that `check_completions` refuses: a token outside the vocabulary, a completion without a token, a mask on
      padding or on the first token, a group with one valid row.
    - All rows of a group in which a reward, or a log-probability of the old policy or the reference, is not finite.
    A step whose gradient or loss is not finite is skipped, and `skipped_updates` counts it.

    Args:
      state: from `rloo_init` or the last update. It is not consumed.
      completions: B rows. Where their `log_prob` is None, that of the state's policy is computed first.

    Returns:
      The new state, and metrics, all scalars. Over the rows that count: `reward` (the mean, without the KL), `kl` (mean
      of `log pi_old(y) - log pi_ref(y)`, an estimate of the divergence of whole completions in nats), `advantage_std`
      (before they are standardised), `completion_length` (mean, in tokens), `no_signal_fraction` (share of the groups
      whose rewards are all equal). Means over the steps taken: `policy_loss`, `entropy` (nats a token),
      `clip_fraction` (share of the rows whose ratio is outside its band, or whose logarithm was cut at 20),
      `grad_norm`. Counts: `skipped_rows`, `skipped_updates`.

    Raises:
      AssertionError: a shape is wrong; the message names the field.
      BadInput: it is no Completions, a field has a wrong type, the minibatches do not divide the rows or would hold one
        each, or the policy gives logits of another shape than `(B, L, V)`.

    Source: Ahmadian et al. 2024 (arXiv 2402.14740), section 3; Schulman et al. 2017 (arXiv 1707.06347) for the clip.
    """
    check_kind("state", state, RLOOState)
    config, policy = state.config, state.policy
    dtype = jnp.result_type(config.kl_coef)
    vocab_size = _vocab_size(state, completions)
    completions, valid, usable = mask_unusable(completions, vocab_size, dtype)
    tokens, mask, reward, group, attention, _, old_log_prob = completions
    key, shuffle_key = jax.random.split(state.key)

    # Before the update: how likely each completion was to the policy that drew it, and to the reference.
    def log_prob_under(params: Any) -> Array:
        logits = policy.apply_fn(params, tokens, attention)
        return sequence_log_prob(logits, tokens, mask & usable[:, None], config.temperature).astype(dtype)

    old_log_prob = log_prob_under(policy.params) if old_log_prob is None else old_log_prob
    log_ratio_to_reference = old_log_prob - log_prob_under(state.reference_params)

    # How much better each completion was than the others of its prompt.
    total = reward - config.kl_coef * log_ratio_to_reference
    counted = finite_groups(total, group, usable)
    weight = counted.astype(dtype)
    advantage = leave_one_out(total, group, counted)
    spread = jnp.sqrt(weighted_mean(jnp.square(advantage), weight))  # Their mean is 0.
    if config.normalize_advantages:
        advantage = standardize(advantage, weight)

    # Epochs over shuffled minibatches: one scan, so that all steps are one device call.
    mask &= counted[:, None]
    rows = _Rows(tokens, mask, attention, weight, jnp.where(counted, old_log_prob, 0), advantage)
    order = shuffled_minibatches(shuffle_key, len(weight), config.num_epochs, config.num_minibatches)

    def step(policy: TrainState, index: Array) -> tuple[TrainState, Any]:
        batch = jax.tree.map(lambda x: x[index], rows)
        (loss, info), grads = jax.value_and_grad(_loss, has_aux=True)(policy.params, state, batch)
        go = batch.weight.sum() > 0
        report = info | {"policy_loss": loss}
        policy, norm, finite = apply_gradients(policy, report, grads, config.learning_rate, go, config.max_grad_norm)
        return policy, (go, finite, report | {"grad_norm": norm})

    policy, (go, finite, of_steps) = jax.lax.scan(step, policy, order)

    taken = go & finite
    metrics = {name: weighted_mean(jnp.where(taken, x, 0), taken.astype(dtype)) for name, x in of_steps.items()}

    def mean(x: Array) -> Array:
        return weighted_mean(jnp.where(counted, x, 0), weight)

    alike, size = _alike(reward, group, counted)
    metrics |= {
        "reward": mean(reward),
        "kl": mean(log_ratio_to_reference),
        "advantage_std": spread,
        "completion_length": mean(mask.sum(1).astype(dtype)),
        "no_signal_fraction": weighted_mean(alike.astype(dtype), weight / size.astype(dtype)),
        "skipped_rows": (valid & ~counted).sum(),
        "skipped_updates": (go & ~finite).sum(),
    }
    new_state = state.replace(policy=policy, key=key, num_updates=state.num_updates + 1)
    return new_state, metrics


def _loss(params: Any, state: RLOOState, batch: _Rows) -> tuple[Array, dict[str, Array]]:
    """`-mean[ min(r A, clip(r, 1 - eps, 1 + eps) A) ]`, and what to report of it."""
    config, dtype = state.config, batch.weight.dtype
    logits = state.policy.apply_fn(params, batch.tokens, batch.attention)
    log_prob = sequence_log_prob(logits, batch.tokens, batch.mask, config.temperature).astype(dtype)
    length = batch.mask.sum(1).astype(dtype)
    log_ratio = log_prob - batch.old_log_prob
    if config.length_normalize:
        log_ratio /= jnp.maximum(length, 1)
    near = jnp.clip(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO)
    surrogate = clipped_surrogate(near, jnp.zeros_like(near), batch.advantage, config.clip_eps)
    outside = jnp.abs(log_ratio) > MAX_LOG_RATIO
    if config.clip_eps is not None:
        outside |= jnp.abs(jnp.expm1(near)) > config.clip_eps
    entropy = sequence_entropy(logits, batch.mask, config.temperature).astype(dtype)
    return -weighted_mean(surrogate, batch.weight), {
        "entropy": entropy.sum() / jnp.maximum(length.sum(), 1),
        "clip_fraction": weighted_mean(outside.astype(dtype), batch.weight),
    }


def _alike(reward: Array, group: Array, counted: Array) -> tuple[Array, Array]:
    """Of each row, whether all rewards of its group are equal, and how many rows count there (at least 1)."""
    together = peers(group, counted)
    differs = together & (reward[:, None] != reward[None, :])
    return ~differs.any(1), jnp.maximum(together.sum(1), 1)


def _vocab_size(state: RLOOState, completions: Completions) -> int:
    """The last axis of the policy's logits; BadInput if the others are not those of the tokens."""
    check_shapes(completions)
    tokens = jax.ShapeDtypeStruct(jnp.shape(completions.tokens), jnp.int32)
    attention = jax.ShapeDtypeStruct(tokens.shape, bool)
    logits = jax.eval_shape(state.policy.apply_fn, state.policy.params, tokens, attention)
    shape = getattr(logits, "shape", None)
    if shape is None or len(shape) != 3 or shape[:2] != tokens.shape:
        found = described(logits) if shape is None else f"logits of shape {shape}"
        raise BadInput(f"policy gives {found} for tokens of shape {tokens.shape}: it must give (B, L, V)")
    return int(shape[2])

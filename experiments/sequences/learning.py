"""The start of RLOO, and its rival: supervised steps on demonstrations, and REINFORCE without a baseline."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrl.algos.learner import apply_gradients
from jaxrl.algos.rloo import METRICS, RLOOState
from jaxrl.data.completions import Completions
from jaxrl.ops.losses import weighted_mean
from jaxrl.ops.sequences import sequence_log_prob


def supervised_update(
    state: RLOOState, tokens: Array, mask: Array, learning_rate: Array
) -> tuple[RLOOState, dict[str, Array]]:
    """One step of Adam on `-sum log pi(y) / sum |y|`, the mean over all tokens of demonstrations y.

    Args:
      state: its policy learns; its reference stays.
      tokens: `(B, L)`, prompts and demonstrations.
      mask: `(B, L)`, true on the demonstrations.
      learning_rate: of this step.

    Returns:
      The new state and the metric `supervised_loss`.
    """

    def loss_fn(params: Any) -> Array:
        logits = state.policy.apply_fn(params, tokens, jnp.ones_like(mask))
        return -sequence_log_prob(logits, tokens, mask).sum() / mask.sum()

    loss, grads = jax.value_and_grad(loss_fn)(state.policy.params)
    policy, *_ = apply_gradients(state.policy, {"loss": loss}, grads, learning_rate, True, max_grad_norm=1.0)
    return state.replace(policy=policy, num_updates=state.num_updates + 1), {"supervised_loss": loss}


def reinforce_update(state: RLOOState, completions: Completions) -> tuple[RLOOState, dict[str, Array]]:
    """One step along `mean[ R grad log pi(y) ]`, `R = reward - kl_coef * (log pi(y) - log pi_ref(y))`: no baseline.

    It takes completions as `sample_completions` gives them, with rewards and without rows that are not valid, and gives
    those of `rloo_update`'s metrics that it has.
    """
    config, (tokens, mask, reward, _, attention, _, _) = state.config, completions

    def log_prob(params: Any) -> Array:
        return sequence_log_prob(state.policy.apply_fn(params, tokens, attention), tokens, mask, config.temperature)

    kl = log_prob(state.policy.params) - log_prob(state.reference_params)
    total = jnp.asarray(reward, kl.dtype) - config.kl_coef * kl
    loss, grads = jax.value_and_grad(lambda params: -(total * log_prob(params)).mean())(state.policy.params)
    policy, norm, finite = apply_gradients(
        state.policy, {"loss": loss}, grads, config.learning_rate, True, config.max_grad_norm
    )
    metrics = {"policy_loss": loss, "reward": reward.mean(), "kl": kl.mean(), "grad_norm": norm}
    metrics |= {"advantage_std": total.std(), "completion_length": mask.sum(1).mean()}
    metrics |= {"skipped_updates": (~finite).astype(jnp.int32), "skipped_rows": jnp.zeros((), jnp.int32)}
    metrics |= {"no_signal_fraction": weighted_mean((reward == 0).astype(kl.dtype), jnp.ones_like(kl))}
    return state.replace(policy=policy, num_updates=state.num_updates + 1), metrics


def stacked(metrics: dict[str, Array]) -> Array:
    """Metrics as the buffer takes them: those of `COLUMNS`, NaN where an update has none."""
    return jnp.stack([jnp.asarray(metrics.get(name, np.nan), jnp.float32) for name in COLUMNS])


COLUMNS = "supervised_loss", *METRICS

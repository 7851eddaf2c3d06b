"""Proximal policy optimisation as a pure kernel: clipped surrogate, KL penalty (fixed or adaptive), or both.

Source: Schulman et al. 2017, "Proximal policy optimization algorithms" (arXiv 1707.06347). One call of `ppo_update`
is one update: everything that it needs beside the rollout is in the state, and nothing is kept between calls.
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxrl.algos.checks import check_kind, check_width
from jaxrl.algos.learner import Learner, apply_gradients
from jaxrl.algos.ppo_config import KL_COEF_RANGE, PPOConfig, annealed, check_config
from jaxrl.algos.ppo_state import PPOState, ppo_init
from jaxrl.data.batch import mask_invalid, shuffled_minibatches
from jaxrl.data.transition import Transition
from jaxrl.device import compiled
from jaxrl.ops.arrays import common_type
from jaxrl.ops.distributions import Distribution, kl_divergence
from jaxrl.ops.losses import (
    adapt_kl_coef,
    clipped_surrogate,
    clipped_value_loss,
    explained_variance,
    standardize,
    weighted_mean,
)
from jaxrl.ops.returns import gae

__all__ = [
    "METRICS",
    "CriticTargets",
    "PPOConfig",
    "PPOState",
    "check_config",
    "ppo_act",
    "ppo_init",
    "ppo_update",
    "ppo_update_actor",
    "ppo_update_critic",
]
METRICS = (
    "policy_loss",
    "value_loss",
    "entropy",
    "kl",
    "approx_kl",
    "clip_fraction",
    "explained_variance",
    "kl_coef",
    "grad_norm_actor",
    "grad_norm_critic",
    "gradient_steps",
    "skipped_updates",
)


class _Rows(NamedTuple):
    """A rollout as the actor's minibatches see it: every field has one leading axis of T * N rows."""

    obs: Array
    action: Array
    weight: Array
    old_policy: Distribution
    old_log_prob: Array
    advantage: Array


class _Values(NamedTuple):
    """A rollout as the critic's minibatches see it, likewise."""

    obs: Array
    weight: Array
    old_value: Array
    returns: Array


class CriticTargets(NamedTuple):
    """Values to learn, and how: from `ppo_update_actor` to `ppo_update_critic`.

    Attributes:
      rows: what the critic learns from.
      order: which rows each of K steps takes, `(K, B)`.
      take: whether that step is taken, `(K,)`.
      finite: whether the actor's gradient was finite there, `(K,)`.
      rate: the critic's learning rate.
      value_clip_eps, max_grad_norm: as in the config.
      healthy: whether the rollout can be learned from.
      of_steps: metrics of the actor's steps, each `(K,)`.
      of_update: metrics of the whole, scalars.
    """

    rows: _Values
    order: Array
    take: Array
    finite: Array
    rate: ArrayLike
    value_clip_eps: ArrayLike | None
    max_grad_norm: ArrayLike | None
    healthy: Array
    of_steps: dict[str, Array]
    of_update: dict[str, Array]


@compiled
def ppo_act(state: PPOState, obs: Array) -> Distribution:
    """The policy at `obs`, `(..., S)`: a distribution over actions. It does not normalise observations."""
    check_kind("state", state, PPOState)
    check_width("obs", obs, state.obs_dim)
    return state.actor.apply_fn(state.actor.params, obs)


@compiled
def ppo_update(state: PPOState, rollout: Transition) -> tuple[PPOState, dict[str, Array]]:
    """One PPO update: `num_epochs` passes of `num_minibatches` steps over a rollout, then the KL coefficient's rule.

    Actor, maximised: `mean[ surrogate(ratio, A, clip_eps) - kl_coef * KL(old || new) + ent_coef * entropy ]`
    Critic, minimised, by its own optimiser: `mean[ 0.5 * (V - R)^2 ]`, `R = A_gae + V_old`

    Values, next values and the old policy are computed here from the parameters given, which must be those that
    collected the rollout.

    Nothing is learned from what is not finite, and `skipped_updates` counts it:
    - A rollout is rejected whole if a valid row has an advantage, a target or a log-probability that is not finite. An
      action that is none of the space's (out of range, fractional, NaN) has a log-probability of minus infinity. All
      steps are skipped then: actor, critic and `kl_coef` stay.
    - A step whose gradient, loss or report is not finite is skipped, for its network alone.
    - An update after which `kl` is not finite is taken back: it counts as rejected.
    The content of a row that is not valid does not matter.

    Args:
      state: from `ppo_init` or the last update. It is not consumed.
      rollout: leading axes `(T, N)`, time first; observations as the policy saw them, actions as it chose them. Flags
        are booleans, or numbers that are 0 or 1; a row with another number counts as not finite.

    Returns:
      The new state, and metrics, all scalars: `policy_loss value_loss entropy approx_kl clip_fraction grad_norm_actor
      grad_norm_critic` (means over the steps taken), `kl` (exact mean KL(old || new) over the rollout after the last
      step), `kl_coef` (that of the next update), `explained_variance` (of the old values), `gradient_steps`,
      `skipped_updates` (steps not taken because something was not finite). All but `explained_variance` are finite
      where `skipped_updates` is 0.

    Raises:
      AssertionError: a shape is wrong; the message names the field.
      BadInput: the minibatches do not divide the rollout, or would hold one row; or it is no rollout for this state.

    Source: Schulman et al. 2017 (arXiv 1707.06347), algorithm 1 and section 4.
    """
    state, targets = ppo_update_actor(state, rollout)
    critic, metrics = ppo_update_critic(state.critic, targets)
    return state.replace(critic=critic), metrics


def ppo_update_actor(state: PPOState, rollout: Transition) -> tuple[PPOState, CriticTargets]:
    """The first half of `ppo_update`: all of it but the critic's steps.

    Actor and critic share nothing but the rollout. With the new actor one can act while `ppo_update_critic` still runs.

    Args:
      state, rollout: as of `ppo_update`.

    Returns:
      The state with its new actor and KL coefficient, and what the critic has to learn.
    """
    check_kind("state", state, PPOState)
    config = state.config
    rollout, weight = mask_invalid(rollout, "rollout", "TN", state.kl_coef.dtype)
    check_width("rollout.obs", rollout.obs, state.obs_dim)
    key, shuffle_key = jax.random.split(state.key)
    (actor_rate, critic_rate), clip_eps = annealed(config, state.num_updates)

    # Before the update: the values, and the policy that acted.
    value = state.critic.apply_fn(state.critic.params, rollout.obs)
    next_value = state.critic.apply_fn(state.critic.params, rollout.next_obs)
    old_policy = ppo_act(state, rollout.obs)
    rollout = rollout._replace(action=_possible_actions(rollout, old_policy))
    old_log_prob = old_policy.log_prob(rollout.action)

    # How much better than expected each action turned out.
    flags = rollout.terminated, rollout.truncated
    advantage = gae(rollout.reward, value, next_value, *flags, config.gamma, config.gae_lambda, rollout.valid)
    returns = advantage + value
    healthy = jnp.isfinite(advantage).all() & jnp.isfinite(returns).all() & jnp.isfinite(old_log_prob).all()

    # Epochs over shuffled minibatches: one scan, so that all steps are one device call.
    rows = _flat(_Rows(rollout.obs, rollout.action, weight, old_policy, old_log_prob, advantage))
    order = shuffled_minibatches(shuffle_key, weight.size, config.num_epochs, config.num_minibatches)

    def step(carry: tuple[Learner, Array], index: Array) -> tuple[Any, Any]:
        actor, go = carry
        batch = jax.tree.map(lambda x: x[index], rows)
        (loss, info), grads = jax.value_and_grad(_actor_loss, has_aux=True)(actor.params, state, batch, clip_eps)
        if config.stop_kl is not None:
            go &= ~(info["approx_kl"] > config.stop_kl)  # One that is not a number is skipped below, not stopped at.
        take = go & (batch.weight.sum() > 0)
        actor, norm, finite = apply_gradients(
            actor, info | {"loss": loss}, grads, actor_rate, take, config.max_grad_norm
        )
        return (actor, go), (take, finite, info | {"grad_norm_actor": norm})

    (actor, _), (take, finite, of_steps) = jax.lax.scan(step, (state.actor, healthy), order)

    # The KL penalty's rule, from the exact divergence that the update caused.
    kl = weighted_mean(kl_divergence(old_policy, actor.apply_fn(actor.params, rollout.obs)), weight)
    sound = jnp.isfinite(kl)
    actor = jax.tree.map(lambda new, old: jnp.where(sound, new, old), actor, state.actor)
    healthy, take = healthy & sound, take & sound
    kl_coef = state.kl_coef
    if config.kl_target is not None:
        adapted = jnp.clip(adapt_kl_coef(kl_coef, kl, config.kl_target), *KL_COEF_RANGE)
        kl_coef = jnp.where((take & finite).any(), adapted, kl_coef)

    of_update = {"kl": kl, "kl_coef": kl_coef, "explained_variance": explained_variance(value, returns, weight)}
    values = _flat(_Values(rollout.obs, weight, value, returns))
    how = critic_rate, config.value_clip_eps, config.max_grad_norm
    targets = CriticTargets(values, order, take, finite, *how, healthy, of_steps, of_update)
    return state.replace(actor=actor, kl_coef=kl_coef, key=key, num_updates=state.num_updates + 1), targets


def ppo_update_critic(critic: Learner, targets: CriticTargets) -> tuple[Learner, dict[str, Array]]:
    """The second half of `ppo_update`: the critic's steps.

    Args:
      critic: that of the state.
      targets: what `ppo_update_actor` gave.

    Returns:
      The new critic, and the metrics of the whole update.
    """

    def step(critic: Learner, each: tuple[Array, Array]) -> tuple[Learner, Any]:
        index, take = each
        batch = jax.tree.map(lambda x: x[index], targets.rows)
        loss, grads = jax.value_and_grad(_critic_loss)(critic.params, critic, batch, targets.value_clip_eps)
        critic, norm, finite = apply_gradients(critic, {"loss": loss}, grads, targets.rate, take, targets.max_grad_norm)
        return critic, (finite, {"value_loss": loss, "grad_norm_critic": norm})

    critic, (finite, of_steps) = jax.lax.scan(step, critic, (targets.order, targets.take))

    finite &= targets.finite
    taken, of_steps = targets.take & finite, targets.of_steps | of_steps
    weight = taken.astype(targets.rows.weight.dtype)
    metrics = {name: weighted_mean(jnp.where(taken, x, 0), weight) for name, x in of_steps.items()}
    metrics |= targets.of_update | {
        "gradient_steps": taken.sum(),
        "skipped_updates": jnp.where(targets.healthy, (targets.take & ~finite).sum(), taken.size),
    }
    return critic, metrics


def _possible_actions(rollout: Transition, policy: Distribution) -> Array:
    """The actions, and in rows that are not valid the policy's own: the zeros that stand there may have a probability
    of 0, or one so small that its ratio becomes infinite, and a weight of 0 would not help."""
    mode = policy.mode()
    axes = ", ".join(["T", "N", *map(str, mode.shape[2:])])
    chex.assert_shape(rollout.action, mode.shape, custom_message=f"rollout.action must be ({axes})")
    action = rollout.action
    if jnp.issubdtype(mode.dtype, jnp.floating):  # Rows of float32 meet networks of float64 under jax_enable_x64.
        action = action.astype(common_type(action.dtype, mode.dtype))
    if rollout.valid is None:
        return action
    valid = rollout.valid.reshape(rollout.valid.shape + (1,) * (mode.ndim - 2))
    return jnp.where(valid, action, mode.astype(action.dtype))


def _flat(rows: Any) -> Any:
    """Rows `(T, N, ...)` as `(T * N, ...)`."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)


def _actor_loss(params: Any, state: PPOState, batch: _Rows, clip_eps: ArrayLike | None) -> tuple[Array, dict[str, Any]]:
    """`-mean[ surrogate - kl_coef * KL(old || new) + ent_coef * entropy ]`, and what to report of it."""
    config = state.config
    policy = state.actor.apply_fn(params, batch.obs)
    log_prob = policy.log_prob(batch.action)
    advantage = standardize(batch.advantage, batch.weight) if config.normalize_advantages else batch.advantage
    surrogate = clipped_surrogate(log_prob, batch.old_log_prob, advantage, clip_eps)
    policy_loss = -weighted_mean(surrogate, batch.weight)
    entropy = weighted_mean(policy.entropy(), batch.weight)
    loss = policy_loss - config.ent_coef * entropy
    if config.kl_coef is not None:
        loss += state.kl_coef * weighted_mean(kl_divergence(batch.old_policy, policy), batch.weight)
    log_ratio = log_prob - batch.old_log_prob
    outside = jnp.abs(jnp.expm1(log_ratio)) > (jnp.inf if clip_eps is None else clip_eps)
    return loss, {
        "policy_loss": policy_loss,
        "entropy": entropy,
        "approx_kl": weighted_mean(jnp.expm1(log_ratio) - log_ratio, batch.weight),
        "clip_fraction": weighted_mean(outside.astype(log_ratio.dtype), batch.weight),
    }


def _critic_loss(params: Any, critic: Learner, batch: _Values, value_clip_eps: ArrayLike | None) -> Array:
    """`mean[ 0.5 * (V - R)^2 ]`, pessimistic where a value moved further than `value_clip_eps`."""
    value = critic.apply_fn(params, batch.obs)
    return weighted_mean(clipped_value_loss(value, batch.old_value, batch.returns, value_clip_eps), batch.weight)

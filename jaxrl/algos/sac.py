"""Soft actor-critic (SAC) as a pure kernel, its temperature learned or fixed.

Source: Haarnoja et al. 2018, "Soft actor-critic algorithms and applications" (arXiv 1812.05905). One call of
`sac_update` is one update: everything that it needs beside the batch is in the state, its random numbers too.
"""

import functools
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from flax.training.train_state import TrainState
from gymnasium import spaces
from jax import Array

from jaxrl.algos.built_in import sac_networks
from jaxrl.algos.checks import bounds, check_batch_widths, check_key, check_kind, check_width, strong, with_numbers
from jaxrl.algos.learner import Apply, ApplyEach, BoxTask, Learner, TargetLearner, adam, apply_gradients, polyak_update
from jaxrl.algos.own_networks import check_sampler, check_twin_value, checked_networks
from jaxrl.algos.sac_config import RANGES, SACConfig, check_config
from jaxrl.data.batch import mask_invalid
from jaxrl.data.spaces import layout, width
from jaxrl.data.transition import Transition
from jaxrl.device import check_process, compiled
from jaxrl.ops.distributions import Distribution, TanhGaussian
from jaxrl.ops.losses import weighted_mean
from jaxrl.ops.returns import td_target

METRICS = (
    "critic_loss",
    "actor_loss",
    "q_mean",
    "td_error_abs",
    "entropy",
    "alpha",
    "grad_norm_actor",
    "grad_norm_critic",
    "skipped_updates",
)
ADAM_EPS = 1e-8


class SACState(struct.PyTreeNode):
    """All that one update hands to the next.

    Attributes:
      actor: its learner.
      critic: that of both critics, with target parameters.
      temperature: the TrainState of log alpha, a scalar; None where the temperature is fixed.
      key: JAX key.
      num_updates: updates done.
      config: the numbers.
      task: sizes and bounds of observations and actions.
    """

    actor: Learner
    critic: TargetLearner
    temperature: TrainState | None
    key: Array
    num_updates: Array
    config: SACConfig
    task: BoxTask = struct.field(pytree_node=False)

    @property
    def alpha(self) -> Array:
        """The temperature now."""
        if self.temperature is None:
            return jnp.asarray(self.config.initial_alpha)
        return jnp.exp(jnp.asarray(self.temperature.params))

    def replace_config(self, **numbers: float) -> Self:
        """The same state with some of the config's numbers changed; compiles nothing anew. A learned temperature goes
        on from where it is, whatever `initial_alpha` says.

        Raises:
          BadInput: one of them is static, or off (None) in this state, or out of its range.
        """
        return self.replace(config=with_numbers(self.config, numbers, RANGES, "sac_init"))


def sac_init(
    key: Array,
    config: SACConfig,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    *,
    actor: nn.Module | None = None,
    critic: nn.Module | None = None,
) -> SACState:
    """A fresh learner for one environment's spaces; of a vector environment, its single ones.

    Args:
      key: one JAX key, of either style; equal keys give equal states.
      config: checked by `check_config`.
      observation_space: any space that `jaxrl.data.spaces` takes; observations reach the kernel flattened, `(..., S)`.
      action_space: a bounded Box of any shape, flattened, `(A,)`; each dimension has bounds of its own.
      actor: a Flax module of your own, observations `(B, S)` to a `jaxrl.TanhGaussian` or another distribution whose
        `to_env` keeps to the bounds, whose `sample_jax` has a gradient, and whose `log_prob(u)` is the log-density of
        `to_env(u)` in the environment's units; None for the built-in one.
      critic: a Flax module of your own, observations `(B, S)` and actions `(B, A)` to values `(B,)`. There will be two
        of it, run together by `jax.vmap` over their parameters. None for the built-in one.

    Returns:
      The state. Two states of equal static config, spaces and networks have equal tree structures.

    Raises:
      BadInput: the key, the config, a space or a network cannot work, or memory cannot hold the built-in networks; one
        line says what is wrong and what would be right.
    """
    check_process()
    check_key(key)
    check_config(config, observation_space, action_space, own_networks=actor is not None and critic is not None)
    task, checks = BoxTask(width(layout(observation_space)), *bounds(action_space)), (check_sampler, check_twin_value)
    built_in = sac_networks(config, action_space)
    networks = checked_networks((actor, critic), built_in, checks, task.obs_dim, action_space)
    if config.target_entropy is None and config.alpha_learning_rate is not None:
        config = config.replace(target_entropy=-float(task.action_dim))
    return _fresh_state(key, strong(config), *networks, task)


@compiled
def sac_act(state: SACState, obs: Array) -> Distribution:
    """The policy at `obs`, `(..., S)`: a distribution whose `to_env` gives actions within the environment's bounds."""
    check_kind("state", state, SACState)
    check_width("obs", obs, state.task.obs_dim)
    return state.actor.apply_fn(state.actor.params, obs)


@compiled
def sac_update(state: SACState, batch: Transition) -> tuple[SACState, dict[str, Array]]:
    """One SAC update: a step of both critics, of the actor, of the temperature, and both target critics follow.

    `y = r + gamma * (1 - terminated) * (min_i Q_i'(s', a') - alpha * log pi(a'|s'))`, `a' ~ pi(.|s')`
    Critics, minimised: `sum_i mean[ (Q_i(s, a) - y)^2 ]`
    Actor, minimised: `mean[ alpha * log pi(a|s) - min_i Q_i,new(s, a) ]`, `a ~ pi(.|s)`, through the sample
    Temperature, minimised: `-mean[ log alpha * (log pi(a|s) + target_entropy) ]`, with the actor's log pi
    `theta' <- (1 - tau) * theta' + tau * theta`, for both critics

    All of it uses the alpha at entry. Q is a function of a in the environment's units; log pi is the density of a
    scaled to [-1, 1], so that `target_entropy` means the same whatever the units. Where a target or a gradient is not
    finite, no parameter changes from there on; `num_updates` and the key advance.

    Args:
      state: from `sac_init` or the last update. It is not consumed.
      batch: leading axis `(B,)`; actions in the environment's units, as they were taken. Flags are booleans, or numbers
        that are 0 or 1; a row with another number counts as not finite.

    Returns:
      The new state, and metrics, all scalars: `critic_loss` (the sum of both), `actor_loss q_mean td_error_abs entropy
      grad_norm_actor grad_norm_critic`, `alpha` (that of the next update), and `skipped_updates` (1 if something was
      not finite, else 0). `q_mean` and `td_error_abs` are means over both critics before their step; `entropy` is
      `-mean[log pi]` of the actor before its step.

    Raises:
      AssertionError: a shape is wrong; the message names the field.
      BadInput: it is no batch, or the state is none of SAC's.

    Source: Haarnoja et al. 2018 (arXiv 1812.05905), algorithm 1, equations 5, 7, 9 and 18.
    """
    check_kind("state", state, SACState)
    config, actor, critic, alpha = state.config, state.actor, state.critic, state.alpha
    dtype = jnp.result_type(config.gamma)
    batch, weight = mask_invalid(batch, "batch", "B", dtype)
    check_batch_widths(batch, state.task.obs_dim, state.task.action_dim)
    batch = batch._replace(action=batch.action.astype(dtype))
    key, next_key, actor_key = jax.random.split(state.key, 3)

    # Target: the one-step soft return, its value the smaller of both target critics'.
    next_action, next_log_prob = _sample(state, sac_act(state, batch.next_obs), next_key)
    next_value = critic.apply_fn(critic.target_params, batch.next_obs, next_action).min(0) - alpha * next_log_prob
    target = td_target(batch.reward, next_value, batch.terminated, config.gamma)

    # Critics: regress both on the same target.
    def critic_loss_fn(params: Any) -> tuple[Array, Array]:
        error = critic.apply_fn(params, batch.obs, batch.action) - target[None]
        return 2 * weighted_mean(jnp.square(error), jnp.stack([weight, weight])), error

    (critic_loss, error), grads = jax.value_and_grad(critic_loss_fn, has_aux=True)(critic.params)
    go = jnp.isfinite(target).all() & (weight.sum() > 0)
    report = {
        "critic_loss": critic_loss,
        "q_mean": weighted_mean((error + target[None]).mean(0), weight),
        "td_error_abs": weighted_mean(jnp.abs(error).mean(0), weight),
    }
    rate = config.critic_learning_rate
    new_critic, critic_norm, finite = apply_gradients(critic, report, grads, rate, go, config.max_grad_norm)
    go &= finite

    # Actor: climb the smaller of the new critics and keep its entropy, through the sampled action.
    def actor_loss_fn(params: Any) -> tuple[Array, Array]:
        action, log_prob = _sample(state, actor.apply_fn(params, batch.obs), actor_key)
        value = critic.apply_fn(new_critic.params, batch.obs, action).min(0)
        return weighted_mean(alpha * log_prob - value, weight), weighted_mean(log_prob, weight)

    (actor_loss, log_prob), grads = jax.value_and_grad(actor_loss_fn, has_aux=True)(actor.params)
    actor_report, rate = {"actor_loss": actor_loss, "entropy": -log_prob}, config.actor_learning_rate
    new_actor, actor_norm, finite = apply_gradients(actor, actor_report, grads, rate, go, config.max_grad_norm)
    go &= finite

    # Temperature: raise it while the entropy is below its target, lower it while above.
    temperature = state.temperature
    if temperature is not None:
        grad = -(log_prob + config.target_entropy)
        assert config.alpha_learning_rate is not None
        temperature, _, finite = apply_gradients(temperature, {}, grad, config.alpha_learning_rate, go)
        go &= finite

    # Targets: both critics' follow.
    new_critic = polyak_update(new_critic, jnp.where(go, config.tau, 0))
    new_state = SACState(new_actor, new_critic, temperature, key, state.num_updates + 1, config, state.task)
    return new_state, report | actor_report | {
        "alpha": new_state.alpha,
        "grad_norm_actor": actor_norm,
        "grad_norm_critic": critic_norm,
        "skipped_updates": (~go & (weight.sum() > 0)).astype(jnp.int32),
    }


def _sample(state: SACState, policy: Distribution, key: Array) -> tuple[Array, Array]:
    """Actions `(B, A)` in the environment's units, and the log-density (nats) of these scaled to [-1, 1], `(B,)`."""
    if type(policy) is TanhGaussian:  # One of a user's own class may draw otherwise.
        u, log_prob = policy.sample_and_log_prob(key)
    else:
        u = policy.sample_jax(key)
        log_prob = policy.log_prob(u)
    half_ranges = (np.asarray(state.task.high) - np.asarray(state.task.low)) / 2
    return policy.to_env(u), log_prob + float(np.log(half_ranges).sum())


@functools.partial(jax.jit, static_argnames=("actor", "critic", "task"))
def _fresh_state(key: Array, config: SACConfig, actor: nn.Module, critic: nn.Module, task: BoxTask) -> SACState:
    """Jitted, because initialisers run one by one would each be compiled on their own."""
    actor_key, *critic_keys, key = jax.random.split(key, 4)
    dtype, tx = jnp.result_type(float), adam(ADAM_EPS, flat=False)
    obs, action = jnp.zeros((1, task.obs_dim), dtype), jnp.zeros((1, task.action_dim), dtype)
    critics = ApplyEach(critic)
    temperature = None
    if config.alpha_learning_rate is not None:
        log_alpha: Any = jnp.log(config.initial_alpha)
        no_network: Any = None
        # Older versions of Flax have `TrainState.create` look for names in the parameters, and this is one number.
        temperature = TrainState(jnp.zeros((), jnp.int32), no_network, log_alpha, tx, tx.init(log_alpha))
    return SACState(
        actor=Learner.fresh(Apply(actor), actor.init(actor_key, obs), tx),
        critic=TargetLearner.fresh(critics, critics.init(critic_keys, obs, action), tx),
        temperature=temperature,
        key=key,
        num_updates=jnp.zeros((), jnp.int32),
        config=config,
        task=task,
    )

"""Deep deterministic policy gradient as a pure kernel.

Source: Lillicrap et al. 2016, "Continuous control with deep reinforcement learning" (arXiv 1509.02971). One call of
`ddpg_update` is one update: what it needs beside the batch is in the state, and nothing is kept between calls.
"""

import functools
import math
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from gymnasium import spaces
from jax import Array

from jaxrl.algos.built_in import ddpg_networks
from jaxrl.algos.checks import (
    FRACTION,
    RATE,
    bounds,
    check_actor_critic,
    check_batch_widths,
    check_hidden_sizes,
    check_key,
    check_kind,
    check_network_memory,
    check_vectors,
    check_width,
    strong,
    with_numbers,
)
from jaxrl.algos.learner import Apply, BoxTask, TargetLearner, adam, apply_gradients, polyak_update
from jaxrl.algos.networks import as_policy, num_parameters
from jaxrl.algos.own_networks import check_action_value, check_actions, checked_networks
from jaxrl.data.batch import mask_invalid
from jaxrl.data.spaces import layout, width
from jaxrl.data.transition import Transition
from jaxrl.device import check_process, compiled
from jaxrl.ops.losses import weighted_mean
from jaxrl.ops.returns import td_target

METRICS = (
    "critic_loss",
    "actor_loss",
    "q_mean",
    "td_error_abs",
    "grad_norm_actor",
    "grad_norm_critic",
    "skipped_updates",
)
ADAM_EPS = 1e-8
COPIES = 5  # Of each parameter: itself, its target, its gradient and Adam's two moments.
RANGES = {
    "gamma": FRACTION,
    "tau": FRACTION,
    "actor_learning_rate": RATE,
    "critic_learning_rate": RATE,
    "critic_weight_decay": RATE,
}


class DDPGConfig(struct.PyTreeNode):
    """The settings of an update. Numbers are leaves: changing one compiles nothing anew. `hidden_sizes` is static."""

    gamma: float = 0.99
    """Discount per step."""
    tau: float = 0.005
    """How far both target networks follow at each update: 0 never, 1 at once."""
    actor_learning_rate: float = 1e-4
    """Adam's learning rate for the actor."""
    critic_learning_rate: float = 1e-3
    """Adam's learning rate for the critic."""
    critic_weight_decay: float = 1e-2
    """Coupled L2 on all of the critic's parameters: added to the gradient, before Adam."""
    hidden_sizes: tuple[int, ...] = struct.field(pytree_node=False, default=(400, 300))
    """Widths of the ReLU layers, of actor and critic each; the critic takes the action in after the first."""


class DDPGState(struct.PyTreeNode):
    """All that one update hands to the next: two learners with target parameters, the number of updates done, the
    config, and the sizes and bounds of observations and actions."""

    actor: TargetLearner
    critic: TargetLearner
    num_updates: Array
    config: DDPGConfig
    task: BoxTask = struct.field(pytree_node=False)

    def replace_config(self, **numbers: float) -> Self:
        """The same state with some of the config's numbers changed; compiles nothing anew.

        Raises:
          BadInput: one of them is static, or out of its range.
        """
        return self.replace(config=with_numbers(self.config, numbers, RANGES, "ddpg_init"))


def ddpg_init(
    key: Array,
    config: DDPGConfig,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    *,
    actor: nn.Module | None = None,
    critic: nn.Module | None = None,
) -> DDPGState:
    """A fresh learner for one environment's spaces; of a vector environment, its single ones.

    Args:
      key: one JAX key, of either style; equal keys give equal states.
      config: checked by `check_config`.
      observation_space: Box, Discrete, MultiDiscrete or MultiBinary of any shape, or a Dict or Tuple of such;
        observations reach the kernel flattened, `(..., S)`, as `jaxrl.data.spaces` says.
      action_space: a bounded Box of any shape, flattened, `(A,)`; each dimension has bounds of its own.
      actor: a Flax module of your own, observations `(B, S)` to actions `(B, A)` or a `jaxrl.Deterministic` of them. It
        must keep to the bounds itself; what leaves them is clipped only where it acts. None for the built-in one.
      critic: a Flax module of your own, observations `(B, S)` and actions `(B, A)` to values `(B,)`; None for the
        built-in one.

    Returns:
      The state. Two states of equal static config, spaces and networks have equal tree structures.

    Raises:
      BadInput: the key, the config, a space or a network cannot work, or memory cannot hold the built-in networks; one
        line says what is wrong and what would be right.
    """
    check_process()
    check_key(key)
    check_config(config, observation_space, action_space, own_networks=actor is not None and critic is not None)
    task, checks = BoxTask(width(layout(observation_space)), *bounds(action_space)), (check_actions, check_action_value)
    built_in = ddpg_networks(config, action_space)
    networks = checked_networks((actor, critic), built_in, checks, task.obs_dim, action_space)
    return _fresh_state(key, strong(config), *networks, task)


@compiled
def ddpg_act(state: DDPGState, obs: Array) -> Array:
    """The deterministic policy at `obs`, `(N, S)`: actions `(N, A)` in the environment's units, within its bounds."""
    check_kind("state", state, DDPGState)
    check_width("obs", obs, state.task.obs_dim)
    action = as_policy(state.actor.apply_fn(state.actor.params, obs)).action
    return jnp.clip(action, *state.task.bounds(action))


@compiled
def ddpg_update(state: DDPGState, batch: Transition) -> tuple[DDPGState, dict[str, Array]]:
    """One DDPG update: target, critic step, actor step through the new critic, both targets by Polyak averaging.

    `y = r + gamma * (1 - terminated) * Q'(s', mu'(s'))`
    Critic, minimised: `mean[ (Q(s, a) - y)^2 ]`, with coupled L2. Actor, maximised: `mean[ Q_new(s, mu(s)) ]`
    `theta' <- (1 - tau) * theta' + tau * theta`, for both

    Where a target, a loss or a gradient is not finite, no parameter changes from there on: with a bad target, or a bad
    critic's loss or gradient, nothing but `num_updates` moves; with those of the actor, the critic alone has been
    stepped. An observation or an action that is not finite, in a valid row, makes the critic's so.

    Args:
      state: from `ddpg_init` or the last update. It is not consumed.
      batch: leading axis `(B,)`; actions in the environment's units, as they were taken. Flags are booleans, or numbers
        that are 0 or 1; a row with another number counts as not finite.

    Returns:
      The new state, and metrics, all scalars: `critic_loss actor_loss q_mean td_error_abs grad_norm_actor
      grad_norm_critic`, and `skipped_updates` (1 if something was not finite, else 0). `q_mean` and `td_error_abs` are
      those of the critic before its step; the norms are those of the losses' gradients, without the decay.

    Raises:
      AssertionError: a shape is wrong; the message names the field.
      BadInput: it is no batch, or the state is none of DDPG's.

    Source: Lillicrap et al. 2016 (arXiv 1509.02971), algorithm 1, and section 7 for the decay.
    """
    check_kind("state", state, DDPGState)
    config = state.config
    actor, critic = state.actor, state.critic
    dtype = jnp.result_type(config.gamma)
    batch, weight = mask_invalid(batch, "batch", "B", dtype)
    check_batch_widths(batch, state.task.obs_dim, state.task.action_dim)
    batch = batch._replace(action=batch.action.astype(dtype))

    # Target: the one-step return, its value from both target networks.
    next_action = as_policy(actor.apply_fn(actor.target_params, batch.next_obs)).action
    next_value = critic.apply_fn(critic.target_params, batch.next_obs, next_action)
    target = td_target(batch.reward, next_value, batch.terminated, config.gamma)

    # Critic: regress Q(s, a) on the target.
    def critic_loss_fn(params: Any) -> tuple[Array, Array]:
        value = critic.apply_fn(params, batch.obs, batch.action)
        return weighted_mean(jnp.square(value - target), weight), value

    (critic_loss, value), grads = jax.value_and_grad(critic_loss_fn, has_aux=True)(critic.params)
    go = jnp.isfinite(target).all() & (weight.sum() > 0)
    rate, decay = config.critic_learning_rate, config.critic_weight_decay
    report = {
        "critic_loss": critic_loss,
        "q_mean": weighted_mean(value, weight),
        "td_error_abs": weighted_mean(jnp.abs(target - value), weight),
    }
    new_critic, critic_norm, finite = apply_gradients(critic, report, grads, rate, go, weight_decay=decay)

    # Actor: climb the new critic.
    def actor_loss_fn(params: Any) -> Array:
        action = as_policy(actor.apply_fn(params, batch.obs)).action
        return -weighted_mean(critic.apply_fn(new_critic.params, batch.obs, action), weight)

    actor_loss, grads = jax.value_and_grad(actor_loss_fn)(actor.params)
    go &= finite
    new_actor, actor_norm, finite = apply_gradients(
        actor, {"actor_loss": actor_loss}, grads, config.actor_learning_rate, go
    )
    go &= finite

    # Targets: both follow.
    tau = jnp.where(go, config.tau, 0)
    metrics = report | {
        "actor_loss": actor_loss,
        "grad_norm_actor": actor_norm,
        "grad_norm_critic": critic_norm,
        "skipped_updates": (~go & (weight.sum() > 0)).astype(jnp.int32),
    }
    new_actor, new_critic = polyak_update(new_actor, tau), polyak_update(new_critic, tau)
    return DDPGState(new_actor, new_critic, state.num_updates + 1, config, state.task), metrics


def check_config(
    config: DDPGConfig, observation_space: spaces.Space, action_space: spaces.Space, own_networks: bool = False
) -> None:
    """Raises BadInput, in one line, if DDPG with this config cannot learn on these spaces as asked."""
    check_actor_critic(config, DDPGConfig, RANGES, observation_space, action_space, "ddpg")
    check_hidden_sizes(config.hidden_sizes, at_least=2)
    if not own_networks:
        check_vectors(observation_space)
        observations, outputs = width(layout(observation_space)), math.prod(action_space.shape or ())
        _, second, *_ = hidden = config.hidden_sizes
        count = sum(num_parameters(observations, *hidden, last) for last in (outputs, 1)) + outputs * second
        check_network_memory(config, count, COPIES, observations, outputs)


@functools.partial(jax.jit, static_argnames=("actor", "critic", "task"))
def _fresh_state(key: Array, config: DDPGConfig, actor: nn.Module, critic: nn.Module, task: BoxTask) -> DDPGState:
    """Jitted, because initialisers run one by one would each be compiled on their own."""
    actor_key, critic_key = jax.random.split(key)
    dtype, tx = jnp.result_type(float), adam(ADAM_EPS, flat=False)
    obs, action = jnp.zeros((1, task.obs_dim), dtype), jnp.zeros((1, task.action_dim), dtype)
    return DDPGState(
        actor=TargetLearner.fresh(Apply(actor), actor.init(actor_key, obs), tx),
        critic=TargetLearner.fresh(Apply(critic), critic.init(critic_key, obs, action), tx),
        num_updates=jnp.zeros((), jnp.int32),
        config=config,
        task=task,
    )

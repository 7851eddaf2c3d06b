"""Twin delayed deep deterministic policy gradient (TD3) as a pure kernel.

Source: Fujimoto et al. 2018, "Addressing function approximation error in actor-critic methods" (arXiv 1802.09477). One
call of `td3_update` is one update: everything that it needs beside the batch is in the state, its random numbers too.
"""

import functools
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from gymnasium import spaces
from jax import Array

from jaxrl.algos.built_in import check_twin_critics, td3_networks
from jaxrl.algos.checks import (
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    RATE,
    bounds,
    check_actor_critic,
    check_batch_widths,
    check_hidden_sizes,
    check_key,
    check_kind,
    check_whole,
    check_width,
    strong,
    with_numbers,
)
from jaxrl.algos.learner import Apply, ApplyEach, BoxTask, TargetLearner, adam, apply_gradients, polyak_update
from jaxrl.algos.networks import as_policy
from jaxrl.algos.own_networks import check_actions, check_twin_value, checked_networks
from jaxrl.data.batch import mask_invalid
from jaxrl.data.spaces import layout, width
from jaxrl.data.transition import Transition
from jaxrl.device import check_process, compiled
from jaxrl.errors import BadInput
from jaxrl.ops.losses import weighted_mean
from jaxrl.ops.returns import td_target

METRICS = (
    "critic_loss",
    "actor_loss",
    "q_mean",
    "td_error_abs",
    "grad_norm_actor",
    "grad_norm_critic",
    "actor_steps",
    "skipped_updates",
)
ADAM_EPS = 1e-8
LONGEST_DELAY = 2**31 - 1  # Updates are counted in int32.
RANGES = {
    "gamma": FRACTION,
    "tau": FRACTION,
    "actor_learning_rate": RATE,
    "critic_learning_rate": RATE,
    "policy_noise": NOT_NEGATIVE,
    "noise_clip": NOT_NEGATIVE,
    "max_grad_norm": POSITIVE,
}


class TD3Config(struct.PyTreeNode):
    """Numbers and structure that an update reads. Numbers are leaves: changing one compiles nothing anew. The fields
    from `policy_delay` on are static."""

    gamma: float = 0.99
    """Discount per step."""
    tau: float = 0.005
    """How far the target networks follow whenever they move: 0 never, 1 at once."""
    actor_learning_rate: float = 3e-4
    """Adam's learning rate for the actor."""
    critic_learning_rate: float = 3e-4
    """Adam's learning rate for both critics."""
    policy_noise: float = 0.2
    """Standard deviation of the noise on the target action, in units of half the action's range."""
    noise_clip: float = 0.5
    """Bound on that noise, in the same units."""
    max_grad_norm: float | None = None
    """Bound on the global norm of each gradient (that of both critics is one); none for no bound."""
    policy_delay: int = struct.field(pytree_node=False, default=2)
    """Critic updates for each update of the actor and of all target networks."""
    hidden_sizes: tuple[int, ...] = struct.field(pytree_node=False, default=(256, 256))
    """Widths of the ReLU layers, of the actor and of each critic."""


class TD3State(struct.PyTreeNode):
    """All that one update hands to the next: two learners with target parameters (the critic's hold two critics), a JAX
    key, the number of updates done, the config, and the sizes and bounds of observations and actions."""

    actor: TargetLearner
    critic: TargetLearner
    key: Array
    num_updates: Array
    config: TD3Config
    task: BoxTask = struct.field(pytree_node=False)

    def replace_config(self, **numbers: float) -> Self:
        """The same state with some of the config's numbers changed; compiles nothing anew.

        Raises:
          BadInput: one of them is static, or off (None) in this state, or out of its range.
        """
        return self.replace(config=with_numbers(self.config, numbers, RANGES, "td3_init"))


def td3_init(
    key: Array,
    config: TD3Config,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    *,
    actor: nn.Module | None = None,
    critic: nn.Module | None = None,
) -> TD3State:
    """A fresh learner for one environment's spaces; of a vector environment, its single ones.

    Args:
      key: one JAX key, of either style; equal keys give equal states.
      config: checked by `check_config`.
      observation_space: any space that `jaxrl.data.spaces` takes; observations reach the kernel flattened, `(..., S)`.
      action_space: a bounded Box of any shape, flattened, `(A,)`; each dimension has bounds of its own.
      actor: a Flax module of your own, observations `(B, S)` to actions `(B, A)` or a `jaxrl.Deterministic` of them. It
        must keep to the bounds itself; what leaves them is clipped where it acts. None for the built-in one.
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
    task, checks = BoxTask(width(layout(observation_space)), *bounds(action_space)), (check_actions, check_twin_value)
    built_in = td3_networks(config, action_space)
    networks = checked_networks((actor, critic), built_in, checks, task.obs_dim, action_space)
    return _fresh_state(key, strong(config), *networks, task)


@compiled
def td3_act(state: TD3State, obs: Array) -> Array:
    """The deterministic policy at `obs`, `(N, S)`: actions `(N, A)` in the environment's units, within its bounds."""
    check_kind("state", state, TD3State)
    check_width("obs", obs, state.task.obs_dim)
    action = as_policy(state.actor.apply_fn(state.actor.params, obs)).action
    return jnp.clip(action, *state.task.bounds(action))


@compiled
def td3_update(state: TD3State, batch: Transition) -> tuple[TD3State, dict[str, Array]]:
    """One TD3 update: a step of both critics, and every `policy_delay`-th time one of the actor and of all targets.

    `a' = clip(mu'(s') + clip(noise, -noise_clip, noise_clip), low, high)`, `noise ~ N(0, policy_noise)`
    `y = r + gamma * (1 - terminated) * min_i Q_i'(s', a')`
    Critics, minimised: `sum_i mean[ (Q_i(s, a) - y)^2 ]`. Actor, maximised: `mean[ Q_1,new(s, mu(s)) ]`
    `theta' <- (1 - tau) * theta' + tau * theta`, for the actor and both critics

    The actor and the targets move where `(num_updates + 1) % policy_delay == 0`, with `num_updates` before the call.
    Where a target, a loss or a gradient is not finite, no parameter changes from there on; `num_updates` and the key
    advance.

    Args:
      state: from `td3_init` or the last update. It is not consumed.
      batch: leading axis `(B,)`; actions in the environment's units, as they were taken. Flags are booleans, or numbers
        that are 0 or 1; a row with another number counts as not finite.

    Returns:
      The new state, and metrics, all scalars: `critic_loss` (the sum of both), `actor_loss q_mean td_error_abs
      grad_norm_actor grad_norm_critic`, `actor_steps` (1 if the actor was stepped; where it is 0, `actor_loss` and
      `grad_norm_actor` are 0), and `skipped_updates` (1 if something was not finite, else 0). `q_mean` and
      `td_error_abs` are means over both critics before their step.

    Raises:
      AssertionError: a shape is wrong; the message names the field.
      BadInput: it is no batch, or the state is none of TD3's.

    Source: Fujimoto et al. 2018 (arXiv 1802.09477), algorithm 1.
    """
    check_kind("state", state, TD3State)
    config, actor, critic = state.config, state.actor, state.critic
    dtype = jnp.result_type(config.gamma)
    batch, weight = mask_invalid(batch, "batch", "B", dtype)
    check_batch_widths(batch, state.task.obs_dim, state.task.action_dim)
    batch = batch._replace(action=batch.action.astype(dtype))
    key, noise_key = jax.random.split(state.key)

    # Target: the one-step return, its value the smaller of both target critics', at an action with clipped noise.
    next_action = smoothed(state, as_policy(actor.apply_fn(actor.target_params, batch.next_obs)).action, noise_key)
    next_value = critic.apply_fn(critic.target_params, batch.next_obs, next_action).min(0)
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

    # Actor: climb the first of the new critics. Then all targets follow. Both only where the delay is over.
    def actor_loss_fn(params: Any) -> Array:
        action = as_policy(actor.apply_fn(params, batch.obs)).action
        first = jax.tree.map(lambda each: each[:1], new_critic.params)  # XLA would run the second, to throw it away.
        return -weighted_mean(critic.apply_fn(first, batch.obs, action)[0], weight)

    def delayed_step() -> tuple[Any, ...]:
        loss, grads = jax.value_and_grad(actor_loss_fn)(actor.params)
        report, rate = {"actor_loss": loss}, config.actor_learning_rate
        new_actor, norm, finite = apply_gradients(actor, report, grads, rate, go, config.max_grad_norm)
        tau = jnp.where(go & finite, config.tau, 0)
        targets = polyak_update(new_actor, tau).target_params, polyak_update(new_critic, tau).target_params
        return new_actor.params, new_actor.opt_state, new_actor.step, *targets, loss, norm, finite

    def no_step() -> tuple[Any, ...]:
        zero = jnp.zeros((), dtype)
        targets = actor.target_params, critic.target_params
        return actor.params, actor.opt_state, actor.step, *targets, zero, zero, jnp.ones((), bool)

    due = (state.num_updates + 1) % config.policy_delay == 0
    *moved, actor_target, critic_target, actor_loss, actor_norm, finite = jax.lax.cond(due, delayed_step, no_step)
    params, opt_state, step = moved
    new_actor = actor.replace(params=params, opt_state=opt_state, step=step, target_params=actor_target)
    new_critic = new_critic.replace(target_params=critic_target)
    go &= finite

    stepped = due & go
    metrics = report | {
        "actor_loss": jnp.where(stepped, actor_loss, 0),
        "grad_norm_actor": jnp.where(stepped, actor_norm, 0),
        "grad_norm_critic": critic_norm,
        "actor_steps": stepped.astype(jnp.int32),
        "skipped_updates": (~go & (weight.sum() > 0)).astype(jnp.int32),
    }
    return TD3State(new_actor, new_critic, key, state.num_updates + 1, config, state.task), metrics


def smoothed(state: TD3State, action: Array, key: Array) -> Array:
    """The target actor's actions with clipped noise, within the bounds."""
    low, high = state.task.bounds(action)
    noise = state.config.policy_noise * jax.random.normal(key, action.shape, action.dtype)
    noise = jnp.clip(noise, -state.config.noise_clip, state.config.noise_clip)
    return jnp.clip(action + (high - low) / 2 * noise, low, high)


def check_config(
    config: TD3Config, observation_space: spaces.Space, action_space: spaces.Space, own_networks: bool = False
) -> None:
    """Raises BadInput, in one line, if TD3 with this config cannot learn on these spaces as asked."""
    check_actor_critic(config, TD3Config, RANGES, observation_space, action_space, "td3")
    check_hidden_sizes(config.hidden_sizes, at_least=1)
    if not own_networks:
        check_twin_critics(config, observation_space, action_space, heads=1)
    check_whole(config, "policy_delay")
    if not 1 <= config.policy_delay <= LONGEST_DELAY:
        raise BadInput(f"policy_delay is {config.policy_delay}: it must be at least 1 and at most {LONGEST_DELAY:,}")


@functools.partial(jax.jit, static_argnames=("actor", "critic", "task"))
def _fresh_state(key: Array, config: TD3Config, actor: nn.Module, critic: nn.Module, task: BoxTask) -> TD3State:
    """Jitted, because initialisers run one by one would each be compiled on their own."""
    actor_key, *critic_keys, key = jax.random.split(key, 4)
    dtype, tx = jnp.result_type(float), adam(ADAM_EPS, flat=False)
    obs, action = jnp.zeros((1, task.obs_dim), dtype), jnp.zeros((1, task.action_dim), dtype)
    critics = ApplyEach(critic)
    return TD3State(
        actor=TargetLearner.fresh(Apply(actor), actor.init(actor_key, obs), tx),
        critic=TargetLearner.fresh(critics, critics.init(critic_keys, obs, action), tx),
        key=key,
        num_updates=jnp.zeros((), jnp.int32),
        config=config,
        task=task,
    )

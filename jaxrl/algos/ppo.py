"""Proximal policy optimisation as a pure kernel: clipped surrogate, KL penalty (fixed or adaptive), or both.

Source: Schulman et al. 2017, "Proximal policy optimization algorithms" (arXiv 1707.06347). One call of `ppo_update`
is one update: everything that it needs beside the rollout is in the state, and nothing is kept between calls.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from flax.training.train_state import TrainState
from gymnasium import spaces
from jax import Array
from jax.typing import ArrayLike

from jaxrl.algos.checks import (
    COUNT,
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    RATE,
    check_box_actions,
    check_hidden_sizes,
    check_key,
    check_kind,
    check_network_memory,
    check_numbers,
    check_single,
    check_width,
    strong,
    with_numbers,
)
from jaxrl.algos.learner import adam, descend
from jaxrl.algos.networks import (
    CategoricalActor,
    GaussianActor,
    MultiCategoricalActor,
    Value,
    apply_function,
    num_parameters,
)
from jaxrl.data.batch import shuffled_minibatches, weigh
from jaxrl.data.spaces import layout, width
from jaxrl.data.transition import Transition
from jaxrl.device import check_process, compiled
from jaxrl.errors import BadInput
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
ADAM_EPS = 1e-5
COPIES = 4  # Of each parameter: itself, its gradient and Adam's two moments.
KL_COEF_RANGE = 1e-4, 1e4  # 150 halvings in a row would reach 0 and never leave it.
RANGES = {
    "gamma": FRACTION,
    "gae_lambda": FRACTION,
    "clip_eps": POSITIVE,
    "kl_coef": (0.0, KL_COEF_RANGE[1]),
    "kl_target": POSITIVE,
    "stop_kl": POSITIVE,
    "value_clip_eps": POSITIVE,
    "ent_coef": NOT_NEGATIVE,
    "max_grad_norm": POSITIVE,
    "actor_learning_rate": RATE,
    "critic_learning_rate": RATE,
    "anneal_updates": COUNT,
    "num_epochs": (1.0, 1e6),
    "num_minibatches": (1.0, 1e9),
    "initial_log_std": (-20.0, 20.0),
}


class PPOConfig(struct.PyTreeNode):
    """What an update reads. Numbers are leaves: changing one compiles nothing anew. The fields below
    `num_epochs` are static: they fix shapes or the program."""

    gamma: float = 0.99
    """Discount per step."""
    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation."""
    clip_eps: float | None = 0.2
    """Half-width of the band around ratio 1 in the clipped surrogate; none for no clipping."""
    kl_coef: float | None = None
    """Coefficient of the KL(old || new) penalty, the first one where it adapts; none for no penalty."""
    kl_target: float | None = None
    """Mean KL divergence (nats) that each update should cause; kl_coef adapts to it. None keeps kl_coef fixed."""
    stop_kl: float | None = None
    """Early stop: once a minibatch's approx_kl exceeds this, the update takes no further step. None for never."""
    value_clip_eps: float | None = None
    """How far a value may move in one update and still gain, in units of the return; none for no clipping."""
    ent_coef: float = 0.0
    """Coefficient of the entropy bonus."""
    max_grad_norm: float | None = 0.5
    """Bound on the global norm of each network's gradient; none for no bound."""
    actor_learning_rate: float = 3e-4
    """Adam's learning rate for the actor."""
    critic_learning_rate: float = 3e-4
    """Adam's learning rate for the critic."""
    anneal_updates: float | None = struct.field(default=None, metadata={"flag": False})
    """Number of updates over which annealing goes linearly to 0; the training loop sets it."""
    num_epochs: int = struct.field(pytree_node=False, default=10)
    """Passes over each rollout."""
    num_minibatches: int = struct.field(pytree_node=False, default=32)
    """Gradient steps per pass; divides num_steps * num_envs."""
    normalize_advantages: bool = struct.field(pytree_node=False, default=True)
    """Standardise advantages within each minibatch."""
    anneal_learning_rate: bool = struct.field(pytree_node=False, default=False)
    """Anneal both learning rates linearly to 0."""
    anneal_clip: bool = struct.field(pytree_node=False, default=False)
    """Anneal clip_eps linearly to 0."""
    hidden_sizes: tuple[int, ...] = struct.field(pytree_node=False, default=(64, 64))
    """Widths of the tanh layers, of actor and critic each."""
    initial_log_std: float = struct.field(pytree_node=False, default=0.0)
    """Log standard deviation of continuous actions at first."""
    squash_actions: bool = struct.field(pytree_node=False, default=False)
    """Keep continuous actions within their bounds by a tanh, with its exact log-probability, instead of clipping; the
    policy is then in units of the bounds' distance, which suits bounds that are far from -1 and 1."""


class PPOState(struct.PyTreeNode):
    """All that one update hands to the next: two TrainStates, the KL coefficient, a JAX key, the number of updates
    done, and the config."""

    actor: TrainState
    critic: TrainState
    kl_coef: Array
    key: Array
    num_updates: Array
    config: PPOConfig

    def replace_config(self, **numbers: float) -> Self:
        """The same state with some of the config's numbers changed, `kl_coef` in use included; compiles nothing anew.

        Raises:
          BadInput: one of them is static, or off (None) in this state, or out of its range.
        """
        config = with_numbers(self.config, numbers, RANGES, "ppo_init")
        _check_penalty(config)
        return self.replace(config=config, kl_coef=config.kl_coef if "kl_coef" in numbers else self.kl_coef)


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
    """What `ppo_update_actor` leaves for `ppo_update_critic`.

    Attributes:
      rows: what the critic learns from.
      order: which rows each of K steps takes, `(K, B)`.
      take: whether that step is taken, `(K,)`.
      finite: whether the actor's gradient was finite there, `(K,)`.
      rate: the critic's learning rate.
      healthy: whether the rollout can be learned from.
      of_steps: metrics of the actor's steps, each `(K,)`.
      of_update: metrics of the whole, scalars.
      config: the state's.
    """

    rows: _Values
    order: Array
    take: Array
    finite: Array
    rate: ArrayLike
    healthy: Array
    of_steps: dict[str, Array]
    of_update: dict[str, Array]
    config: PPOConfig


def ppo_init(key: Array, config: PPOConfig, observation_space: spaces.Space, action_space: spaces.Space) -> PPOState:
    """A fresh learner for one environment's spaces; of a vector environment, its single ones.

    Args:
      key: one JAX key, of either style; equal keys give equal states.
      config: checked by `check_config`.
      observation_space: Box, Discrete, MultiDiscrete or MultiBinary of any shape, or a Dict or Tuple of such;
        observations reach the kernel flattened, `(..., S)`, as `jaxrl.data.spaces` says.
      action_space: Discrete, MultiDiscrete, MultiBinary, or a bounded Box, each of any shape; actions of more than one
        axis are flattened, `(..., A)`.

    Returns:
      The state. Two states of equal static config and spaces have equal tree structures.

    Raises:
      BadInput: the key, the config or a space cannot work, or memory cannot hold the networks; one line says what is
        wrong and what would be right.
    """
    check_process()
    check_key(key)
    check_config(config, observation_space, action_space)
    actor = *_actor_for(config, action_space), jnp.result_type(float)
    critic = Value, config.hidden_sizes, jnp.result_type(float)
    return _fresh_state(key, strong(config), actor, critic, width(layout(observation_space)))


def _actor_for(config: PPOConfig, space: spaces.Space) -> tuple[Any, ...]:
    """The actor's class and its settings, but for the type of its parameters."""
    if isinstance(space, spaces.Discrete):
        return CategoricalActor, config.hidden_sizes, int(space.n), int(space.start)
    if isinstance(space, spaces.MultiDiscrete):
        sizes, starts = (tuple(map(int, np.ravel(x))) for x in (space.nvec, space.start))
        return MultiCategoricalActor, config.hidden_sizes, sizes, starts
    if isinstance(space, spaces.MultiBinary):
        components = math.prod(space.shape)
        return MultiCategoricalActor, config.hidden_sizes, (2,) * components, (0,) * components
    assert isinstance(space, spaces.Box)
    low, high = (tuple(map(float, np.ravel(bound))) for bound in (space.low, space.high))
    return GaussianActor, config.hidden_sizes, low, high, config.initial_log_std, config.squash_actions


def num_outputs(space: spaces.Space) -> int:
    """How many numbers the actor's last layer gives, for actions of `space`."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return space.nvec.size * int(space.nvec.max())
    return math.prod(space.shape or ()) * (2 if isinstance(space, spaces.MultiBinary) else 1)


@compiled
def ppo_act(state: PPOState, obs: Array) -> Distribution:
    """The policy at `obs`, `(..., S)`: a distribution over actions. It does not normalise observations."""
    check_kind("state", state, PPOState)
    check_width("obs", obs, _width(state))
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
    What stands in a row that is not valid does not matter.

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

    Actor and critic share nothing but the rollout: with the new actor one can act while `ppo_update_critic` still runs.

    Args:
      state, rollout: as of `ppo_update`.

    Returns:
      The state with its new actor and KL coefficient, and what the critic has to learn.
    """
    check_kind("state", state, PPOState)
    config = state.config
    rollout, weight = weigh(rollout, "rollout", "TN", state.kl_coef.dtype)
    check_width("rollout.obs", rollout.obs, _width(state))
    key, shuffle_key = jax.random.split(state.key)
    (actor_rate, critic_rate), clip_eps = _annealed(state)

    # What was: the values, and the policy that acted.
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

    def step(carry: tuple[TrainState, Array], index: Array) -> tuple[Any, Any]:
        actor, go = carry
        batch = jax.tree.map(lambda x: x[index], rows)
        (loss, info), grads = jax.value_and_grad(_actor_loss, has_aux=True)(actor.params, state, batch, clip_eps)
        if config.stop_kl is not None:
            go &= ~(info["approx_kl"] > config.stop_kl)  # One that is not a number is skipped below, not stopped at.
        take = go & (batch.weight.sum() > 0)
        actor, norm, finite = descend(actor, info | {"loss": loss}, grads, actor_rate, take, config.max_grad_norm)
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
    targets = CriticTargets(values, order, take, finite, critic_rate, healthy, of_steps, of_update, config)
    return state.replace(actor=actor, kl_coef=kl_coef, key=key, num_updates=state.num_updates + 1), targets


def ppo_update_critic(critic: TrainState, targets: CriticTargets) -> tuple[TrainState, dict[str, Array]]:
    """The second half of `ppo_update`: the critic's steps. It does not look at the actor.

    Args:
      critic: of the state that `ppo_update_actor` gave.
      targets: what it gave beside that.

    Returns:
      The new critic, and the metrics of the whole update.
    """

    def step(critic: TrainState, each: tuple[Array, Array]) -> tuple[TrainState, Any]:
        index, take = each
        batch = jax.tree.map(lambda x: x[index], targets.rows)
        loss, grads = jax.value_and_grad(_critic_loss)(critic.params, critic.apply_fn, batch, targets.config)
        critic, norm, finite = descend(critic, {"loss": loss}, grads, targets.rate, take, targets.config.max_grad_norm)
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
    if rollout.valid is None:
        return rollout.action
    valid = rollout.valid.reshape(rollout.valid.shape + (1,) * (mode.ndim - 2))
    return jnp.where(valid, rollout.action, mode.astype(rollout.action.dtype))


def _width(state: PPOState) -> int:
    """How many numbers an observation has."""
    return state.actor.params["params"]["mlp"]["Dense_0"]["kernel"].shape[0]


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


def _critic_loss(params: Any, apply_fn: Callable[..., Any], batch: _Values, config: PPOConfig) -> Array:
    """`mean[ 0.5 * (V - R)^2 ]`, pessimistic where a value moved further than `value_clip_eps`."""
    value = apply_fn(params, batch.obs)
    loss = clipped_value_loss(value, batch.old_value, batch.returns, config.value_clip_eps)
    return weighted_mean(loss, batch.weight)


def _annealed(state: PPOState) -> tuple[tuple[ArrayLike, ArrayLike], ArrayLike | None]:
    """The learning rates of actor and critic, and `clip_eps`, of this update."""
    config = state.config
    rates: tuple[ArrayLike, ArrayLike] = config.actor_learning_rate, config.critic_learning_rate
    clip_eps: ArrayLike | None = config.clip_eps
    if config.anneal_updates is None:
        return rates, clip_eps
    remaining = jnp.maximum(0.0, 1 - state.num_updates.astype(state.kl_coef.dtype) / config.anneal_updates)
    if config.anneal_learning_rate:
        rates = config.actor_learning_rate * remaining, config.critic_learning_rate * remaining
    if config.anneal_clip and config.clip_eps is not None:
        clip_eps = config.clip_eps * remaining
    return rates, clip_eps


def check_config(config: PPOConfig, observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """Raises BadInput, in one line, if PPO with this config cannot learn on these spaces as asked."""
    check_kind("config", config, PPOConfig)
    check_single(observation_space, action_space)
    observations = width(layout(observation_space))
    if not isinstance(action_space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        raise BadInput(
            f"action space {type(action_space).__name__} is not supported: PPO takes Box, Discrete, MultiDiscrete or "
            "MultiBinary"
        )
    if math.prod(action_space.shape or ()) == 0:
        raise BadInput(f"action space {action_space} is empty: it must hold at least one number")
    check_hidden_sizes(config.hidden_sizes, at_least=1)
    outputs = num_outputs(action_space)
    count = sum(num_parameters(observations, *config.hidden_sizes, last) for last in (outputs, 1))
    check_network_memory(config, count, COPIES, observations, outputs)
    if isinstance(action_space, spaces.Box):
        check_box_actions(action_space)
    elif config.squash_actions:
        raise BadInput(
            f"squash_actions keeps Box actions within bounds, and {type(action_space).__name__} has none: leave it off"
        )
    check_numbers(config, RANGES)
    _check_penalty(config)
    if config.anneal_clip and config.clip_eps is None:
        raise BadInput("anneal_clip anneals clip_eps, which is none: give a clip_eps (0.2, say) or leave it off")
    if (config.anneal_clip or config.anneal_learning_rate) and config.anneal_updates is None:
        raise BadInput("annealing needs its horizon: set anneal_updates to the number of updates that it takes")


def _check_penalty(config: PPOConfig) -> None:
    coef = config.kl_coef
    off = coef is None or (not isinstance(coef, jax.core.Tracer) and not np.all(np.asarray(jax.device_get(coef)) > 0))
    if config.kl_target is not None and off:
        raise BadInput("kl_target adapts kl_coef, which is off: give a positive kl_coef (1.0, say) or kl_target none")


@functools.partial(jax.jit, static_argnames=("actor_settings", "critic_settings", "obs_dim"))
def _fresh_state(
    key: Array, config: PPOConfig, actor_settings: tuple[Any, ...], critic_settings: tuple[Any, ...], obs_dim: int
) -> PPOState:
    """Jitted, because initialisers run one by one would each be compiled on their own."""
    actor_key, critic_key, key = jax.random.split(key, 3)
    obs = jnp.zeros((1, obs_dim), jnp.result_type(float))

    def learner(key: Array, settings: tuple[Any, ...]) -> TrainState:
        module, apply = apply_function(*settings)
        fresh = TrainState.create(apply_fn=apply, params=module.init(key, obs), tx=adam(ADAM_EPS, flat=True))
        return fresh.replace(step=jnp.zeros((), jnp.int32))

    return PPOState(
        actor=learner(actor_key, actor_settings),
        critic=learner(critic_key, critic_settings),
        kl_coef=jnp.zeros_like(config.gamma) if config.kl_coef is None else jnp.asarray(config.kl_coef),
        key=key,
        num_updates=jnp.zeros((), jnp.int32),
        config=config,
    )

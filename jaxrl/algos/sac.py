"""Soft actor-critic (SAC) as a pure kernel, its temperature learned or fixed.

Source: Haarnoja et al. 2018, "Soft actor-critic algorithms and applications" (arXiv 1812.05905). One call of
`sac_update` is one update: everything that it needs beside the batch is in the state, its random numbers too.
"""

import functools
import math
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from flax.training.train_state import TrainState
from gymnasium import spaces
from jax import Array

from jaxrl.algos.checks import (
    FRACTION,
    LARGEST,
    NOT_NEGATIVE,
    POSITIVE,
    RATE,
    check_batch_widths,
    check_continuous,
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
from jaxrl.algos.learner import TargetTrainState, adam, descend, polyak_update
from jaxrl.algos.networks import JoinedActionValue, SquashedGaussianActor, Twin, apply_function, num_parameters
from jaxrl.data.batch import weigh
from jaxrl.data.spaces import layout, width
from jaxrl.data.transition import Transition
from jaxrl.device import check_process, compiled
from jaxrl.errors import BadInput
from jaxrl.ops.distributions import TanhGaussian
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
COPIES = 5  # Of each parameter: itself, its target, its gradient and Adam's two moments.
RANGES = {
    "gamma": FRACTION,
    "tau": FRACTION,
    "actor_learning_rate": RATE,
    "critic_learning_rate": RATE,
    "alpha_learning_rate": RATE,
    "initial_alpha": NOT_NEGATIVE,
    "target_entropy": (-LARGEST, LARGEST),
    "max_grad_norm": POSITIVE,
}


class SACConfig(struct.PyTreeNode):
    """Numbers and structure that an update reads. Numbers are leaves: changing one compiles nothing anew.
    `hidden_sizes` is static."""

    gamma: float = 0.99
    """Discount per step."""
    tau: float = 0.005
    """How far the target critics follow at each update: 0 never, 1 at once."""
    actor_learning_rate: float = 3e-4
    """Adam's learning rate for the actor."""
    critic_learning_rate: float = 3e-4
    """Adam's learning rate for both critics."""
    alpha_learning_rate: float | None = 3e-4
    """Adam's learning rate for the logarithm of the temperature; none keeps the temperature at initial_alpha."""
    initial_alpha: float = 1.0
    """The temperature alpha at first: what a nat of entropy is worth, in units of the reward."""
    target_entropy: float | None = None
    """Entropy (nats) of actions scaled to [-1, 1] that the temperature aims at; none for minus the action's size."""
    max_grad_norm: float | None = None
    """Bound on the global norm of each gradient (that of both critics is one); none for no bound."""
    hidden_sizes: tuple[int, ...] = struct.field(pytree_node=False, default=(256, 256))
    """Widths of the ReLU layers, of the actor and of each critic."""


class SACState(struct.PyTreeNode):
    """All that one update hands to the next.

    Attributes:
      actor: its TrainState.
      critic: that of both critics, with target parameters.
      temperature: that of log alpha, a scalar; None where the temperature is fixed.
      key: JAX key.
      num_updates: updates done.
      config: the numbers.
    """

    actor: TrainState
    critic: TargetTrainState
    temperature: TrainState | None
    key: Array
    num_updates: Array
    config: SACConfig

    @property
    def alpha(self) -> Array:
        """The temperature now."""
        if self.temperature is None:
            return jnp.asarray(self.config.initial_alpha)
        return self.temperature.apply_fn(self.temperature.params)

    def replace_config(self, **numbers: float) -> Self:
        """The same state with some of the config's numbers changed; compiles nothing anew. A learned temperature goes
        on from where it is, whatever `initial_alpha` says.

        Raises:
          BadInput: one of them is static, or off (None) in this state, or out of its range.
        """
        return self.replace(config=with_numbers(self.config, numbers, RANGES, "sac_init"))


def sac_init(key: Array, config: SACConfig, observation_space: spaces.Space, action_space: spaces.Space) -> SACState:
    """A fresh learner for one environment's spaces; of a vector environment, its single ones.

    Args:
      key: one JAX key, of either style; equal keys give equal states.
      config: checked by `check_config`.
      observation_space: any space that `jaxrl.data.spaces` takes; observations reach the kernel flattened, `(..., S)`.
      action_space: a bounded Box of any shape, flattened, `(A,)`; each dimension has bounds of its own.

    Returns:
      The state. Two states of equal static config and spaces have equal tree structures.

    Raises:
      BadInput: the key, the config or a space cannot work, or memory cannot hold the networks; one line says what is
        wrong and what would be right.
    """
    check_process()
    check_key(key)
    check_config(config, observation_space, action_space)
    assert isinstance(action_space, spaces.Box)
    low, high = (tuple(map(float, np.ravel(bound))) for bound in (action_space.low, action_space.high))
    if config.target_entropy is None:
        config = config.replace(target_entropy=-float(len(low)))
    return _fresh_state(key, strong(config), low, high, width(layout(observation_space)))


@compiled
def sac_act(state: SACState, obs: Array) -> TanhGaussian:
    """The policy at `obs`, `(..., S)`: a distribution whose `to_env` gives actions within the environment's bounds."""
    check_kind("state", state, SACState)
    check_width("obs", obs, _widths(state)[0])
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
    batch, weight = weigh(batch, "batch", "B", dtype)
    check_batch_widths(batch, *_widths(state))
    batch = batch._replace(action=batch.action.astype(dtype))
    key, next_key, actor_key = jax.random.split(state.key, 3)

    # Target: the one-step soft return, its value the smaller of both target critics'.
    next_action, next_log_prob = _sample(sac_act(state, batch.next_obs), next_key)
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
    new_critic, critic_norm, finite = descend(critic, report, grads, rate, go, config.max_grad_norm)
    go &= finite

    # Actor: climb the smaller of the new critics and keep its entropy, through the sampled action.
    def actor_loss_fn(params: Any) -> tuple[Array, Array]:
        action, log_prob = _sample(actor.apply_fn(params, batch.obs), actor_key)
        value = critic.apply_fn(new_critic.params, batch.obs, action).min(0)
        return weighted_mean(alpha * log_prob - value, weight), weighted_mean(log_prob, weight)

    (actor_loss, log_prob), grads = jax.value_and_grad(actor_loss_fn, has_aux=True)(actor.params)
    actor_report, rate = {"actor_loss": actor_loss, "entropy": -log_prob}, config.actor_learning_rate
    new_actor, actor_norm, finite = descend(actor, actor_report, grads, rate, go, config.max_grad_norm)
    go &= finite

    # Temperature: raise it while the entropy is below its target, lower it while above.
    temperature = state.temperature
    if temperature is not None:
        grad = -(log_prob + config.target_entropy)
        assert config.alpha_learning_rate is not None
        temperature, _, finite = descend(temperature, {}, grad, config.alpha_learning_rate, go)
        go &= finite

    # Targets: both critics' follow.
    new_critic = polyak_update(new_critic, jnp.where(go, config.tau, 0))
    new_state = SACState(new_actor, new_critic, temperature, key, state.num_updates + 1, config)
    return new_state, report | actor_report | {
        "alpha": new_state.alpha,
        "grad_norm_actor": actor_norm,
        "grad_norm_critic": critic_norm,
        "skipped_updates": (~go & (weight.sum() > 0)).astype(jnp.int32),
    }


def _sample(policy: TanhGaussian, key: Array) -> tuple[Array, Array]:
    """Actions `(B, A)` in the environment's units, and the log-density (nats) of these scaled to [-1, 1], `(B,)`."""
    u, log_prob = policy.sample_and_log_prob(key)
    half_ranges = (np.asarray(policy.high) - np.asarray(policy.low)) / 2
    return policy.to_env(u), log_prob + float(np.log(half_ranges).sum())


def _widths(state: SACState) -> tuple[int, int]:
    """Numbers in an observation and in an action."""
    obs_dim = state.actor.params["params"]["Dense_0"]["kernel"].shape[0]
    return obs_dim, len(state.actor.apply_fn.__self__.low)  # type: ignore[attr-defined]


def check_config(config: SACConfig, observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """Raises BadInput, in one line, if SAC with this config cannot learn on these spaces as asked."""
    check_kind("config", config, SACConfig)
    check_single(observation_space, action_space)
    check_continuous(action_space, "sac")
    check_numbers(config, RANGES)
    check_hidden_sizes(config.hidden_sizes, at_least=1)
    observations, size = width(layout(observation_space)), math.prod(action_space.shape or ())
    outputs = 2 * size
    count = num_parameters(observations, *config.hidden_sizes, outputs)
    count += 2 * num_parameters(observations + size, *config.hidden_sizes, 1)
    check_network_memory(config, count, COPIES, observations, outputs)
    learned = config.alpha_learning_rate is not None
    if (
        learned
        and not isinstance(config.initial_alpha, jax.core.Tracer)
        and not np.all(np.asarray(config.initial_alpha) > 0)
    ):
        raise BadInput(
            "initial_alpha is 0, whose logarithm cannot be learned: it must be positive, or alpha_learning_rate none"
        )


@functools.partial(jax.jit, static_argnames=("low", "high", "obs_dim"))
def _fresh_state(
    key: Array, config: SACConfig, low: tuple[float, ...], high: tuple[float, ...], obs_dim: int
) -> SACState:
    """Jitted, because initialisers run one by one would each be compiled on their own."""
    actor_key, *critic_keys, key = jax.random.split(key, 4)
    dtype = jnp.result_type(float)
    obs, action = jnp.zeros((1, obs_dim), dtype), jnp.zeros((1, len(low)), dtype)
    actor, act = apply_function(SquashedGaussianActor, config.hidden_sizes, low, high, dtype)
    critic, value = apply_function(JoinedActionValue, config.hidden_sizes, dtype)
    tx = adam(ADAM_EPS, flat=False)

    def learner(apply_fn: Any, params: Any) -> TrainState:
        return TrainState.create(apply_fn=apply_fn, params=params, tx=tx).replace(step=jnp.zeros((), jnp.int32))

    learned = config.alpha_learning_rate is not None
    return SACState(
        actor=learner(act, actor.init(actor_key, obs)),
        critic=TargetTrainState.fresh(Twin(value), tuple(critic.init(each, obs, action) for each in critic_keys), tx),
        temperature=learner(jnp.exp, jnp.log(config.initial_alpha)) if learned else None,
        key=key,
        num_updates=jnp.zeros((), jnp.int32),
        config=config,
    )

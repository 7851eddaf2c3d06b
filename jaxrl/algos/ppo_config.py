"""PPO's settings: what each number means, which may be, and what cannot work together."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
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
    check_kind,
    check_network_memory,
    check_numbers,
    check_single,
    check_vectors,
    check_whole,
)
from jaxrl.algos.networks import num_parameters
from jaxrl.data.spaces import layout, width
from jaxrl.errors import BadInput

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
    """The settings of an update. Numbers are leaves: changing one compiles nothing anew. The fields below
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


def num_outputs(space: spaces.Space) -> int:
    """How many numbers the actor's last layer gives, for actions of `space`."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return space.nvec.size * int(space.nvec.max())
    return math.prod(space.shape or ()) * (2 if isinstance(space, spaces.MultiBinary) else 1)


def annealed(config: PPOConfig, num_updates: Array) -> tuple[tuple[ArrayLike, ArrayLike], ArrayLike | None]:
    """The learning rates of actor and critic, and `clip_eps`, after so many updates."""
    rates: tuple[ArrayLike, ArrayLike] = config.actor_learning_rate, config.critic_learning_rate
    clip_eps: ArrayLike | None = config.clip_eps
    if config.anneal_updates is None:
        return rates, clip_eps
    remaining = jnp.maximum(0.0, 1 - num_updates.astype(jnp.result_type(config.anneal_updates)) / config.anneal_updates)
    if config.anneal_learning_rate:
        rates = config.actor_learning_rate * remaining, config.critic_learning_rate * remaining
    if config.anneal_clip and config.clip_eps is not None:
        clip_eps = config.clip_eps * remaining
    return rates, clip_eps


def check_config(
    config: PPOConfig,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    own_actor: bool = False,
    own_critic: bool = False,
) -> None:
    """Raises BadInput, in one line, if PPO with this config cannot learn on these spaces as asked; `own_actor` and
    `own_critic` say which network is not a built-in one."""
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
    if not (own_actor and own_critic):
        check_vectors(observation_space)
        outputs = num_outputs(action_space)
        count = sum(num_parameters(observations, *config.hidden_sizes, last) for last in (outputs, 1))
        check_network_memory(config, count, COPIES, observations, outputs)
    if own_actor and config.squash_actions:
        raise BadInput("squash_actions is for the built-in actor: leave it off, and let yours give a TanhGaussian")
    if isinstance(action_space, spaces.Box):
        check_box_actions(action_space)
    elif config.squash_actions:
        raise BadInput(
            f"squash_actions keeps Box actions within bounds, and {type(action_space).__name__} has none: leave it off"
        )
    check_whole(config, "num_epochs", "num_minibatches")
    check_numbers(config, RANGES)
    check_penalty(config)
    if config.anneal_clip and config.clip_eps is None:
        raise BadInput("anneal_clip anneals clip_eps, which is none: give a clip_eps (0.2, say) or leave it off")
    if (config.anneal_clip or config.anneal_learning_rate) and config.anneal_updates is None:
        raise BadInput("annealing needs its horizon: set anneal_updates to the number of updates that it takes")


def check_penalty(config: PPOConfig) -> None:
    """Raises BadInput if `kl_target` is to adapt a penalty that is off."""
    coef = config.kl_coef
    off = coef is None or (not isinstance(coef, jax.core.Tracer) and not np.all(np.asarray(jax.device_get(coef)) > 0))
    if config.kl_target is not None and off:
        raise BadInput("kl_target adapts kl_coef, which is off: give a positive kl_coef (1.0, say) or kl_target none")

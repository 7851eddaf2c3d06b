"""PPO's state: what one update hands to the next, and how it begins."""

import functools
from typing import Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from gymnasium import spaces
from jax import Array

from jaxrl.algos.built_in import ppo_networks
from jaxrl.algos.checks import check_key, strong, with_numbers
from jaxrl.algos.learner import Apply, Learner, adam
from jaxrl.algos.own_networks import check_policy, check_value, checked_networks
from jaxrl.algos.ppo_config import RANGES, PPOConfig, check_config, check_penalty
from jaxrl.data.spaces import layout, width
from jaxrl.device import check_process

ADAM_EPS = 1e-5


class PPOState(struct.PyTreeNode):
    """All that one update hands to the next: two learners, the KL coefficient, a JAX key, the number of updates done,
    the config, and how many numbers an observation has."""

    actor: Learner
    critic: Learner
    kl_coef: Array
    key: Array
    num_updates: Array
    config: PPOConfig
    obs_dim: int = struct.field(pytree_node=False)

    def replace_config(self, **numbers: float) -> Self:
        """The same state with some of the config's numbers changed, `kl_coef` in use included; compiles nothing anew.

        Raises:
          BadInput: one of them is static, or off (None) in this state, or out of its range.
        """
        config = with_numbers(self.config, numbers, RANGES, "ppo_init")
        check_penalty(config)
        return self.replace(config=config, kl_coef=config.kl_coef if "kl_coef" in numbers else self.kl_coef)


def ppo_init(
    key: Array,
    config: PPOConfig,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    *,
    actor: nn.Module | None = None,
    critic: nn.Module | None = None,
) -> PPOState:
    """A fresh learner for one environment's spaces; of a vector environment, its single ones.

    Args:
      key: one JAX key, of either style; equal keys give equal states.
      config: checked by `check_config`.
      observation_space: Box, Discrete, MultiDiscrete or MultiBinary of any shape, or a Dict or Tuple of such;
        observations reach the kernel flattened, `(..., S)`, as `jaxrl.data.spaces` says. Pixels need networks of your
        own, which get them flattened too, as numbers from 0 to 255.
      action_space: Discrete, MultiDiscrete, MultiBinary, or a bounded Box, each of any shape; actions of more than one
        axis are flattened, `(..., A)`.
      actor: a Flax module of your own, observations `(..., S)` to a distribution; None for the built-in one.
      critic: a Flax module of your own, observations `(..., S)` to values `(...)`; None for the built-in one.

    Returns:
      The state. Two states of equal static config, spaces and networks have equal tree structures.

    Raises:
      BadInput: the key, the config, a space or a network cannot work, or memory cannot hold the built-in networks; one
        line says what is wrong and what would be right.
    """
    check_process()
    check_key(key)
    check_config(config, observation_space, action_space, own_actor=actor is not None, own_critic=critic is not None)
    obs_dim = width(layout(observation_space))
    checks = check_policy, check_value
    networks = checked_networks((actor, critic), ppo_networks(config, action_space), checks, obs_dim, action_space)
    return _fresh_state(key, strong(config), *networks, obs_dim)


@functools.partial(jax.jit, static_argnames=("actor", "critic", "obs_dim"))
def _fresh_state(key: Array, config: PPOConfig, actor: nn.Module, critic: nn.Module, obs_dim: int) -> PPOState:
    """Jitted, because initialisers run one by one would each be compiled on their own."""
    actor_key, critic_key, key = jax.random.split(key, 3)
    obs, tx = jnp.zeros((1, obs_dim), jnp.result_type(float)), adam(ADAM_EPS, flat=True)
    return PPOState(
        actor=Learner.fresh(Apply(actor), actor.init(actor_key, obs), tx),
        critic=Learner.fresh(Apply(critic), critic.init(critic_key, obs), tx),
        kl_coef=jnp.zeros_like(config.gamma) if config.kl_coef is None else jnp.asarray(config.kl_coef),
        key=key,
        num_updates=jnp.zeros((), jnp.int32),
        config=config,
        obs_dim=obs_dim,
    )

"""The built-in actor and critic of each algorithm, for an environment's actions: what `*_init` takes where it is not
given others."""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from jaxrl.algos.checks import bounds, check_network_memory, check_vectors
from jaxrl.algos.networks import (
    ActionValue,
    CategoricalActor,
    DeterministicActor,
    GaussianActor,
    MultiCategoricalActor,
    SquashedGaussianActor,
    Value,
    num_parameters,
)
from jaxrl.data.spaces import layout, width

Networks = tuple[nn.Module, nn.Module]
COPIES_WITH_TARGET = 5  # Of each parameter: itself, its target, its gradient and Adam's two moments.


def ppo_networks(config: Any, action_space: spaces.Space) -> Networks:
    """PPO's actor, whose distribution depends on the kind of actions, and its critic."""
    hidden_sizes, dtype = config.hidden_sizes, jnp.result_type(float)
    actor: nn.Module
    if isinstance(action_space, spaces.Discrete):
        actor = CategoricalActor(hidden_sizes, int(action_space.n), int(action_space.start), dtype)
    elif isinstance(action_space, spaces.Box):
        squash = config.squash_actions
        actor = GaussianActor(hidden_sizes, *bounds(action_space), config.initial_log_std, squash, dtype)
    else:
        actor = MultiCategoricalActor(hidden_sizes, *components(action_space), dtype)
    return actor, Value(hidden_sizes, dtype)


def components(space: spaces.Space) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of each number of a MultiDiscrete or MultiBinary action, how many values it has and which is the first."""
    if isinstance(space, spaces.MultiDiscrete):
        sizes, starts = (tuple(map(int, np.ravel(x))) for x in (space.nvec, space.start))
        return sizes, starts
    count = math.prod(space.shape or ())
    return (2,) * count, (0,) * count


def ddpg_networks(config: Any, action_space: spaces.Space) -> Networks:
    """DDPG's actor and its critic, where the action joins after the first layer."""
    dtype = jnp.result_type(float)
    actor = DeterministicActor(config.hidden_sizes, *bounds(action_space), dtype)
    return actor, ActionValue(config.hidden_sizes, 1, dtype)


def td3_networks(config: Any, action_space: spaces.Space) -> Networks:
    """TD3's actor and one of its critics, where the action joins at the input."""
    dtype = jnp.result_type(float)
    actor = DeterministicActor(config.hidden_sizes, *bounds(action_space), dtype)
    return actor, ActionValue(config.hidden_sizes, 0, dtype)


def sac_networks(config: Any, action_space: spaces.Space) -> Networks:
    """SAC's actor and one of its critics, where the action joins at the input."""
    dtype = jnp.result_type(float)
    actor = SquashedGaussianActor(config.hidden_sizes, *bounds(action_space), dtype)
    return actor, ActionValue(config.hidden_sizes, 0, dtype)


def check_twin_critics(config: Any, observation_space: spaces.Space, action_space: spaces.Space, heads: int) -> None:
    """Raises BadInput if TD3's or SAC's built-in networks cannot learn from these observations, or memory cannot hold
    them: an actor with `heads` outputs for each number of an action, and two critics."""
    check_vectors(observation_space)
    observations, size = width(layout(observation_space)), math.prod(action_space.shape or ())
    count = num_parameters(observations, *config.hidden_sizes, heads * size)
    count += 2 * num_parameters(observations + size, *config.hidden_sizes, 1)
    check_network_memory(config, count, COPIES_WITH_TARGET, observations, heads * size)

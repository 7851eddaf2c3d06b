"""Saved policies with every kind of action and observation, for the tests of what reads them."""

from types import SimpleNamespace

import jax
import numpy as np
from gymnasium import spaces

from jaxrl import DDPGConfig, PPOConfig, SACConfig
from jaxrl.algos.built_in import ddpg_networks, ppo_networks, sac_networks
from jaxrl.data.normalize import Moments, Normalizer
from jaxrl.data.spaces import layout, width
from jaxrl.storage.policy import save_policy

VECTOR = spaces.Box(-np.inf, np.inf, (4,))
PARTS = spaces.Dict(
    {
        "box": spaces.Box(-5.0, 5.0, (2, 2)),
        "deep": spaces.Tuple([spaces.Discrete(3, start=-1), spaces.MultiBinary([2, 1])]),
        "many": spaces.MultiDiscrete([[2, 3]], start=[[1, 0]]),
    }
)
BOX = spaces.Box(np.float32([-1, -0.5]), np.float32([3, 0.75]))
ODD = spaces.Box(np.float64([[-2], [0]]), np.float64([[0.1], [7]]), dtype=np.float64)
PPO, SQUASHED = PPOConfig(hidden_sizes=(16, 8)), PPOConfig(hidden_sizes=(16, 8), squash_actions=True)
KINDS = {
    "discrete": (ppo_networks, PPO, VECTOR, spaces.Discrete(5, start=-2)),
    "multidiscrete": (ppo_networks, PPO, PARTS, spaces.MultiDiscrete([[3, 2], [4, 1]], start=[[0, 1], [-1, 5]])),
    "multibinary": (ppo_networks, PPO, VECTOR, spaces.MultiBinary([2, 2])),
    "gaussian": (ppo_networks, PPO, PARTS, BOX),
    "squashed": (ppo_networks, SQUASHED, VECTOR, BOX),
    "sac": (sac_networks, SACConfig(hidden_sizes=(16, 8)), VECTOR, ODD),
    "ddpg": (ddpg_networks, DDPGConfig(hidden_sizes=(16, 8)), VECTOR, ODD),
}


def save_bundles(folder):
    """A policy of each kind in a folder of its name, its parameters random and its normaliser warm. Gives of each the
    actor, a learner's module and parameters, and the normaliser."""
    actors = {}
    for name, (networks, config, observations, actions) in KINDS.items():
        rng, size = np.random.default_rng(len(name)), width(layout(observations))
        module, _ = networks(config, actions)
        shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, size), np.float32))
        params = jax.tree.map(
            lambda leaf, rng=rng: np.float32(rng.normal(0, leaf.shape[0] ** -0.5, leaf.shape)), shapes
        )
        moments = Moments(np.array(9.0), rng.normal(0, 0.3, size), rng.uniform(0.2, 2, size))
        normalizer = Normalizer(None if name == "ddpg" else moments, None, np.zeros(1))
        actors[name] = SimpleNamespace(module=module, params=params), normalizer
        save_policy(folder / name, actors[name][0], normalizer, "Any-v0", observations, actions, {"step": 3})
    return actors


def observations_of(space, count):
    """Observations of a space, a batch: of a Dict a dict of batches, and so on inwards."""
    rng = np.random.default_rng(7)
    if isinstance(space, spaces.Dict):
        return {key: observations_of(part, count) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(observations_of(part, count) for part in space.spaces)
    if isinstance(space, spaces.Box):
        return np.float32(rng.normal(0, 2, (count, *space.shape))).clip(space.low, space.high)
    space.seed(3)
    return np.stack([space.sample() for _ in range(count)])

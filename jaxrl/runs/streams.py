"""Random streams by purpose: each is a child of the run's seed, and none shares a number with another."""

import jax
import numpy as np

# The number of each purpose's stream among a seed's children. Numbers are never reused or changed.
NETWORK, ENVIRONMENTS, EXPLORATION, EVALUATION, SHOW, SAMPLING = range(6)


def stream(seed: int, purpose: int, step: int = 0) -> np.random.SeedSequence:
    """The random stream of one purpose, begun at one step; runs with neighbouring seeds share none."""
    return np.random.SeedSequence(seed, spawn_key=(purpose, step))


def stream_key(seed: int, purpose: int) -> jax.Array:
    """A JAX key from the random stream of one purpose."""
    [word] = stream(seed, purpose).generate_state(1)
    return jax.jit(jax.random.key)(jax.device_put(word))

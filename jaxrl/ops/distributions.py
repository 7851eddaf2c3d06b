"""Distributions over actions, and what any of them can do. They are pytrees, so that a network can return one.

`sample`, `mode` and `log_prob` speak of the action that the kernel learns from; `to_env` makes of it the one that the
environment is given, which is another where the policy squashes.

`sample` runs on the NumPy side with the caller's generator: inside a jitted policy the counter-based generator of JAX
would double the cost of a step on a CPU. The other methods are programs of their own where they are called eagerly, so
that their constants are no transfers to the device.
"""

from typing import Any, Protocol

import numpy as np
from jax import Array

from jaxrl.ops.continuous import Deterministic, DiagGaussian, TanhGaussian
from jaxrl.ops.discrete import Categorical, MultiCategorical

__all__ = [
    "Categorical",
    "Deterministic",
    "DiagGaussian",
    "Distribution",
    "MultiCategorical",
    "TanhGaussian",
    "kl_divergence",
]


class Distribution(Protocol):
    """The methods that kernels and loops ask of a policy's distribution. Any pytree with these methods is one, if each
    of its arrays begins with the axes of the observations."""

    def log_prob(self, action: Array) -> Array:
        """Log-probability (nats) of each action, `(...)`."""

    def entropy(self) -> Array:
        """Entropy (nats), `(...)`."""

    def kl_divergence(self, other: Any) -> Array:
        """Divergence (nats) of this distribution from `other`, one of its own kind, `(...)`."""

    def mode(self) -> Any:
        """The most probable action, `(...)` or `(..., A)`, where the distribution's arrays are."""

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """Draws one action per row on the NumPy side."""

    def sample_jax(self, key: Array) -> Array:
        """Draws one action per row inside JAX."""

    def to_env(self, action: Any) -> Any:
        """The action that the environment gets, where `action` is: a JAX array of a JAX array, else a NumPy array."""


def kl_divergence(old: Distribution, new: Distribution) -> Array:
    """Exact `KL(old || new)` (nats), row by row.

    Args:
      old, new: two distributions of one kind, with equal shapes.

    Returns:
      `(...)`, never negative but for rounding.

    Raises:
      TypeError: the two are of different kinds.

    Example, of two Gaussians of standard deviation 1 whose means are 1 apart:
      >>> zero, one = np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32)
      >>> kl_divergence(DiagGaussian(zero, zero), DiagGaussian(one, zero)).tolist()
      [0.5]
    """
    if type(old) is not type(new):
        raise TypeError(f"kl_divergence needs two of a kind, not {type(old).__name__} and {type(new).__name__}")
    return old.kl_divergence(new)

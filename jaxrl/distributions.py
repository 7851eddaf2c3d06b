"""Distributions over actions: Categorical and diagonal Gaussian with their exact KL divergences, and the trivial one of
a deterministic policy. All are pytrees, so that a network can return one.

`sample` runs on the NumPy side with the caller's generator: inside a jitted policy the counter-based generator of JAX
would double the cost of a step on a CPU.
"""

import dataclasses
import math
from typing import Self

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Deterministic:
    """All the probability on one action: what a deterministic policy gives. There is nothing to sample from it.

    Attributes:
      action: `(..., A)`.
    """

    action: Array | np.ndarray

    def mode(self) -> Array | np.ndarray:
        """The action, shape `(..., A)`."""
        return self.action


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Categorical:
    """A distribution over the integers `start, ..., start + K - 1`.

    `p_k = exp(logits_k) / sum_j exp(logits_j)`. A logit of minus infinity rules its action out.

    Attributes:
      logits: `(..., K)`, unnormalised log-probabilities (nats).
      start: the integer that the first logit stands for.
    """

    logits: Array | np.ndarray
    start: int = dataclasses.field(default=0, metadata={"static": True})

    def log_prob(self, action: Array) -> Array:
        """Log-probability (nats) of `action`, integers of shape `(...)`. Returns shape `(...)`."""
        chex.assert_shape(action, self.logits.shape[:-1], custom_message="action must be shaped like a row's index")
        # A comparison instead of a gather: its gradient is then no scatter, which is slow on every backend.
        chosen = jnp.arange(self.logits.shape[-1]) == (jnp.asarray(action) - self.start)[..., None]
        log_prob = jnp.where(chosen, jax.nn.log_softmax(self.logits), 0).sum(-1)
        return jnp.where(chosen.any(-1), log_prob, -jnp.inf)  # An action that is none of ours has no probability.

    def entropy(self) -> Array:
        """`-sum_k p_k log p_k` (nats), shape `(...)`."""
        log_p = jax.nn.log_softmax(self.logits)
        p = jnp.exp(log_p)
        return -(p * jnp.where(p > 0, log_p, 0)).sum(-1)

    def kl_divergence(self, other: Self) -> Array:
        """`sum_k p_k (log p_k - log q_k)` (nats) of this distribution p from `other` q, shape `(...)`."""
        log_p, log_q = jax.nn.log_softmax(self.logits), jax.nn.log_softmax(other.logits)
        p = jnp.exp(log_p)
        return (p * jnp.where(p > 0, log_p - log_q, 0)).sum(-1)

    def mode(self) -> Array | np.ndarray:
        """The most probable action, the first of equals, shape `(...)`."""
        return self.logits.argmax(-1) + self.start

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """Draws one action per row on the NumPy side: `argmax_k(logits_k + Gumbel noise)`. int64, shape `(...)`."""
        logits = np.asarray(self.logits)
        return np.argmax(logits + rng.gumbel(size=logits.shape), axis=-1) + self.start


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DiagGaussian:
    """A normal distribution with independent components.

    Attributes:
      mean: `(..., A)`.
      log_std: `(..., A)`, logarithm of the standard deviation.
    """

    mean: Array | np.ndarray
    log_std: Array | np.ndarray

    def log_prob(self, action: Array) -> Array:
        """`-sum_i [ (a_i - m_i)^2 / (2 s_i^2) + log s_i + log(2 pi) / 2 ]` (nats) of `action`, `(..., A)`; `(...)`."""
        chex.assert_shape(action, self.mean.shape, custom_message="action must be shaped like the mean")
        z = (action - self.mean) * jnp.exp(-self.log_std)
        return -(0.5 * jnp.square(z) + self.log_std + 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self) -> Array:
        """`sum_i [ log s_i + log(2 pi e) / 2 ]` (nats), shape `(...)`."""
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def kl_divergence(self, other: Self) -> Array:
        """`sum_i [ log(t_i / s_i) + (s_i^2 + (m_i - n_i)^2) / (2 t_i^2) - 1/2 ]` (nats) with `other` N(n, t^2).

        Written with `expm1`, so that a small divergence does not vanish in the rounding of `s^2 / t^2 - 1`.
        """
        log_ratio = self.log_std - other.log_std
        shift = (self.mean - other.mean) * jnp.exp(-other.log_std)
        return (0.5 * (jnp.expm1(2 * log_ratio) + jnp.square(shift)) - log_ratio).sum(-1)

    def mode(self) -> Array | np.ndarray:
        """The mean, shape `(..., A)`."""
        return self.mean

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """Draws one action per row on the NumPy side: `m + s * noise`. float32 or float64 as the mean; `(..., A)`."""
        mean = np.asarray(self.mean)
        noise = rng.standard_normal(mean.shape, dtype=mean.dtype)
        return mean + np.exp(np.asarray(self.log_std)) * noise


def kl_divergence(old: Categorical | DiagGaussian, new: Categorical | DiagGaussian) -> Array:
    """Exact `KL(old || new)` (nats), row by row.

    Args:
      old, new: two distributions of one kind, with equal shapes `(..., K)`.

    Returns:
      `(...)`, never negative but for rounding.

    Raises:
      TypeError: the two are of different kinds.
    """
    if type(old) is not type(new):
        raise TypeError(f"kl_divergence needs two of a kind, not {type(old).__name__} and {type(new).__name__}")
    return old.kl_divergence(new)  # type: ignore[arg-type]

"""Distributions over integers: Categorical, one or several at once."""

import dataclasses
import functools
from typing import Any, Self

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrl.ops.arrays import compiled, on_host
from jaxrl.ops.host import HostCategorical, in_line_with


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Categorical:
    """A distribution over the integers `start, ..., start + K - 1`.

    `p_k = exp(logits_k) / sum_j exp(logits_j)`. A logit of minus infinity rules its action out.

    Attributes:
      logits: `(..., K)`, unnormalised log-probabilities (nats).
      start: the integer that the first logit stands for.

    Example:
      >>> policy = Categorical(np.log(np.float32([[0.25, 0.75]])), start=1)
      >>> policy.mode().tolist(), np.exp(policy.log_prob(np.array([1]))).round(3).tolist()
      ([2], [0.25])
    """

    logits: Array | np.ndarray
    start: int = dataclasses.field(default=0, metadata={"static": True})

    @compiled
    def log_prob(self, action: Array) -> Array:
        """Log-probability (nats) of `action`, integers of shape `(...)`. Returns shape `(...)`."""
        chex.assert_shape(action, self.logits.shape[:-1], custom_message="action must be shaped like a row's index")
        # A comparison instead of a gather: its gradient is then no scatter, which is slow on every backend.
        index = (_countable(action) - self.start)[..., None]
        chosen = jax.lax.broadcasted_iota(index.dtype, self.logits.shape, self.logits.ndim - 1) == index
        log_prob = jnp.where(chosen, jax.nn.log_softmax(self.logits), 0).sum(-1)
        return jnp.where(chosen.any(-1), log_prob, -jnp.inf)  # An action that is none of ours has no probability.

    @compiled
    def entropy(self) -> Array:
        """`-sum_k p_k log p_k` (nats), shape `(...)`."""
        log_p = jax.nn.log_softmax(self.logits)
        p = jnp.exp(log_p)
        return -(p * jnp.where(p > 0, log_p, 0)).sum(-1)

    @compiled
    def kl_divergence(self, other: Self) -> Array:
        """`sum_k p_k (log p_k - log q_k)` (nats) of this distribution p from `other` q, shape `(...)`."""
        log_p, log_q = jax.nn.log_softmax(self.logits), jax.nn.log_softmax(other.logits)
        p = jnp.exp(log_p)
        return (p * jnp.where(p > 0, log_p - log_q, 0)).sum(-1)

    def mode(self) -> Array | np.ndarray:
        """The most probable action, the first of equals, shape `(...)`."""
        return _plus(self.logits.argmax(-1), self.start)

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """Draws one action per row on the NumPy side: `argmax_k(logits_k + Gumbel noise)`. int64, shape `(...)`."""
        return HostCategorical(on_host(self.logits), self.start).sample(rng)

    @compiled
    def sample_jax(self, key: Array) -> Any:
        """Draws one action per row inside JAX. Integers, shape `(...)`."""
        return _plus(jax.random.categorical(key, self.logits), self.start)

    def to_env(self, action: Any) -> Any:
        """The action itself."""
        return action


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MultiCategorical:
    """A vector of integers, each from a Categorical of its own, independent of the others.

    Attributes:
      logits: `(..., D, K)`, unnormalised log-probabilities (nats) of D components with at most K values; minus infinity
        where a component has fewer.
      starts: the integer that the first logit of each component stands for.
    """

    logits: Array | np.ndarray
    starts: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    @compiled
    def log_prob(self, action: Array) -> Array:
        """The sum of the components' log-probabilities (nats) of `action`, integers `(..., D)`. Returns `(...)`."""
        chex.assert_shape(action, self.logits.shape[:-1], custom_message="action must have one integer a component")
        action = _countable(action)
        return Categorical(self.logits).log_prob(action - in_line_with(action, self.starts)).sum(-1)

    @compiled
    def entropy(self) -> Array:
        """The sum of the components' entropies (nats), shape `(...)`."""
        return Categorical(self.logits).entropy().sum(-1)

    @compiled
    def kl_divergence(self, other: Self) -> Array:
        """The sum of the components' divergences (nats) from those of `other`, shape `(...)`."""
        return Categorical(self.logits).kl_divergence(Categorical(other.logits)).sum(-1)

    def mode(self) -> Array | np.ndarray:
        """The most probable action, shape `(..., D)`."""
        return _plus(Categorical(self.logits).mode(), self.starts)

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """Draws one action per row on the NumPy side. int64, shape `(..., D)`."""
        return HostCategorical(on_host(self.logits), self.starts).sample(rng)

    @compiled
    def sample_jax(self, key: Array) -> Any:
        """Draws one action per row inside JAX. Integers, shape `(..., D)`."""
        return _plus(Categorical(self.logits).sample_jax(key), self.starts)

    def to_env(self, action: Any) -> Any:
        """The action itself."""
        return action


def _countable(action: Any) -> Array:
    """Actions in a type that has room for every index; a fraction stays one."""
    action = jnp.asarray(action)
    return action if jnp.issubdtype(action.dtype, jnp.floating) else action.astype(jnp.result_type(int))


def _plus(action: Array | np.ndarray, start: int | tuple[int, ...]) -> Array | np.ndarray:
    """`action + start`, where the action is."""
    return action + np.array(start) if isinstance(action, np.ndarray | np.generic) else _plus_on_device(action, start)


@functools.partial(jax.jit, static_argnames="start")
def _plus_on_device(action: Array, start: int | tuple[int, ...]) -> Array:
    return action + (in_line_with(action, start) if isinstance(start, tuple) else start)

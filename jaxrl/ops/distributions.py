"""Distributions over actions: Categorical, one or several at once; diagonal Gaussian, plain or squashed into bounds,
with their exact KL divergences; and the trivial one of a deterministic policy. All are pytrees, so that a network can
return one.

`sample`, `mode` and `log_prob` speak of the action that the kernel learns from; `to_env` makes of it the one that the
environment is given, which is another where the policy squashes.

`sample` runs on the NumPy side with the caller's generator: inside a jitted policy the counter-based generator of JAX
would double the cost of a step on a CPU. The other methods are programs of their own where they are called eagerly, so
that their constants are no transfers to the device.
"""

import dataclasses
import functools
import math
from typing import Any, Self

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

QUADRATURE_NODES = 32
_compiled = functools.partial(jax.jit, inline=True)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Deterministic:
    """All the probability on one action: what a deterministic policy gives. There is nothing to sample from it.

    Attributes:
      action: `(..., A)`, within the bounds.
      low, high: the bounds, a number for each dimension, static.
    """

    action: Array | np.ndarray
    low: tuple[float, ...] = dataclasses.field(metadata={"static": True}, default=())
    high: tuple[float, ...] = dataclasses.field(metadata={"static": True}, default=())

    def mode(self) -> Array | np.ndarray:
        """The action, shape `(..., A)`."""
        return self.action

    def to_env(self, action: Any) -> Any:
        """The action itself."""
        return action


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

    @_compiled
    def log_prob(self, action: Array) -> Array:
        """Log-probability (nats) of `action`, integers of shape `(...)`. Returns shape `(...)`."""
        chex.assert_shape(action, self.logits.shape[:-1], custom_message="action must be shaped like a row's index")
        # A comparison instead of a gather: its gradient is then no scatter, which is slow on every backend.
        index = (_countable(action) - self.start)[..., None]
        chosen = jax.lax.broadcasted_iota(index.dtype, self.logits.shape, self.logits.ndim - 1) == index
        log_prob = jnp.where(chosen, jax.nn.log_softmax(self.logits), 0).sum(-1)
        return jnp.where(chosen.any(-1), log_prob, -jnp.inf)  # An action that is none of ours has no probability.

    @_compiled
    def entropy(self) -> Array:
        """`-sum_k p_k log p_k` (nats), shape `(...)`."""
        log_p = jax.nn.log_softmax(self.logits)
        p = jnp.exp(log_p)
        return -(p * jnp.where(p > 0, log_p, 0)).sum(-1)

    @_compiled
    def kl_divergence(self, other: Self) -> Array:
        """`sum_k p_k (log p_k - log q_k)` (nats) of this distribution p from `other` q, shape `(...)`."""
        log_p, log_q = jax.nn.log_softmax(self.logits), jax.nn.log_softmax(other.logits)
        p = jnp.exp(log_p)
        return (p * jnp.where(p > 0, log_p - log_q, 0)).sum(-1)

    def mode(self) -> Array | np.ndarray:
        """The most probable action, the first of equals, shape `(...)`."""
        return _plus(self.logits.argmax(-1), self.start)

    @np.errstate(all="ignore")
    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """Draws one action per row on the NumPy side: `argmax_k(logits_k + Gumbel noise)`. int64, shape `(...)`."""
        logits = _on_host(self.logits)
        return np.argmax(logits + rng.gumbel(size=logits.shape), axis=-1) + self.start

    @_compiled
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

    @_compiled
    def log_prob(self, action: Array) -> Array:
        """The sum of the components' log-probabilities (nats) of `action`, integers `(..., D)`. Returns `(...)`."""
        chex.assert_shape(action, self.logits.shape[:-1], custom_message="action must have one integer a component")
        action = _countable(action)
        return Categorical(self.logits).log_prob(action - _in_line_with(action, self.starts)).sum(-1)

    @_compiled
    def entropy(self) -> Array:
        """The sum of the components' entropies (nats), shape `(...)`."""
        return Categorical(self.logits).entropy().sum(-1)

    @_compiled
    def kl_divergence(self, other: Self) -> Array:
        """The sum of the components' divergences (nats) from those of `other`, shape `(...)`."""
        return Categorical(self.logits).kl_divergence(Categorical(other.logits)).sum(-1)

    def mode(self) -> Array | np.ndarray:
        """The most probable action, shape `(..., D)`."""
        return _plus(Categorical(self.logits).mode(), self.starts)

    @np.errstate(all="ignore")
    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """Draws one action per row on the NumPy side. int64, shape `(..., D)`."""
        return Categorical(self.logits).sample(rng) + np.array(self.starts)

    @_compiled
    def sample_jax(self, key: Array) -> Any:
        """Draws one action per row inside JAX. Integers, shape `(..., D)`."""
        return _plus(Categorical(self.logits).sample_jax(key), self.starts)

    def to_env(self, action: Any) -> Any:
        """The action itself."""
        return action


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

    @_compiled
    def log_prob(self, action: Array) -> Array:
        """`-sum_i [ (a_i - m_i)^2 / (2 s_i^2) + log s_i + log(2 pi) / 2 ]` (nats) of `action`, `(..., A)`; `(...)`."""
        chex.assert_shape(action, self.mean.shape, custom_message="action must be shaped like the mean")
        z = (action - self.mean) * jnp.exp(-self.log_std)
        return -(0.5 * jnp.square(z) + self.log_std + 0.5 * math.log(2 * math.pi)).sum(-1)

    @_compiled
    def entropy(self) -> Array:
        """`sum_i [ log s_i + log(2 pi e) / 2 ]` (nats), shape `(...)`."""
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    @_compiled
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

    @np.errstate(all="ignore")
    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """Draws one action per row on the NumPy side: `m + s * noise`. float32 or float64 as the mean; `(..., A)`."""
        mean, log_std = _on_host(self.mean), _on_host(self.log_std)
        noise = rng.standard_normal(mean.shape, dtype=mean.dtype)
        return mean + np.exp(log_std) * noise

    @_compiled
    def sample_jax(self, key: Array) -> Any:
        """Draws one action per row inside JAX: `m + s * noise`. The mean's type; `(..., A)`."""
        mean = jnp.asarray(self.mean)
        return mean + jnp.exp(self.log_std) * jax.random.normal(key, mean.shape, mean.dtype)

    def to_env(self, action: Any) -> Any:
        """The action itself; the environment's adapter clips it to the bounds."""
        return action


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TanhGaussian(DiagGaussian):
    """The distribution of `a = (low + high) / 2 + (high - low) / 2 * tanh(u)` with u from a diagonal Gaussian.

    It speaks of u, from which a follows, because u does not follow from a: in float32, tanh(10) is 1. `sample`, `mode`
    and the argument of `log_prob` are u; `to_env` is a. The divergence of two such distributions is that of their
    Gaussians, because what both are put through can be undone.

    Attributes:
      low, high: the bounds of each component of a.
    """

    low: tuple[float, ...] = dataclasses.field(metadata={"static": True})
    high: tuple[float, ...] = dataclasses.field(metadata={"static": True})

    @_compiled
    def log_prob(self, action: Array) -> Array:
        """The log-density (nats) of a, at `action` = u, `(..., A)`; returns `(...)`.

        `log N(u) - sum_i [ log((high_i - low_i) / 2) + 2 (log 2 - u_i - softplus(-2 u_i)) ]`, which is finite wherever
        u is: the last term is `log(1 - tanh(u_i)^2)` in a form that does not subtract equals.
        """
        return super().log_prob(action) - self._log_slope(action).sum(-1)

    @_compiled
    def entropy(self) -> Array:
        """The entropy (nats) of a, shape `(...)`: that of u, and the mean logarithm of the slope that takes u to a, by
        Gauss-Hermite quadrature: to a thousandth while u has a standard deviation of at most 1, to a tenth at 4."""
        mean, std = jnp.asarray(self.mean), jnp.exp(self.log_std)
        places, shares = np.polynomial.hermite_e.hermegauss(QUADRATURE_NODES)
        u = mean[None] + std[None] * jnp.asarray(places, mean.dtype).reshape(-1, *[1] * mean.ndim)
        weights = jnp.asarray(shares / shares.sum(), mean.dtype)
        log_slope = jnp.tensordot(weights, self._log_slope(u), axes=1, precision=jax.lax.Precision.HIGHEST)
        return super().entropy() + log_slope.sum(-1)

    @_compiled
    def sample_and_log_prob(self, key: Array) -> tuple[Array, Array]:
        """Draws one u per row inside JAX, and its log-density; both have a gradient with respect to mean and log-std.

        `u = m + s * noise`, and `log_prob` is taken from the noise. Taken from u it would have to divide `u - m` by s
        again, and where s is small that quotient is rounding error: at a log-std of -20, times 5e8.

        Args:
          key: JAX key.

        Returns:
          u, `(..., A)`, and the log-density (nats) of its a, as `log_prob` gives it, `(...)`.
        """
        mean, log_std = jnp.asarray(self.mean), jnp.asarray(self.log_std)
        noise = jax.random.normal(key, mean.shape, mean.dtype)
        u = mean + jnp.exp(log_std) * noise
        log_density = -(0.5 * jnp.square(noise) + log_std + 0.5 * math.log(2 * math.pi))
        return u, (log_density - self._log_slope(u)).sum(-1)

    @np.errstate(all="ignore")
    def to_env(self, action: Any) -> Any:
        """The a of this u, `(..., A)`, within the bounds: a JAX array of a JAX array, else a NumPy array."""
        if isinstance(action, jax.Array):
            return self._scaled(action)
        action = np.asarray(action)
        low, high = (_in_line_with(action, bound) for bound in (self.low, self.high))
        return np.clip((low + high) / 2 + (high - low) / 2 * np.tanh(action), low, high)

    @_compiled
    def _scaled(self, action: Array) -> Array:
        """`to_env` of a JAX array; one program, so that the bounds are no transfers to the device."""
        low, high = (_in_line_with(action, bound) for bound in (self.low, self.high))
        return jnp.clip((low + high) / 2 + (high - low) / 2 * jnp.tanh(action), low, high)

    def _log_slope(self, u: Array) -> Array:
        """`log(da_i / du_i)`, shaped like u."""
        half = (np.asarray(self.high) - np.asarray(self.low)) / 2
        return _in_line_with(u, np.log(half)) + 2 * (math.log(2) - u - jax.nn.softplus(-2 * u))


def _countable(action: Any) -> Array:
    """Actions in a type that has room for every index; a fraction stays one."""
    action = jnp.asarray(action)
    return action if jnp.issubdtype(action.dtype, jnp.floating) else action.astype(jnp.result_type(int))


def _in_line_with(x: Array, numbers: Any) -> Any:
    """`numbers`, one for each place on the last axis of `x`, with as many axes as `x` and in its type."""
    return np.asarray(numbers, x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


def _on_host(x: Array | np.ndarray) -> np.ndarray:
    """`x` in NumPy, fetched from the device where it is there."""
    return x if isinstance(x, np.ndarray) else np.asarray(jax.device_get(x))


def _plus(action: Array | np.ndarray, start: int | tuple[int, ...]) -> Array | np.ndarray:
    """`action + start`, where the action is."""
    return action + np.array(start) if isinstance(action, np.ndarray | np.generic) else _plus_on_device(action, start)


@functools.partial(jax.jit, static_argnames="start")
def _plus_on_device(action: Array, start: int | tuple[int, ...]) -> Array:
    return action + (_in_line_with(action, start) if isinstance(start, tuple) else start)


Distribution = Categorical | MultiCategorical | DiagGaussian


def kl_divergence(old: Distribution, new: Distribution) -> Array:
    """Exact `KL(old || new)` (nats), row by row.

    Args:
      old, new: two distributions of one kind, with equal shapes.

    Returns:
      `(...)`, never negative but for rounding.

    Raises:
      TypeError: the two are of different kinds.
    """
    if type(old) is not type(new):
        raise TypeError(f"kl_divergence needs two of a kind, not {type(old).__name__} and {type(new).__name__}")
    return old.kl_divergence(new)  # type: ignore[arg-type]

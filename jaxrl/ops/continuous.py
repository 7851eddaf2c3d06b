"""Distributions over real numbers: diagonal Gaussian, plain or squashed into bounds; and the trivial one of a
deterministic policy."""

import dataclasses
import math
from typing import Any, Self

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrl.ops.arrays import compiled, on_host
from jaxrl.ops.host import HostGaussian, HostTanhGaussian, in_line_with

QUADRATURE_NODES = 32


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

    @compiled
    def log_prob(self, action: Array) -> Array:
        """`-sum_i [ (a_i - m_i)^2 / (2 s_i^2) + log s_i + log(2 pi) / 2 ]` (nats) of `action`, `(..., A)`; `(...)`."""
        chex.assert_shape(action, self.mean.shape, custom_message="action must be shaped like the mean")
        z = (action - self.mean) * jnp.exp(-self.log_std)
        return -(0.5 * jnp.square(z) + self.log_std + 0.5 * math.log(2 * math.pi)).sum(-1)

    @compiled
    def entropy(self) -> Array:
        """`sum_i [ log s_i + log(2 pi e) / 2 ]` (nats), shape `(...)`."""
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    @compiled
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
        return HostGaussian(on_host(self.mean), on_host(self.log_std)).sample(rng)

    @compiled
    def sample_jax(self, key: Array) -> Any:
        """Draws one action per row inside JAX: `m + s * noise`. The mean's type; `(..., A)`."""
        mean = jnp.asarray(self.mean)
        return self.from_noise(jax.random.normal(key, mean.shape, mean.dtype))

    def from_noise(self, noise: Any) -> Any:
        """The action that this noise draws, `m + s * noise`, shaped as the mean; in NumPy if the noise is."""
        if isinstance(noise, np.ndarray):
            return HostGaussian(on_host(self.mean), on_host(self.log_std)).from_noise(noise)
        return self.mean + jnp.exp(self.log_std) * noise.astype(self.mean.dtype)

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

    @compiled
    def log_prob(self, action: Array) -> Array:
        """The log-density (nats) of a, at `action` = u, `(..., A)`; returns `(...)`.

        `log N(u) - sum_i [ log((high_i - low_i) / 2) + 2 (log 2 - u_i - softplus(-2 u_i)) ]`, which is finite wherever
        u is: the last term is `log(1 - tanh(u_i)^2)` in a form that does not subtract equals.
        """
        return super().log_prob(action) - self._log_slope(action).sum(-1)

    @compiled
    def entropy(self) -> Array:
        """The entropy (nats) of a, shape `(...)`: that of u, and the mean logarithm of the slope that takes u to a, by
        Gauss-Hermite quadrature: to a thousandth while u has a standard deviation of at most 1, to a tenth at 4."""
        mean, std = jnp.asarray(self.mean), jnp.exp(self.log_std)
        places, shares = np.polynomial.hermite_e.hermegauss(QUADRATURE_NODES)
        u = mean[None] + std[None] * jnp.asarray(places, mean.dtype).reshape(-1, *[1] * mean.ndim)
        weights = jnp.asarray(shares / shares.sum(), mean.dtype)
        log_slope = jnp.tensordot(weights, self._log_slope(u), axes=1, precision=jax.lax.Precision.HIGHEST)
        return super().entropy() + log_slope.sum(-1)

    @compiled
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
        u = self.from_noise(noise)
        log_density = -(0.5 * jnp.square(noise) + log_std + 0.5 * math.log(2 * math.pi))
        return u, (log_density - self._log_slope(u)).sum(-1)

    def to_env(self, action: Any) -> Any:
        """The a of this u, `(..., A)`, within the bounds: a JAX array of a JAX array, else a NumPy array."""
        if isinstance(action, jax.Array):
            return self._scaled(action)
        return HostTanhGaussian(action, action, self.low, self.high).to_env(action)

    @compiled
    def _scaled(self, action: Array) -> Array:
        """`to_env` of a JAX array; one program, so that the bounds are no transfers to the device."""
        low, high = (in_line_with(action, bound) for bound in (self.low, self.high))
        return jnp.clip((low + high) / 2 + (high - low) / 2 * jnp.tanh(action), low, high)

    def _log_slope(self, u: Array) -> Array:
        """`log(da_i / du_i)`, shaped like u."""
        half = (np.asarray(self.high) - np.asarray(self.low)) / 2
        return in_line_with(u, np.log(half)) + 2 * (math.log(2) - u - jax.nn.softplus(-2 * u))

"""Distributions over actions in NumPy alone: what acting takes. A saved policy acts with them where JAX is missing.

`mode` and `sample` give what the kernel learns from, `to_env` makes of it what the environment gets. The distributions
of `discrete.py` and `continuous.py` draw on the host by these.
"""

from typing import Any, NamedTuple

import numpy as np


def in_line_with(x: Any, numbers: Any) -> Any:
    """`numbers`, one for each place on the last axis of `x`, with as many axes as `x` and in its type."""
    return np.asarray(numbers, x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


class HostCategorical(NamedTuple):
    """Integers, each with logits of its own.

    Attributes:
      logits: `(..., K)`, unnormalised log-probabilities (nats).
      start: the integer that the first logit stands for; where the last axis but one holds several integers, of each.
    """

    logits: np.ndarray
    start: Any

    def mode(self) -> Any:
        """The most probable action, the first of equals."""
        return self.logits.argmax(-1) + np.array(self.start)

    @np.errstate(all="ignore")
    def sample(self, rng: np.random.Generator) -> Any:
        """`argmax_k(logits_k + Gumbel noise) + start`, int64."""
        return np.argmax(self.logits + rng.gumbel(size=self.logits.shape), axis=-1) + np.array(self.start)

    def to_env(self, action: Any) -> Any:
        """The action itself."""
        return action


class HostGaussian(NamedTuple):
    """A normal distribution with independent components: mean and logarithm of the standard deviation, `(..., A)`."""

    mean: np.ndarray
    log_std: np.ndarray

    def mode(self) -> np.ndarray:
        """The mean."""
        return self.mean

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """`m + s * noise`, in the type of the mean."""
        return self.from_noise(rng.standard_normal(self.mean.shape, dtype=self.mean.dtype))

    @np.errstate(all="ignore")
    def from_noise(self, noise: np.ndarray) -> np.ndarray:
        """`m + s * noise`."""
        return self.mean + np.exp(self.log_std) * noise

    def to_env(self, action: Any) -> Any:
        """The action itself; whoever gives it to the environment clips it."""
        return action


class HostTanhGaussian(NamedTuple):
    """A Gaussian of u, which `a = (low + high) / 2 + (high - low) / 2 * tanh(u)` keeps within the bounds."""

    mean: np.ndarray
    log_std: np.ndarray
    low: Any
    high: Any

    def mode(self) -> np.ndarray:
        """The mean of u."""
        return self.mean

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """u, as of the Gaussian."""
        return HostGaussian(self.mean, self.log_std).sample(rng)

    @np.errstate(all="ignore")
    def to_env(self, action: Any) -> np.ndarray:
        """The a of this u, `(..., A)`."""
        action = np.asarray(action)
        low, high = (in_line_with(action, bound) for bound in (self.low, self.high))
        return np.clip((low + high) / 2 + (high - low) / 2 * np.tanh(action), low, high)


class HostDeterministic(NamedTuple):
    """All the probability on one action, `(..., A)`."""

    action: np.ndarray

    def mode(self) -> np.ndarray:
        """The action."""
        return self.action

    def to_env(self, action: Any) -> Any:
        """The action itself."""
        return action

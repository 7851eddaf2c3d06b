"""Flax modules. An actor returns a distribution, a value network a rank-1 array; both are built by cached factories, so
that equal static settings give the very same objects, and with them equal tree structures and one trace."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jaxrl.distributions import Categorical, DiagGaussian

Init = Callable[..., Array]


def _dense(width: int, scale: float, dtype: Any) -> nn.Dense:
    return nn.Dense(width, kernel_init=nn.initializers.orthogonal(scale), param_dtype=dtype)


class _Trunk(nn.Module):
    """Tanh layers with orthogonal kernels of gain sqrt(2) and zero biases."""

    hidden_sizes: tuple[int, ...]
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for width in self.hidden_sizes:
            x = nn.tanh(_dense(width, 2**0.5, self.dtype)(x))
        return x


class CategoricalActor(nn.Module):
    """Observations `(..., S)` to a Categorical over `start, ..., start + num_actions - 1`; nearly uniform at first."""

    hidden_sizes: tuple[int, ...]
    num_actions: int
    start: int
    dtype: Any

    @nn.compact
    def __call__(self, obs: Array) -> Categorical:
        hidden = _Trunk(self.hidden_sizes, self.dtype)(obs)
        return Categorical(_dense(self.num_actions, 0.01, self.dtype)(hidden), self.start)


class GaussianActor(nn.Module):
    """Observations `(..., S)` to a DiagGaussian over `(..., A)`; the log-std is a parameter, whatever the state."""

    hidden_sizes: tuple[int, ...]
    action_dim: int
    initial_log_std: float
    dtype: Any

    @nn.compact
    def __call__(self, obs: Array) -> DiagGaussian:
        mean = _dense(self.action_dim, 0.01, self.dtype)(_Trunk(self.hidden_sizes, self.dtype)(obs))
        log_std = self.param("log_std", nn.initializers.constant(self.initial_log_std), (self.action_dim,), self.dtype)
        return DiagGaussian(mean, jnp.broadcast_to(log_std, mean.shape))


class Value(nn.Module):
    """Observations `(..., S)` to values `(...)`."""

    hidden_sizes: tuple[int, ...]
    dtype: Any

    @nn.compact
    def __call__(self, obs: Array) -> Array:
        return _dense(1, 1.0, self.dtype)(_Trunk(self.hidden_sizes, self.dtype)(obs))[..., 0]


@functools.cache
def apply_function(module_class: type[nn.Module], *settings: Any) -> tuple[nn.Module, Callable[..., Any]]:
    """The module with these settings and its `apply`, the same two objects at every call.

    A bound method is a new object each time it is looked up, and a TrainState compares by it.
    """
    module = module_class(*settings)
    return module, module.apply

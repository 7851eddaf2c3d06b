"""The built-in networks, which are Flax modules, and acting with any network on the host.

An actor gives a distribution for each observation, a critic a value. Modules with equal settings are equal: states that
own them have equal tree structures, and share one trace.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.training.train_state import TrainState
from jax import Array

from jaxrl.algos.host import (
    LOG_STD_RANGE,
    categorical,
    deterministic,
    gaussian,
    multi_categorical,
    ruled_out,
    scaled,
    squashed_gaussian,
)
from jaxrl.algos.matmul import joined_product, product
from jaxrl.ops.arrays import common_type
from jaxrl.ops.distributions import Categorical, Deterministic, DiagGaussian, MultiCategorical, TanhGaussian


class MLP(nn.Module):
    """Tanh layers and a linear one; orthogonal kernels of gain sqrt(2), the last of gain `scale`; zero biases."""

    hidden_sizes: tuple[int, ...]
    width: int
    scale: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        # Of a large rollout, `(T, N, S)`, XLA for CPUs takes up to seven times as long as of its rows, `(T * N, S)`. On
        # other devices it makes no difference, and there they may share the environments' axis.
        x, axes = _widened(x, self.dtype), x.shape[:-1]
        if len(axes) > 1 and jax.default_backend() == "cpu":
            x = x.reshape(-1, x.shape[-1])
        for width in self.hidden_sizes:
            x = nn.tanh(self._dense(width, 2**0.5)(x))
        return self._dense(self.width, self.scale)(x).reshape(*axes, self.width)

    def _dense(self, width: int, scale: float) -> nn.Dense:
        return nn.Dense(width, kernel_init=_orthogonal(scale), param_dtype=self.dtype, dot_general=_dot_general)


def _orthogonal(scale: float) -> Callable[..., Array]:
    """Flax's initialiser. Under `vmap` it makes one matrix after the other. For several at once JAX on a CPU waits in
    threads of XLA's pool for others of the same pool: on two cores it has waited for ever."""
    make = nn.initializers.orthogonal(scale)

    def init(key: Array, shape: tuple[int, ...], dtype: Any = float) -> Array:
        return jax.custom_batching.sequential_vmap(lambda key: make(key, shape, dtype))(key)

    return init


class CategoricalActor(nn.Module):
    """Observations `(..., S)` to a Categorical over `start, ..., start + num_actions - 1`; nearly uniform at first."""

    hidden_sizes: tuple[int, ...]
    num_actions: int
    start: int
    dtype: Any

    @nn.compact
    def __call__(self, obs: Array) -> Categorical:
        logits = MLP(self.hidden_sizes, self.num_actions, 0.01, self.dtype, name="mlp")(obs)
        return Categorical(logits, self.start)

    @nn.nowrap
    def on_host(self, params: Any, obs: np.ndarray) -> Categorical:
        return Categorical(*categorical(params, obs, self.start))


class MultiCategoricalActor(nn.Module):
    """Observations `(..., S)` to a MultiCategorical: component i is one of `starts[i], ..., starts[i] + sizes[i] - 1`;
    nearly uniform at first."""

    hidden_sizes: tuple[int, ...]
    sizes: tuple[int, ...]
    starts: tuple[int, ...]
    dtype: Any

    @nn.compact
    def __call__(self, obs: Array) -> MultiCategorical:
        outputs = MLP(self.hidden_sizes, len(self.sizes) * max(self.sizes), 0.01, self.dtype, name="mlp")(obs)
        return MultiCategorical(ruled_out(jnp, outputs, self.sizes), self.starts)

    @nn.nowrap
    def on_host(self, params: Any, obs: np.ndarray) -> MultiCategorical:
        return MultiCategorical(*multi_categorical(params, obs, self.sizes, self.starts))


class GaussianActor(nn.Module):
    """Observations `(..., S)` to a Gaussian over `(..., A)`; the log-std is a parameter, whatever the state.

    A DiagGaussian in the environment's units, which the environment's adapter clips; or if `squash`, a TanhGaussian,
    which stays within the bounds, in units of their distance.
    """

    hidden_sizes: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    initial_log_std: float
    squash: bool
    dtype: Any

    @nn.compact
    def __call__(self, obs: Array) -> DiagGaussian:
        mean = MLP(self.hidden_sizes, len(self.low), 0.01, self.dtype, name="mlp")(obs)
        log_std = self.param("log_std", nn.initializers.constant(self.initial_log_std), (len(self.low),), self.dtype)
        return self._policy(mean, jnp.broadcast_to(log_std, mean.shape))

    @nn.nowrap
    def on_host(self, params: Any, obs: np.ndarray) -> DiagGaussian:
        return self._policy(*gaussian(params, obs, self.low, self.high, squash=False)[:2])

    @nn.nowrap
    def _policy(self, mean: Any, log_std: Any) -> DiagGaussian:
        return TanhGaussian(mean, log_std, self.low, self.high) if self.squash else DiagGaussian(mean, log_std)


class Value(nn.Module):
    """Observations `(..., S)` to values `(...)`."""

    hidden_sizes: tuple[int, ...]
    dtype: Any

    @nn.compact
    def __call__(self, obs: Array) -> Array:
        return MLP(self.hidden_sizes, 1, 1.0, self.dtype, name="mlp")(obs)[..., 0]


class DeterministicActor(nn.Module):
    """Observations `(..., S)` to actions `(..., A)` between `low` and `high`: ReLU layers, and a tanh that is scaled to
    the bounds of each dimension. All weights and biases start from U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""

    hidden_sizes: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    dtype: Any

    @nn.compact
    def __call__(self, obs: Array) -> Deterministic:
        x = _widened(obs, self.dtype)
        for width in self.hidden_sizes:
            x = nn.relu(_uniform_dense(width, x.shape[-1], self.dtype)(x))
        unit = nn.tanh(_uniform_dense(len(self.low), x.shape[-1], self.dtype)(x))
        return Deterministic(scaled(unit, self.low, self.high, self.dtype))

    @nn.nowrap
    def on_host(self, params: Any, obs: np.ndarray) -> Deterministic:
        return Deterministic(*deterministic(params, obs, self.low, self.high, self.dtype))


class ActionValue(nn.Module):
    """Observations `(..., S)` and actions `(..., A)` to values `(...)`: ReLU layers; the action joins what enters the
    one numbered `joins`, 0 the first. All weights and biases start from U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""

    hidden_sizes: tuple[int, ...]
    joins: int
    dtype: Any

    @nn.compact
    def __call__(self, obs: Array, action: Array) -> Array:
        x, action = _widened(obs, self.dtype), _widened(action, self.dtype)
        for i, width in enumerate(self.hidden_sizes):
            if i == self.joins:
                x = nn.relu(JoiningDense(width, self.dtype, name=f"Dense_{i}")(x, action))
            else:
                x = nn.relu(_uniform_dense(width, x.shape[-1], self.dtype, f"Dense_{i}")(x))
        return _uniform_dense(1, x.shape[-1], self.dtype, f"Dense_{len(self.hidden_sizes)}")(x)[..., 0]


class SquashedGaussianActor(nn.Module):
    """Observations `(..., S)` to a TanhGaussian over `(..., A)`: ReLU layers, mean and log-std both from the state, the
    log-std kept within LOG_STD_RANGE. All weights and biases start from U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""

    hidden_sizes: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    dtype: Any

    @nn.compact
    def __call__(self, obs: Array) -> TanhGaussian:
        x = _widened(obs, self.dtype)
        for width in self.hidden_sizes:
            x = nn.relu(_uniform_dense(width, x.shape[-1], self.dtype)(x))
        outputs = _uniform_dense(2 * len(self.low), x.shape[-1], self.dtype)(x)
        mean, log_std = outputs[..., : len(self.low)], outputs[..., len(self.low) :]
        return TanhGaussian(mean, jnp.clip(log_std, *LOG_STD_RANGE), self.low, self.high)

    @nn.nowrap
    def on_host(self, params: Any, obs: np.ndarray) -> TanhGaussian:
        return TanhGaussian(*squashed_gaussian(params, obs, self.low, self.high))


class JoiningDense(nn.Module):
    """A linear layer over `[x, action]`, with one kernel."""

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, action: Array) -> Array:
        fan_in = x.shape[-1] + action.shape[-1]
        init = _uniform(fan_in)
        kernel = self.param("kernel", init, (fan_in, self.width), self.dtype)
        bias = self.param("bias", init, (self.width,), self.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
        return joined_product(x, action, kernel) + bias


def _widened(x: Array, dtype: Any) -> Array:
    """`x` in the parameters' type, unless its own holds more. Flax does so, too, but where types are strict it refuses
    observations of float32 for parameters of float64."""
    x = jnp.asarray(x)
    return x.astype(common_type(x.dtype, dtype))


def _uniform_dense(width: int, fan_in: int, dtype: Any, name: str | None = None) -> nn.Dense:
    init = _uniform(fan_in)
    return nn.Dense(width, kernel_init=init, bias_init=init, param_dtype=dtype, dot_general=_dot_general, name=name)


def _dot_general(x: Array, kernel: Array, *_: Any, **__: Any) -> Array:
    """`product`, as a Flax layer asks for it."""
    return product(x, kernel)


def _uniform(fan_in: int) -> Callable[..., Array]:
    bound = fan_in**-0.5
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


def num_parameters(*widths: int) -> int:
    """How many weights and biases linear layers have that lead from `widths[0]` numbers by way of the others to the
    last."""
    return sum((before + 1) * after for before, after in itertools.pairwise(widths))


def as_policy(output: Any) -> Any:
    """The distribution that an actor gave; of plain actions the one that has all its probability on them."""
    return Deterministic(output) if isinstance(output, jax.Array | np.ndarray) else output


def policy_of(actor: TrainState, params: Any) -> Callable[[np.ndarray], Any]:
    """`host_policy` of an actor: its module's, or of a TrainState that names none what its `apply_fn` gives, jitted."""
    module = getattr(actor, "module", None)
    if module is not None:
        return host_policy(module, params)
    return functools.partial(_fetched, actor.apply_fn, jax.device_put(params))


def host_policy(module: nn.Module, params: Any) -> Callable[[np.ndarray], Any]:
    """An actor with these parameters, on the host: from observations `(N, S)` to its distribution, in NumPy.

    A loop acts once per step on a handful of rows. There, three small products in NumPy cost a fifth of what it takes
    to hand a jitted function its arguments and to wait for its result, and on an accelerator they spare a round trip.
    So a module may have a twin of its forward pass, `on_host(params, obs)`, in NumPy; without one it is its own,
    jitted.

    Args:
      module: the actor.
      params: its variables, `{"params": ...}`; fetched from the device here, once, if the module has a twin.

    Returns:
      A function that agrees with `module.apply` to rounding.
    """
    if hasattr(module, "on_host"):
        return functools.partial(_on_host, module, jax.device_get(params)["params"])
    return functools.partial(_fetched, module, jax.device_put(params))


@np.errstate(all="ignore")  # Rounding to zero or to infinity is as harmless here as in XLA, whatever `np.seterr` says.
def _on_host(module: Any, params: Any, obs: np.ndarray) -> Any:
    return module.on_host(params, obs)


def _fetched(network: Any, params: Any, obs: np.ndarray) -> Any:
    return jax.device_get(_applied(network, params, jax.device_put(obs)))


@functools.partial(jax.jit, static_argnums=0)
def _applied(network: Any, params: Any, obs: Array) -> Any:
    apply = network.apply if isinstance(network, nn.Module) else network
    return as_policy(apply(params, obs))

"""Networks: Flax modules for the kernels, and the actors' forward pass in NumPy for the loops.

An actor returns a distribution, a value network a rank-1 array. Modules come from a cached factory, so that equal
settings give the very same objects, and with them equal tree structures and one trace.
"""

import copyreg
import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero

from jaxrl.ops.distributions import Categorical, Deterministic, DiagGaussian, MultiCategorical, TanhGaussian

# Products in float32 are computed in float32: where JAX may choose, a GPU rounds their factors to ten bits (TF32).
EXACT = jax.lax.Precision.HIGHEST
LOG_STD_RANGE = -20.0, 2.0  # Of a log-std that a network gives: beyond them its exponential is of no use in float32.
NARROW = 32  # Outputs of a layer. Wider ones, in the midst of an update, lose as often as they gain by being turned.


class MLP(nn.Module):
    """Tanh layers and a linear one; orthogonal kernels of gain sqrt(2), the last of gain `scale`; zero biases."""

    hidden_sizes: tuple[int, ...]
    width: int
    scale: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for width in self.hidden_sizes:
            x = nn.tanh(self._dense(width, 2**0.5)(x))
        return self._dense(self.width, self.scale)(x)

    def _dense(self, width: int, scale: float) -> nn.Dense:
        kernel_init = nn.initializers.orthogonal(scale)
        return nn.Dense(width, kernel_init=kernel_init, param_dtype=self.dtype, dot_general=_dot_general)


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
        return Categorical(_mlp_on_host(params["mlp"], obs), self.start)


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
        return self._ruled_out(jnp, outputs)

    @nn.nowrap
    def on_host(self, params: Any, obs: np.ndarray) -> MultiCategorical:
        return self._ruled_out(np, _mlp_on_host(params["mlp"], obs))

    @nn.nowrap
    def _ruled_out(self, lib: Any, outputs: Any) -> MultiCategorical:
        """Every component gets as many logits as the largest has; those that it has no value for count for nothing."""
        most = max(self.sizes)
        logits = outputs.reshape(*outputs.shape[:-1], len(self.sizes), most)
        has = (np.arange(most) < np.array(self.sizes)[:, None]).reshape((1,) * (logits.ndim - 2) + (-1, most))
        return MultiCategorical(lib.where(has, logits, -np.inf).astype(outputs.dtype), self.starts)


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
        mean = _mlp_on_host(params["mlp"], obs)
        return self._policy(mean, np.broadcast_to(params["log_std"], mean.shape))

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
        x = obs
        for width in self.hidden_sizes:
            x = nn.relu(_uniform_dense(width, x.shape[-1], self.dtype)(x))
        unit = nn.tanh(_uniform_dense(len(self.low), x.shape[-1], self.dtype)(x))
        return Deterministic(self._scale(unit), self.low, self.high)

    @nn.nowrap
    def on_host(self, params: Any, obs: np.ndarray) -> Deterministic:
        unit = np.tanh(_mlp_on_host(params, obs, lambda x: np.maximum(x, 0)))
        return Deterministic(self._scale(unit), self.low, self.high)

    def _scale(self, unit: Any) -> Any:
        low, high = np.asarray((self.low, self.high), self.dtype).reshape((2,) + (1,) * (unit.ndim - 1) + (-1,))
        return (low + high) / 2 + (high - low) / 2 * unit


class ActionValue(nn.Module):
    """Observations `(..., S)` and actions `(..., A)` to values `(...)`: ReLU layers, the action joins after the first.
    All weights and biases start from U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""

    hidden_sizes: tuple[int, ...]
    dtype: Any

    @nn.compact
    def __call__(self, obs: Array, action: Array, in_parts: bool = False) -> Array:
        first, second, *others = self.hidden_sizes
        x = nn.relu(_uniform_dense(first, obs.shape[-1], self.dtype, "Dense_0")(obs))
        x = nn.relu(JoiningDense(second, self.dtype, name="Dense_1")(x, action, in_parts))
        for i, width in enumerate(others, start=2):
            x = nn.relu(_uniform_dense(width, x.shape[-1], self.dtype, f"Dense_{i}")(x))
        return _uniform_dense(1, x.shape[-1], self.dtype, f"Dense_{len(self.hidden_sizes)}")(x)[..., 0]


class JoinedActionValue(nn.Module):
    """Observations `(..., S)` and actions `(..., A)` to values `(...)`: ReLU layers, both joined at the input.
    All weights and biases start from U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""

    hidden_sizes: tuple[int, ...]
    dtype: Any

    @nn.compact
    def __call__(self, obs: Array, action: Array) -> Array:
        x = jnp.concatenate([obs, action], axis=-1)
        for width in self.hidden_sizes:
            x = nn.relu(_uniform_dense(width, x.shape[-1], self.dtype)(x))
        return _uniform_dense(1, x.shape[-1], self.dtype)(x)[..., 0]


class SquashedGaussianActor(nn.Module):
    """Observations `(..., S)` to a TanhGaussian over `(..., A)`: ReLU layers, mean and log-std both from the state, the
    log-std kept within LOG_STD_RANGE. All weights and biases start from U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""

    hidden_sizes: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    dtype: Any

    @nn.compact
    def __call__(self, obs: Array) -> TanhGaussian:
        x = obs
        for width in self.hidden_sizes:
            x = nn.relu(_uniform_dense(width, x.shape[-1], self.dtype)(x))
        return self._policy(jnp, _uniform_dense(2 * len(self.low), x.shape[-1], self.dtype)(x))

    @nn.nowrap
    def on_host(self, params: Any, obs: np.ndarray) -> TanhGaussian:
        return self._policy(np, _mlp_on_host(params, obs, lambda x: np.maximum(x, 0)))

    @nn.nowrap
    def _policy(self, lib: Any, outputs: Any) -> TanhGaussian:
        mean, log_std = outputs[..., : len(self.low)], outputs[..., len(self.low) :]
        return TanhGaussian(mean, lib.clip(log_std, *LOG_STD_RANGE), self.low, self.high)


class JoiningDense(nn.Module):
    """A linear layer over `[x, action]`, with one kernel.

    In two parts, `x K_x + action K_a`, the gradient that an actor needs, with respect to the action alone, is a product
    with the action's few rows of the kernel. In one, the gradient with respect to the kernel is a single product.
    """

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, action: Array, in_parts: bool) -> Array:
        size = x.shape[-1]
        fan_in = size + action.shape[-1]
        init = _uniform(fan_in)
        kernel = self.param("kernel", init, (fan_in, self.width), self.dtype)
        bias = self.param("bias", init, (self.width,), self.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
        if in_parts:
            return _matmul(x, kernel[:size]) + _matmul(action, kernel[size:]) + bias
        return _matmul(jnp.concatenate([x, action], axis=-1), kernel) + bias


def _uniform_dense(width: int, fan_in: int, dtype: Any, name: str | None = None) -> nn.Dense:
    init = _uniform(fan_in)
    return nn.Dense(width, kernel_init=init, bias_init=init, param_dtype=dtype, dot_general=_dot_general, name=name)


def _dot_general(x: Array, kernel: Array, *_: Any, **__: Any) -> Array:
    """`product`, as a Flax layer asks for it."""
    return product(x, kernel)


@jax.custom_jvp
def product(x: Array, kernel: Array) -> Array:
    """`x K`, of `(..., I)` and `(I, O)`: as `x @ kernel`, but for how its gradient with respect to K is taken.

    That gradient is `x^T G`. Where O is a handful, XLA's product for CPUs takes seven times as long for it as for
    `(G^T x)^T` with both transposes written out: of PPO's actor on CartPole-v1, a tenth of the whole update.
    """
    return _matmul(x, kernel)


@functools.partial(product.defjvp, symbolic_zeros=True)
def _product_jvp(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Any]:
    (x, kernel), (dx, dkernel) = primals, tangents
    parts = [] if isinstance(dx, SymbolicZero) else [_matmul(dx, kernel)]
    parts += [] if isinstance(dkernel, SymbolicZero) else [_turned_product(x, dkernel)]
    return _matmul(x, kernel), sum(parts[1:], parts[0])


def _turned_product(x: Array, kernel: Array) -> Array:
    """`x K`, written such that its transpose, the gradient, is the faster of the two where it matters.

    Barriers become barriers in the transpose. Without them XLA would join the transposes to the product, and have the
    slower one again.
    """
    if jax.default_backend() != "cpu" or not 1 < kernel.shape[1] <= NARROW:
        return _matmul(x, kernel)
    barrier = jax.lax.optimization_barrier
    columns = barrier(jnp.tensordot(barrier(kernel.T), x, axes=(1, -1), precision=EXACT))
    return jnp.moveaxis(columns, 0, -1)


def _matmul(x: Array, kernel: Array) -> Array:
    return jnp.matmul(x, kernel, precision=EXACT)


def _uniform(fan_in: int) -> Callable[..., Array]:
    bound = fan_in**-0.5
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


def _by_settings(module: nn.Module) -> tuple[Any, ...]:
    """How a module is pickled and copied: it comes back as the one that `apply_function` gives for its settings."""
    settings = [name for name in module.__dataclass_fields__ if name not in ("parent", "name")]
    return _module, (type(module), *(getattr(module, name) for name in settings))


def _module(module_class: type[nn.Module], *settings: Any) -> nn.Module:
    return apply_function(module_class, *settings)[0]  # type: ignore[arg-type]


for _each in (CategoricalActor, MultiCategoricalActor, GaussianActor, DeterministicActor, Value, ActionValue):
    copyreg.pickle(_each, _by_settings)  # type: ignore[arg-type]


def num_parameters(*widths: int) -> int:
    """How many weights and biases linear layers have that lead from `widths[0]` numbers by way of the others to the
    last."""
    return sum((before + 1) * after for before, after in itertools.pairwise(widths))


@functools.cache
def apply_function(module_class: type[nn.Module], *settings: Any) -> tuple[nn.Module, Callable[..., Any]]:
    """The module with these settings and its `apply`, the same two objects at every call.

    A bound method is a new object each time it is looked up, and a TrainState compares by it.
    """
    module = module_class(*settings)
    return module, module.apply


@dataclasses.dataclass(frozen=True)
class Twin:
    """`apply_fn` for a pair of critics: `(params, obs, action) -> (2, B)`, where `params` holds those of each.

    Attributes:
      apply_fn: that of one of them.
    """

    apply_fn: Callable[..., Array]

    def __call__(self, params: Any, obs: Array, action: Array) -> Array:
        """The values of both."""
        return jnp.stack([self.apply_fn(each, obs, action) for each in params])


def host_policy(apply_fn: Callable[..., Any], params: Any) -> Callable[[np.ndarray], Any]:
    """An actor with these parameters, in NumPy: from observations `(N, S)` to its distribution.

    A loop acts once per step on a handful of rows. There, three small products in NumPy cost a fifth of what it takes
    to hand a jitted function its arguments and to wait for its result, and on an accelerator they spare a round trip.

    Args:
      apply_fn: the actor's `apply`, from `apply_function`.
      params: its parameters; fetched from the device here, once.

    Returns:
      A function that agrees with `apply_fn` to rounding.
    """
    module = apply_fn.__self__  # type: ignore[attr-defined]
    return functools.partial(_on_host, module, jax.device_get(params)["params"])


@np.errstate(all="ignore")  # Rounding to zero or to infinity is as harmless here as in XLA, whatever `np.seterr` says.
def _on_host(module: Any, params: Any, obs: np.ndarray) -> Any:
    return module.on_host(params, obs)


def _mlp_on_host(layers: Any, x: np.ndarray, activation: Callable[[np.ndarray], np.ndarray] = np.tanh) -> np.ndarray:
    for i in range(len(layers) - 1):
        x = activation(x @ layers[f"Dense_{i}"]["kernel"] + layers[f"Dense_{i}"]["bias"])
    last = layers[f"Dense_{len(layers) - 1}"]
    return x @ last["kernel"] + last["bias"]

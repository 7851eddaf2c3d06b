"""The built-in actors in NumPy alone: they act on the host, and where JAX is not installed. Each is the twin of a Flax
module in `networks.py` of the name in ACTORS, with its settings and its parameters."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxrl.ops.host import HostCategorical, HostDeterministic, HostGaussian, HostTanhGaussian

LOG_STD_RANGE = -20.0, 2.0  # Of a log-std that a network gives: beyond them its exponential is of no use in float32.


def mlp_on_host(layers: Any, x: np.ndarray, activation: Callable[[np.ndarray], np.ndarray] = np.tanh) -> np.ndarray:
    """Linear layers `Dense_0`, `Dense_1`, ..., each with `kernel` and `bias`, and `activation` between them."""
    for i in range(len(layers) - 1):
        x = activation(x @ layers[f"Dense_{i}"]["kernel"] + layers[f"Dense_{i}"]["bias"])
    last = layers[f"Dense_{len(layers) - 1}"]
    return x @ last["kernel"] + last["bias"]


def relu_on_host(x: np.ndarray) -> np.ndarray:
    """`max(x, 0)`."""
    return np.maximum(x, 0)


def ruled_out(lib: Any, outputs: Any, sizes: tuple[int, ...]) -> Any:
    """The logits `(..., D, K)` of D integers. Every one gets as many as the largest has; those that it has no value for
    count for nothing. `lib` is NumPy, or what has its names."""
    logits = outputs.reshape(*outputs.shape[:-1], len(sizes), max(sizes))
    has = (np.arange(max(sizes)) < np.array(sizes)[:, None]).reshape((1,) * (logits.ndim - 2) + (-1, max(sizes)))
    return lib.where(has, logits, -np.inf).astype(outputs.dtype)


def scaled(unit: Any, low: Any, high: Any, dtype: Any) -> Any:
    """Actions of [-1, 1] on the last axis to the bounds of each dimension, in NumPy or JAX."""
    low, high = np.asarray((low, high), dtype).reshape((2,) + (1,) * (unit.ndim - 1) + (-1,))
    return (low + high) / 2 + (high - low) / 2 * unit


def categorical(params: Any, obs: np.ndarray, start: int) -> HostCategorical:
    """Of a CategoricalActor."""
    return HostCategorical(mlp_on_host(params["mlp"], obs), start)


def multi_categorical(params: Any, obs: np.ndarray, sizes: Any, starts: Any) -> HostCategorical:
    """Of a MultiCategoricalActor."""
    return HostCategorical(ruled_out(np, mlp_on_host(params["mlp"], obs), sizes), starts)


def gaussian(params: Any, obs: np.ndarray, low: Any, high: Any, squash: bool) -> HostGaussian | HostTanhGaussian:
    """Of a GaussianActor."""
    mean = mlp_on_host(params["mlp"], obs)
    log_std = np.broadcast_to(params["log_std"], mean.shape)
    return HostTanhGaussian(mean, log_std, low, high) if squash else HostGaussian(mean, log_std)


def squashed_gaussian(params: Any, obs: np.ndarray, low: Any, high: Any) -> HostTanhGaussian:
    """Of a SquashedGaussianActor."""
    outputs = mlp_on_host(params, obs, relu_on_host)
    mean, log_std = outputs[..., : len(low)], outputs[..., len(low) :]
    return HostTanhGaussian(mean, np.clip(log_std, *LOG_STD_RANGE), low, high)


def deterministic(params: Any, obs: np.ndarray, low: Any, high: Any, dtype: Any) -> HostDeterministic:
    """Of a DeterministicActor."""
    return HostDeterministic(scaled(np.tanh(mlp_on_host(params, obs, relu_on_host)), low, high, dtype))


ACTORS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "CategoricalActor": (categorical, ("start",)),
    "MultiCategoricalActor": (multi_categorical, ("sizes", "starts")),
    "GaussianActor": (gaussian, ("low", "high", "squash")),
    "SquashedGaussianActor": (squashed_gaussian, ("low", "high")),
    "DeterministicActor": (deterministic, ("low", "high", "dtype")),
}


def host_actor(name: str, settings: Mapping[str, Any], params: Any) -> Callable[[np.ndarray], Any]:
    """The actor of that name, a module's in `networks.py`: from observations `(N, S)` to its distribution."""
    function, needed = ACTORS[name]
    return functools.partial(_acting, function, params, {each: settings[each] for each in needed})


@np.errstate(all="ignore")  # Rounding to zero or to infinity is as harmless here as in XLA, whatever `np.seterr` says.
def _acting(function: Callable[..., Any], params: Any, settings: dict[str, Any], obs: np.ndarray) -> Any:
    return function(params, obs, **settings)

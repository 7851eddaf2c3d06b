"""Forward passes in NumPy, for networks that act on the host."""

from collections.abc import Callable
from typing import Any

import numpy as np


def mlp_on_host(layers: Any, x: np.ndarray, activation: Callable[[np.ndarray], np.ndarray] = np.tanh) -> np.ndarray:
    """Linear layers `Dense_0`, `Dense_1`, ..., each with `kernel` and `bias`, and `activation` between them."""
    for i in range(len(layers) - 1):
        x = activation(x @ layers[f"Dense_{i}"]["kernel"] + layers[f"Dense_{i}"]["bias"])
    last = layers[f"Dense_{len(layers) - 1}"]
    return x @ last["kernel"] + last["bias"]


def relu_on_host(x: np.ndarray) -> np.ndarray:
    """`max(x, 0)`."""
    return np.maximum(x, 0)

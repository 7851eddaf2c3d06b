"""A saved policy as an ONNX graph: raw observations in, environment actions out. The normaliser and the squashing are
inside, and the batch axis is free. Built by hand from the bundle's arrays; no JAX."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxrl.data.normalize import CLIP, EPSILON
from jaxrl.data.spaces import Binary, Layout, OneHot, layout_from_json, layout_parts, leaf_shape, one_hot_columns, width
from jaxrl.errors import BadInput
from jaxrl.storage.policy import Policy

OPSET = 17
IR_VERSION = 8  # That of the opset: an older runtime reads the file too.
ROWS = "N"  # The batch axis.


class Graph:
    """Nodes and constants, in the order in which they are computed; each value has a name."""

    def __init__(self) -> None:
        import onnx.helper
        import onnx.numpy_helper

        self._helper, self._numpy = onnx.helper, onnx.numpy_helper
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(
        self, kind: str, *inputs: str | np.ndarray | np.generic, output: str | None = None, **attributes: Any
    ) -> str:
        """Adds a node; an array among its inputs becomes a constant. Returns the name of what it gives."""
        names = [each if isinstance(each, str) else self._constant(np.asarray(each)) for each in inputs]
        output = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self._helper.make_node(kind, names, [output], **attributes))
        return output

    def cast(self, value: str, dtype: Any) -> str:
        """`value` in another type."""
        return self.add("Cast", value, to=self.type_of(dtype))

    def type_of(self, dtype: Any) -> int:
        """ONNX's number for a type of NumPy's."""
        return int(self._helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def described(self, name: str, dtype: Any, shape: tuple[int, ...]) -> Any:
        """An input or output, `(N, *shape)`."""
        return self._helper.make_tensor_value_info(name, self.type_of(dtype), [ROWS, *shape])

    def _constant(self, array: np.ndarray) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(self._numpy.from_array(np.ascontiguousarray(array), name))
        return name


def to_onnx(policy: Policy) -> bytes:
    """The policy's most probable actions as an ONNX model, serialised.

    A Box observation is an input `obs` of float32, a Discrete or MultiDiscrete of int64, a MultiBinary of int8, each
    with the batch axis first. Of a Dict or a Tuple each part is one, `obs.position` or `obs.0`. The output is `action`,
    as the action space has it. Nothing checks the observations, as a Policy does.

    Args:
      policy: what `load_policy` gives, with a built-in network.

    Raises:
      BadInput: the network is a user's own, two inputs would have one name, or the package onnx is not installed.
    """
    if policy.actor is not None:
        raise BadInput(
            f"the policy's network is your own, {policy.notes['actor']}, and ONNX takes built-in ones: --stablehlo "
            "FILE exports it by JAX"
        )
    try:
        import onnx
    except ImportError as error:
        raise BadInput("--onnx needs the package onnx: pip install 'jaxrl-kernels[onnx]'") from error
    graph, notes = Graph(), policy.notes
    leaves = list(_named_leaves("obs", layout_from_json(notes["observation"])))
    names = [name for name, _ in leaves]
    if len(set(names)) < len(names):
        raise BadInput(
            f"two parts of the observation would have one name, of {', '.join(names)}: ONNX wants each its own"
        )
    rows = [_row(graph, name, leaf) for name, leaf in leaves]
    obs = graph.add("Concat", *rows, axis=1) if len(rows) > 1 else rows[0]
    dtype, shape = _action(graph, policy, _normalised(graph, policy.arrays, obs))
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            "policy",
            [graph.described(name, _dtype_of(leaf), leaf_shape(leaf)) for name, leaf in leaves],
            [graph.described("action", dtype, shape)],
            graph.constants,
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="jaxrl",
        doc_string=f"A policy for {policy.env}: raw observations in, its most probable actions out.",
    )
    onnx.helper.set_model_props(model, {"env": policy.env, "actor": notes["actor"], "actions": notes["action"]})
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _named_leaves(name: str, layout: Layout) -> Iterator[tuple[str, Any]]:
    if isinstance(layout, dict | list):
        for key, part in layout_parts(layout):
            yield from _named_leaves(f"{name}.{key}", part)
    else:
        yield name, layout


def _dtype_of(leaf: Any) -> Any:
    return np.int64 if isinstance(leaf, OneHot) else np.int8 if isinstance(leaf, Binary) else np.float32


def _row(graph: Graph, name: str, leaf: Any) -> str:
    """A part of the observation as `(N, width)` float32, as `jaxrl.data.spaces.flatten` has it."""
    if isinstance(leaf, OneHot):
        number, value = one_hot_columns(leaf)
        flat = graph.add("Reshape", name, np.array([0, len(leaf.sizes)]))
        return graph.cast(graph.add("Equal", graph.add("Gather", flat, number, axis=1), value), np.float32)
    real = graph.cast(name, np.float32) if isinstance(leaf, Binary) else name
    return graph.add("Reshape", real, np.array([0, width(leaf)]))


def _normalised(graph: Graph, arrays: dict[str, np.ndarray], obs: str) -> str:
    """`clip((obs - mean) / sqrt(var + 1e-8), -10, 10)`, where the policy has a normaliser."""
    if "obs.mean" not in arrays:
        return obs
    mean = arrays["obs.mean"].astype(np.float32)
    scale = (1 / np.sqrt(arrays["obs.var"] + EPSILON)).astype(np.float32)
    standard = graph.add("Mul", graph.add("Sub", obs, mean), scale)
    return graph.add("Clip", standard, np.float32(-CLIP), np.float32(CLIP))


def _layers(graph: Graph, layers: dict[str, Any], x: str, activation: str, outputs: int | None = None) -> str:
    """Linear layers with an activation between them; of the last one the first `outputs` numbers alone."""
    for i in range(len(layers)):
        kernel, bias = (layers[f"Dense_{i}"][name].astype(np.float32) for name in ("kernel", "bias"))
        is_last = i == len(layers) - 1
        count = outputs if is_last else None
        x = graph.add("Gemm", x, kernel[:, :count], bias[:count])
        x = x if is_last else graph.add(activation, x)
    return x


def _action(graph: Graph, policy: Policy, obs: str) -> tuple[Any, tuple[int, ...]]:
    """Adds the network and what makes an action of its output; returns the action's type and shape."""
    notes, settings, params = policy.notes, policy.notes["settings"], policy.params["params"]
    dtype, shape = policy.action_dtype, tuple(notes["action_shape"])
    match notes["actor"]:
        case "CategoricalActor":
            logits = _layers(graph, params["mlp"], obs, "Tanh")
            best = graph.add("ArgMax", logits, axis=-1, keepdims=0)
            action = graph.add("Add", best, np.int64(settings["start"]))
        case "MultiCategoricalActor":
            sizes, starts = settings["sizes"], settings["starts"]
            logits = graph.add(
                "Reshape", _layers(graph, params["mlp"], obs, "Tanh"), np.array([0, len(sizes), max(sizes)])
            )
            has = np.arange(max(sizes)) < np.array(sizes)[:, None]
            best = graph.add("ArgMax", graph.add("Where", has, logits, np.float32(-np.inf)), axis=-1, keepdims=0)
            action = graph.add("Add", best, np.array(starts, np.int64))
        case "GaussianActor":
            action = _layers(graph, params["mlp"], obs, "Tanh")
            action = _squashed(graph, action, settings) if settings["squash"] else action
        case "SquashedGaussianActor":
            action = _squashed(graph, _layers(graph, params, obs, "Relu", len(settings["low"])), settings)
        case _:
            action = _squashed(graph, _layers(graph, params, obs, "Relu"), settings)
    action = graph.cast(graph.add("Reshape", action, np.array([0, *shape])), dtype)
    if "bounds.low" in policy.arrays:  # Clipped last: to round to another type can lead out of the bounds.
        low, high = (policy.arrays[f"bounds.{name}"].astype(dtype) for name in ("low", "high"))
        action = graph.add("Min", graph.add("Max", action, low), high)
    graph.add("Identity", action, output="action")
    return dtype, shape


def _squashed(graph: Graph, u: str, settings: dict[str, Any]) -> str:
    """`(low + high) / 2 + (high - low) / 2 * tanh(u)`."""
    low, high = (np.array(settings[name], np.float32) for name in ("low", "high"))
    return graph.add("Add", graph.add("Mul", graph.add("Tanh", u), (high - low) / 2), (low + high) / 2)

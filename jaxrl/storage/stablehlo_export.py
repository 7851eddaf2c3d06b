"""A saved policy as a StableHLO program by `jax.export`: the way for networks of a user's own. The normaliser and the
squashing are inside, and the batch axis is free."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.algos.networks import as_policy
from jaxrl.data.normalize import CLIP, EPSILON
from jaxrl.data.spaces import layout_from_json, width
from jaxrl.errors import BadInput
from jaxrl.storage.own_actor import module_of
from jaxrl.storage.policy import Policy

PLATFORMS = "cpu", "cuda", "tpu"


def to_stablehlo(policy: Policy) -> bytes:
    """The policy's most probable actions as a program, serialised, for a CPU, an NVIDIA card or a TPU.

    `jax.export.deserialize(data).call(obs)` runs it, for flattened observations `(N, S)` of float32. The actions are in
    JAX's types: int32 where the space says int64.

    Args:
      policy: what `load_policy` gives.

    Raises:
      BadInput: the package flatbuffers, which JAX writes the file by, is not installed.
    """
    from jax import export

    rows = export.symbolic_shape("N")[0]
    obs = jax.ShapeDtypeStruct((rows, width(layout_from_json(policy.notes["observation"]))), np.float32)
    exported = export.export(jax.jit(_acting(policy)), platforms=PLATFORMS)(obs)
    try:
        return bytes(exported.serialize())
    except ImportError as error:
        raise BadInput("--stablehlo needs flatbuffers: pip install 'jaxrl-kernels[stablehlo]'") from error


def _acting(policy: Policy) -> Any:
    """The function from flattened observations to the environment's actions, in JAX."""
    notes, arrays, module = policy.notes, policy.arrays, module_of(policy.actor, policy.notes)
    dtype = jax.dtypes.canonicalize_dtype(policy.action_dtype)
    bounds = [arrays[f"bounds.{name}"] for name in ("low", "high")] if "bounds.low" in arrays else None

    def act(obs: jax.Array) -> jax.Array:
        if "obs.mean" in arrays:
            mean, scale = arrays["obs.mean"], 1 / np.sqrt(arrays["obs.var"] + EPSILON)
            obs = jnp.clip((obs - jnp.float32(mean)) * jnp.float32(scale), -CLIP, CLIP)
        distribution = as_policy(module.apply(policy.params, obs))
        action = distribution.to_env(distribution.mode())
        action = action.reshape(obs.shape[0], *notes["action_shape"]).astype(dtype)
        return action if bounds is None else jnp.clip(action, *(bound.astype(dtype) for bound in bounds))

    return act

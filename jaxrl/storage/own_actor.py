"""Acting with a saved network of a user's own: it is checked against the parameters of the bundle, and runs in JAX
unless it has a NumPy twin."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.algos import networks
from jaxrl.algos.networks import host_policy
from jaxrl.algos.own_networks import check_module, networks_for
from jaxrl.data.space_records import space_from_json
from jaxrl.envs.registry import find_callable
from jaxrl.errors import BadInput
from jaxrl.ops.distributions import Deterministic


def own_policy(actor: nn.Module, params: Any, obs_dim: int) -> tuple[Callable[[np.ndarray], Any], bool]:
    """The function from observations `(N, S)` to the actor's distribution, in NumPy, and whether that is deterministic.

    Raises:
      BadInput: the parameters are not those of this network.
    """
    _check_fits(actor, params, obs_dim)
    policy = host_policy(actor, params)
    return policy, isinstance(policy(np.zeros((1, obs_dim), np.float32)), Deterministic)


def leaves_of(distribution: Any) -> list[Any]:
    """The arrays of a distribution."""
    return jax.tree.leaves(distribution)


def actor_of(named: str | Callable[..., Any], notes: dict[str, Any]) -> nn.Module | None:
    """The actor that a user's function makes for the recorded spaces; None if it is a built-in one."""
    if "observation_space" not in notes:
        raise BadInput("networks needs the spaces, which this older policy does not record: load it with actor=MODULE")
    make = find_callable(named, "networks") if isinstance(named, str) else named
    actor, _ = networks_for(make, *(space_from_json(notes[name]) for name in ("observation_space", "action_space")))
    if actor is None and "settings" not in notes:
        raise BadInput(f"networks gives None for the actor: it must give the {notes['actor']} that was trained")
    return actor


def module_of(actor: nn.Module | None, notes: dict[str, Any]) -> nn.Module:
    """The network of a bundle as a Flax module: the user's own, or the built-in one that the notes name."""
    if actor is not None:
        return actor
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in notes["settings"].items()}
    return getattr(networks, notes["actor"])(**settings | {"dtype": np.dtype(settings["dtype"])})


def _check_fits(actor: nn.Module, params: Any, obs_dim: int) -> None:
    """Raises BadInput unless the parameters of a bundle are those of this network."""
    check_module("actor", actor)
    obs = jax.ShapeDtypeStruct((1, obs_dim), jnp.float32)
    try:
        wanted = jax.eval_shape(actor.init, jax.eval_shape(jax.random.key, 0), obs)
    except Exception as error:  # Of the user's own code.
        raise BadInput(f"actor {type(actor).__name__} cannot take the bundle's observations: {error}") from error
    wanted, found = (
        {jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape for path, leaf in leaves}
        for leaves in (jax.tree_util.tree_leaves_with_path(tree) for tree in (wanted, params))
    )
    for name in sorted({*wanted, *found}):
        if wanted.get(name) != found.get(name):
            raise BadInput(
                f"actor {type(actor).__name__} has {name} of shape {wanted.get(name)}, and the bundle of shape "
                f"{found.get(name)}: it must be the network that was trained"
            )

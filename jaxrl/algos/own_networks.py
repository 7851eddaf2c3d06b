"""Networks of a user's own: any Flax module will do whose parameters are all that it keeps. Each check runs the module
on shapes alone, before anything is built, and says in one line what it gave and what is needed."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import InvalidRngError
from gymnasium import spaces

from jaxrl.algos.built_in import Networks, components
from jaxrl.algos.checks import bounds, described
from jaxrl.algos.networks import as_policy
from jaxrl.errors import BadInput
from jaxrl.ops.distributions import Categorical, Deterministic, DiagGaussian, MultiCategorical, TanhGaussian

METHODS = "log_prob", "entropy", "kl_divergence", "mode", "sample", "sample_jax", "to_env"
ROWS, ROLLOUT = (3,), (2, 3)  # Leading axes to try a network with.

Shape = tuple[int, ...]
Check = Callable[[Any, int, spaces.Space], None]


def checked_networks(
    own: tuple[Any, Any], built_in: Networks, checks: tuple[Check, Check], obs_dim: int, action_space: spaces.Space
) -> Networks:
    """The actor and the critic to use: of `own` each that is not None, once its check has passed, else the built-in."""
    for network, check in zip(own, checks, strict=True):
        if network is not None:
            check(network, obs_dim, action_space)
    actor, critic = (theirs if mine is None else mine for mine, theirs in zip(own, built_in, strict=True))
    return actor, critic


def networks_for(make: Any, observation_space: spaces.Space, action_space: spaces.Space) -> tuple[Any, Any]:
    """The actor and the critic that a user's function makes for these spaces; None stands for the built-in one."""
    if not callable(make):
        raise BadInput(f"networks is {described(make)}: it must be a function of both spaces, or its module:callable")
    try:
        made = make(observation_space, action_space)
    except Exception as error:  # Whatever the user's function does.
        raise BadInput(f"networks raised {type(error).__name__}: {' '.join(str(error).split())}") from error
    if not isinstance(made, tuple) or len(made) != 2:
        raise BadInput(f"networks gives {described(made)}: it must give a tuple (actor, critic)")
    return made


def check_policy(actor: Any, obs_dim: int, action_space: spaces.Space) -> None:
    """Raises BadInput unless `actor` gives a distribution over the actions of this space: PPO's.

    Args:
      actor: observations `(..., S)` to a distribution.
      obs_dim: S.
      action_space: whose actions PPO has as `(...)` where it is a Discrete, else as `(..., A)`.
    """
    size = () if isinstance(action_space, spaces.Discrete) else (math.prod(action_space.shape or ()),)

    def check(name: str, policy: Any, rows: Shape) -> None:
        _check_distribution(name, policy, rows)
        _check_shape(f"{name} gives actions", policy.mode(), (*rows, *size))
        _check_support(name, policy, action_space)

    for rows in (ROWS, ROLLOUT):
        _check_network("actor", actor, check, rows, obs_dim)


def check_sampler(actor: Any, obs_dim: int, action_space: spaces.Space) -> None:
    """Raises BadInput unless `actor` gives a distribution whose `to_env` keeps to the bounds of this Box: SAC's."""
    size = math.prod(action_space.shape or ())

    def check(name: str, policy: Any, rows: Shape) -> None:
        _check_distribution(name, policy, rows)
        if type(policy) is DiagGaussian:
            raise BadInput(
                f"{name} gives a DiagGaussian, which knows no bounds: it must give a TanhGaussian or the like"
            )
        _check_shape(f"{name} gives actions", policy.to_env(policy.sample_jax(jax.random.key(0))), (*rows, size))
        _check_support(name, policy, action_space)

    _check_network("actor", actor, check, ROWS, obs_dim)


def check_actions(actor: Any, obs_dim: int, action_space: spaces.Space) -> None:
    """Raises BadInput unless `actor` gives actions `(B, A)`, or a `Deterministic` of them: DDPG's and TD3's."""
    size = math.prod(action_space.shape or ())

    def check(name: str, output: Any, rows: Shape) -> None:
        policy = as_policy(output)
        if not isinstance(policy, Deterministic):
            raise BadInput(f"{name} gives a {type(output).__name__}: it must give actions, or a Deterministic of them")
        _check_shape(f"{name} gives actions", policy.action, (*rows, size))

    _check_network("actor", actor, check, ROWS, obs_dim)


def check_value(critic: Any, obs_dim: int, action_space: spaces.Space) -> None:
    """Raises BadInput unless `critic` gives a value for each observation, `(..., S)` to `(...)`."""
    for rows in (ROWS, ROLLOUT):
        _check_network("critic", critic, _check_values, rows, obs_dim)


def check_action_value(critic: Any, obs_dim: int, action_space: spaces.Space) -> None:
    """Raises BadInput unless `critic` gives a value for each observation and action: `(B, S)` and `(B, A)` to `(B,)`,
    one Q also where an algorithm has two of it."""
    _check_network("critic", critic, _check_values, ROWS, obs_dim, math.prod(action_space.shape or ()))


def check_twin_value(critic: Any, obs_dim: int, action_space: spaces.Space) -> None:
    """Raises BadInput unless `critic` is what `check_action_value` wants, and two of it run under `jax.vmap` over their
    parameters: TD3's and SAC's."""
    check_action_value(critic, obs_dim, action_space)
    name, dtype = f"critic {type(critic).__name__}", jnp.result_type(float)
    inputs = [jax.ShapeDtypeStruct((*ROWS, width), dtype) for width in (obs_dim, math.prod(action_space.shape or ()))]
    one = jax.eval_shape(critic.init, jax.eval_shape(jax.random.key, 0), *inputs)
    two = jax.tree.map(lambda x: jax.ShapeDtypeStruct((2, *x.shape), x.dtype), one)
    _shapes(f"two of {name} under jax.vmap", jax.vmap(critic.apply, in_axes=(0, None, None)), two, *inputs)


def check_module(name: str, module: Any) -> None:
    """Raises BadInput unless `module` is a Flax module that can be told from others."""
    if not isinstance(module, nn.Module):
        example = f", such as {module.__name__}()" if isinstance(module, type) and issubclass(module, nn.Module) else ""
        raise BadInput(f"{name} is {described(module)}: it must be a module of flax.linen{example}")
    try:
        hash(module)
        same = bool(module == module.clone())
    except Exception as error:  # A user's own __eq__ may raise anything.
        raise BadInput(
            f"{name} {type(module).__name__} cannot be hashed and compared: its fields must be numbers, texts, "
            "functions, or tuples of these, and no lists or arrays"
        ) from error
    if not same:
        raise BadInput(
            f"{name} {type(module).__name__} must be equal to a copy of itself, or JAX would compile all anew"
        )


def _check_network(kind: str, module: Any, check: Callable[[str, Any, Shape], None], rows: Shape, *widths: int) -> None:
    """Runs the module on inputs `(*rows, width)` of these widths, shapes only, and `check(name, output, rows)`."""
    check_module(kind, module)
    name, dtype = f"{kind} {type(module).__name__}", jnp.result_type(float)
    one, many = ([jax.ShapeDtypeStruct((*axes, width), dtype) for width in widths] for axes in ((1,), rows))
    variables = _shapes(name, module.init, jax.eval_shape(jax.random.key, 0), *one)
    if odd := sorted(set(variables) - {"params"}):
        raise BadInput(
            f"{name} keeps {', '.join(odd)} beside its params, which is not supported: it must keep params only, as "
            "nn.LayerNorm does where nn.BatchNorm does not"
        )
    if not jax.tree.leaves(variables):
        raise BadInput(f"{name} has no params: there must be something to learn")
    if odd := [x.dtype for x in jax.tree.leaves(variables) if not jnp.issubdtype(x.dtype, jnp.floating)]:
        raise BadInput(f"{name} keeps params of {odd[0]}, which have no gradient: they must be real numbers")
    if odd := [x.dtype for x in jax.tree.leaves(variables) if x.dtype in (jnp.bfloat16, jnp.float16)]:
        raise BadInput(
            f"{name} keeps params of {odd[0]}, where small steps are rounded away: they must be float32, Flax's "
            "param_dtype; what is computed of them may be of another type"
        )

    def run(variables: Any, *inputs: Any) -> None:
        check(name, module.apply(variables, *inputs), rows)

    _shapes(name, run, variables, *many)


def _shapes(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """`jax.eval_shape`, with one line for what the user's code raises in it."""
    try:
        return jax.eval_shape(function, *arguments)
    except BadInput:
        raise
    except InvalidRngError as error:
        raise BadInput(
            f"{name} draws random numbers after init, which is not supported: it must be deterministic, without dropout"
        ) from error
    except Exception as error:
        shapes = " and ".join(str(each.shape) for each in arguments if getattr(each, "ndim", 0))
        why = " ".join(str(error).split())
        raise BadInput(f"{name} cannot take inputs of shape {shapes}: {type(error).__name__}: {why[:300]}") from error


def _check_distribution(name: str, policy: Any, rows: Shape) -> None:
    """Raises BadInput unless `policy`, of traced arrays, does all that `Distribution` says."""
    kind = type(policy).__name__
    if missing := [method for method in METHODS if not callable(getattr(policy, method, None))]:
        raise BadInput(
            f"{name} gives a {kind} without {', '.join(missing)}: it must give a distribution, such as "
            "jaxrl.Categorical or jaxrl.DiagGaussian"
        )
    leaves = jax.tree.leaves(policy)
    if any(leaf is policy for leaf in leaves):
        raise BadInput(f"{name} gives a {kind}, which is no pytree: jax.tree_util.register_dataclass makes it one")
    for leaf in leaves:
        if jnp.shape(leaf)[: len(rows)] != rows:
            raise BadInput(
                f"{name} gives a {kind} with an array of shape {jnp.shape(leaf)} for observations {(*rows, 'S')}: "
                f"each must begin with {rows}; jnp.broadcast_to repeats it"
            )
    action = policy.sample_jax(jax.random.key(0))
    for what, number in {
        "log_prob": policy.log_prob(action),
        "entropy": policy.entropy(),
        "kl_divergence": policy.kl_divergence(policy),
    }.items():
        _check_shape(f"{name} gives a {kind} whose {what} is", number, rows)


def _check_values(name: str, value: Any, rows: Shape) -> None:
    _check_shape(f"{name} gives values", value, rows)
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise BadInput(f"{name} gives values of type {value.dtype}: they must be real numbers")


def _check_shape(words: str, array: Any, wanted: Shape) -> None:
    if not isinstance(array, jax.Array | np.ndarray) or array.shape != wanted:
        found = f"of shape {array.shape}" if hasattr(array, "shape") else f"as a {type(array).__name__}"
        raise BadInput(f"{words} {found} for observations {(*wanted[:1], 'S')}: it must be of shape {wanted}")


def _check_support(name: str, policy: Any, space: spaces.Space) -> None:
    """Raises BadInput if a distribution of ours has other actions than the space."""
    found: Any
    wanted: Any
    if isinstance(policy, Categorical):
        assert isinstance(space, spaces.Discrete)
        found, wanted = (policy.logits.shape[-1], policy.start), (int(space.n), int(space.start))
    elif isinstance(policy, MultiCategorical):
        sizes, starts = components(space)
        found, wanted = (policy.logits.shape[-1], *policy.starts), (max(sizes), *starts)
    elif isinstance(policy, TanhGaussian):
        found, wanted = (policy.low, policy.high), bounds(space)
    else:
        return
    if np.shape(found) != np.shape(wanted) or not np.allclose(found, wanted, rtol=1e-6):
        raise BadInput(
            f"{name} gives a {type(policy).__name__} of {_support(policy)}: it must have the actions of {space}"
        )


def _support(policy: Any) -> str:
    if isinstance(policy, TanhGaussian):
        return f"bounds {policy.low} to {policy.high}"
    starts = policy.start if isinstance(policy, Categorical) else policy.starts
    return f"{policy.logits.shape[-1]} values from {starts}"

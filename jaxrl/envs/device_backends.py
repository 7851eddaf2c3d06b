"""Where environments on the device come from: tasks by name, and the check of an object of one's own."""

import functools
import importlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from gymnasium import spaces

from jaxrl.data.spaces import layout
from jaxrl.envs.device_spaces import flatten_observations
from jaxrl.envs.registry import nearest_names
from jaxrl.envs.tasks.acrobot import Acrobot
from jaxrl.envs.tasks.cartpole import CartPole
from jaxrl.envs.tasks.mountain_car import MountainCar, MountainCarContinuous
from jaxrl.envs.tasks.pendulum import Pendulum
from jaxrl.errors import BadInput, one_line

BUILT_IN: dict[str, Callable[[], Any]] = {
    "Acrobot-v1": Acrobot,
    "CartPole-v1": CartPole,
    "MountainCar-v0": MountainCar,
    "MountainCarContinuous-v0": MountainCarContinuous,
    "Pendulum-v1": Pendulum,
}
# Each backend with the module that has its tasks.
DEVICE_BACKENDS = {
    "jax": None,
    "gymnax": "jaxrl.envs.gymnax_tasks",
    "playground": "jaxrl.envs.playground_tasks",
    "envelope": "jaxrl.envs.envelope_tasks",
}
PARTS = "reset", "step", "observation_space", "action_space", "time_limit"


def find_task(name: str, backend: str) -> Any:
    """The environment of that name.

    Raises:
      BadInput: the backend is none, is not installed, or has no task of that name (with the nearest names).
    """
    if backend not in DEVICE_BACKENDS:
        raise BadInput(f"backend {backend!r} is not on the device: it must be one of {', '.join(DEVICE_BACKENDS)}")
    module = DEVICE_BACKENDS[backend]
    if module is not None:
        return importlib.import_module(module).find_task(name)
    if name not in BUILT_IN:
        raise BadInput(no_task(name, backend, BUILT_IN))
    return BUILT_IN[name]()


def no_task(name: str, backend: str, known: Iterable[str]) -> str:
    """The complaint where a backend has no task of that name."""
    hint = nearest_names(name, {each.lower(): each for each in known}) or f"it has {', '.join(sorted(known))}"
    return f"backend {backend} has no environment {name}: {hint}"


def missing_extra(backend: str, error: ImportError) -> BadInput:
    """The complaint where the package of a backend cannot be imported."""
    return BadInput(
        f"backend {backend} needs the extra {backend}, pip install 'jaxrl-kernels[{backend}]': {one_line(error)}"
    )


def check_env(env: Any) -> None:
    """Raises BadInput, in one line, unless `env` is an environment for the device: its parts are there, its spaces can
    be learned with, and what its step gives has the structure, shapes and types of what its reset gives."""
    name = type(env).__name__
    if missing := [part for part in PARTS if not hasattr(env, part)]:
        raise BadInput(f"environment {name} has no {missing[0]}: it must have {', '.join(PARTS)}")
    try:
        hash(env)
    except TypeError as error:
        raise BadInput(f"environment {name} cannot be hashed: it must be, as a frozen dataclass is") from error
    _check_shapes(env)


@functools.lru_cache(maxsize=64)
def _check_shapes(env: Any) -> None:
    """The rest of `check_env`, once for each environment: to trace its functions may take seconds."""
    name, limit = type(env).__name__, env.time_limit
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise BadInput(f"environment {name} has the time_limit {limit!r}: it must be a whole number of steps, or None")
    many = getattr(env, "num_first_states", 0)
    if isinstance(many, bool) or not isinstance(many, int) or many < 0:
        raise BadInput(f"environment {name} has num_first_states {many!r}: it must be a whole number, and at least 0")
    if not isinstance(env.observation_space, spaces.Space):
        kind = type(env.observation_space).__name__
        raise BadInput(f"environment {name} has a {kind} as observation_space: it must be a space of Gymnasium's")
    layout(env.observation_space)
    action = _some_action(env.action_space)
    key = jax.eval_shape(jax.random.key, 0)
    first = _shapes(name, "reset", 2, env.reset, key)
    after = _shapes(name, "step", 4, env.step, first[0], action, key)
    for what, given, stepped in zip(("state", "observation"), first, after[:2], strict=True):
        if difference := _difference(given, stepped):
            raise BadInput(
                f"environment {name}: the {what} that step gives must be like that of reset, but {difference}"
            )
    for what, value in zip(("reward", "terminated"), after[2:], strict=True):
        if value.shape != ():
            raise BadInput(f"environment {name} gives a {what} of shape {value.shape}: it must be one number, ()")
    if after[3].dtype != bool:
        raise BadInput(f"environment {name} gives terminated of type {after[3].dtype}: it must be bool")
    _check_observation(name, env.observation_space, first[1])


def _some_action(space: spaces.Space) -> Any:
    if not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        kind = type(space).__name__
        raise BadInput(f"action space {kind} is not supported: it must be a Box or hold whole numbers")
    return jax.ShapeDtypeStruct(space.shape or (), jax.dtypes.canonicalize_dtype(space.dtype))


def _shapes(name: str, what: str, count: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """The shapes of what `function` gives, a tuple of `count` parts."""
    try:
        given = jax.eval_shape(lambda *each: jax.tree.map(jnp.asarray, function(*each)), *arguments)
    except Exception as error:  # Of the user's own code.
        raise BadInput(f"environment {name}: {what} cannot be traced by JAX: {one_line(error)}") from error
    if not isinstance(given, tuple) or len(given) != count:
        found = f"{len(given)} parts" if isinstance(given, tuple) else f"a {type(given).__name__}"
        wanted = "(state, obs)" if count == 2 else "(state, obs, reward, terminated)"
        raise BadInput(f"environment {name}: {what} gives {found}: it must give {wanted}")
    return given


def _difference(first: Any, after: Any) -> str:
    """In which way two trees of shapes differ; nothing where they do not."""
    structures: list[Any] = [jax.tree.structure(tree) for tree in (first, after)]
    first, after = (
        {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
        for leaves in (jax.tree_util.tree_leaves_with_path(tree) for tree in (first, after))
    )
    for path in [*first, *after]:
        where = f" at {path}" if path else ""
        if path not in first or path not in after:
            return f"{'reset' if path in after else 'step'} gives nothing{where}"
        for trait in ("shape", "dtype"):
            before, now = getattr(first[path], trait), getattr(after[path], trait)
            if before != now:
                return f"reset gives the {'type' if trait == 'dtype' else trait} {before}{where}, and step {now}"
    return "" if structures[0] == structures[1] else "one is another kind of tree, as a list and a tuple are"


def _check_observation(name: str, space: spaces.Space, obs: Any) -> None:
    many = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), obs)
    wanted = sum(jax.tree.leaves(spaces.utils.flatdim(space)))
    try:
        flat = jax.eval_shape(lambda x: flatten_observations(space, x, 1), many)
    except Exception as error:
        raise BadInput(f"environment {name} gives observations that are not in its space: {one_line(error)}") from error
    if flat.shape != (1, wanted):
        raise BadInput(f"environment {name} gives observations of {flat.shape[1]} numbers, and its space has {wanted}")

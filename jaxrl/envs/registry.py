"""Names that users give: ids of environments, and `module:name` of wrappers and other callables. No JAX here."""

import difflib
import importlib
import re
from collections.abc import Callable
from typing import Any

import gymnasium as gym

from jaxrl.errors import BadInput, EnvironmentLost, one_line

# Registered still, but not to be built any more, and so no use as a hint.
REMOVED_IDS = re.compile(r"(Ant|HalfCheetah|Hopper|Humanoid\w*|Inverted\w+|Pusher|Reacher|Swimmer|Walker2d)-v[1-3]")


def find_spec(env_id: str) -> gym.envs.registration.EnvSpec:
    """The registration of an id, or BadInput with the nearest names."""
    module, _, name = env_id.rpartition(":")
    if module:
        _import(module, f"environment {env_id}")
    try:
        return gym.spec(name)
    except gym.error.Error as error:
        lowered = {name.lower(): name for name in gym.registry if not REMOVED_IDS.fullmatch(name)}
        unnamed = "" if module else f"an id that a package of yours registers is named with its module, module:{name}"
        known = not isinstance(error, gym.error.NamespaceNotFound)
        hint = (known and nearest_names(name, lowered)) or unnamed or "gymnasium.pprint_registry() lists the known ones"
        raise BadInput(f"there is no environment {env_id}: {hint}") from error


def find_callable(name: str, what: str) -> Callable[..., Any]:
    """The object of `module:name`, `module:Class.method` included; `what` says in complaints what it is to be."""
    module, _, path = name.partition(":")
    if not module or not path:
        raise BadInput(f"{what} {name!r} names nothing: it must be module:callable")
    found = _import(module, f"{what} {name}")
    for part in path.split("."):
        if not hasattr(found, part):
            hint = nearest_names(part, {each.lower(): each for each in dir(found)})
            raise BadInput(f"{what} {name} cannot be imported: {module} has no {path}{hint and '; ' + hint}")
        found = getattr(found, part)
    if not callable(found):
        raise BadInput(f"{what} {name} is no callable but a {type(found).__name__}: it must be one")
    return found


def is_native(env: Any) -> bool:
    """Returns whether an id's registration names a vector environment of its own that is used here. It must say how it
    resets, and compute in NumPy."""
    if not isinstance(env, str):
        return False
    spec = find_spec(env)
    return spec.vector_entry_point is not None and not env.startswith(("phys2d/", "tabular/"))


def nearest_names(name: str, known: dict[str, str]) -> str:
    """Returns "did you mean ...?" with those of the known names that are like `name`, or nothing where none is.

    Args:
      name: that nobody knows.
      known: the names, by themselves in lower case.
    """
    near = [known[each] for each in difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)]
    return f"did you mean {' or '.join(near)}?" if near else ""


def _import(module: str, whose: str) -> Any:
    try:
        return importlib.import_module(module)
    except SystemExit as error:  # With code 0 it would look as if all had gone well.
        raise EnvironmentLost(f"{whose}: the module {module} called sys.exit while it was imported") from error
    except Exception as error:  # Whatever the user's module does while it is imported.
        raise BadInput(f"{whose} cannot be imported: {one_line(error)}") from error

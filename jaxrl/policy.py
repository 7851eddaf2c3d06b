"""A trained policy on its own: a folder that holds all it takes to act, and nothing of how it was learned."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from jaxrl.checkpoint import load_arrays, save_tree, write_atomically
from jaxrl.errors import BadInput
from jaxrl.flatten import Layout, describe, flatten, layout
from jaxrl.networks import (
    CategoricalActor,
    DeterministicActor,
    GaussianActor,
    MultiCategoricalActor,
    apply_function,
    host_policy,
)
from jaxrl.normalize import Moments, Normalizer, observer

FORMAT = 2
ACTORS = {
    module.__name__: module for module in (CategoricalActor, MultiCategoricalActor, GaussianActor, DeterministicActor)
}


class Policy:
    """Actions for raw observations.

    Attributes:
      env: the environment's id, or what a user's own was called.
      wrapper: names of the wrappers that were around it, the innermost first.
      deterministic: whether there is nothing to sample.
      notes: what else the bundle records: versions, and the evaluation it had.
    """

    def __init__(
        self, apply: Callable[..., Any], params: Any, normalizer: Normalizer, notes: dict[str, Any], action_space: Any
    ) -> None:
        self.env: str = notes["env"]
        self.wrapper: tuple[str, ...] = tuple(notes.get("wrapper", ()))
        self.notes = notes
        self.deterministic: bool = notes["actor"] == DeterministicActor.__name__
        self._see = observer(normalizer)
        self._policy = host_policy(apply, params)
        self._bounds = (action_space.low, action_space.high) if isinstance(action_space, spaces.Box) else None
        self._layout = _layout_from_json(notes["observation"])
        self._action_shape = tuple(notes["action_shape"])

    def check_spaces(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        """Raises BadInput unless an environment with these spaces is one that this policy can act in."""
        found, wanted = layout(observation_space), self._layout
        takes, gives = _action_kind(action_space), self.notes["action"]
        if describe(wanted) != describe(found) or takes != gives:  # The order of a Dict's parts counts too.
            raise BadInput(
                f"the policy takes observations {describe(wanted)} and gives {gives} actions; the environment has "
                f"{describe(found)} and takes {takes}"
            )

    def __call__(self, obs: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """The most probable actions, or with `rng` sampled ones.

        Args:
          obs: raw observations as the environment gives them, `(N, ...)`, of a Dict each part so; or already flattened.
          rng: NumPy generator to sample with; a deterministic policy takes none.

        Returns:
          Actions within the environment's bounds, `(N, ...)`, each of the action space's shape.
        """
        if rng is not None and self.deterministic:
            raise BadInput("the policy is deterministic: there is nothing to sample with rng, leave it off")
        if isinstance(obs, Mapping):
            rows = flatten(self._layout, obs, len(next(iter(obs.values()))))
        else:
            rows = np.array(obs, np.float32).reshape(len(obs), -1)
        distribution = self._policy(self._see(rows))
        action = distribution.to_env(distribution.mode() if rng is None else distribution.sample(rng))
        action = np.reshape(action, (len(rows), *self._action_shape))
        return action if self._bounds is None else np.clip(action, *self._bounds)


def save_policy(
    folder: Path,
    actor: Any,
    normalizer: Normalizer,
    env: str,
    observation_space: spaces.Space,
    action_space: spaces.Space,
    notes: dict[str, Any],
) -> None:
    """Writes a policy bundle: `policy.json`, to be read, and `policy.npz`, the arrays.

    Args:
      folder: made where missing; what it holds is replaced.
      actor: TrainState of the actor.
      normalizer: statistics that the policy's observations are standardised with.
      env: the environment's id.
      observation_space, action_space: those of one environment.
      notes: anything else to record, JSON-able.
    """
    module = actor.apply_fn.__self__
    settings = {name: getattr(module, name) for name in module.__dataclass_fields__ if name not in ("parent", "name")}
    settings["dtype"] = np.dtype(settings["dtype"]).name
    about = {
        "format": FORMAT,
        "env": env,
        "actor": type(module).__name__,
        "settings": settings,
        "observation": layout(observation_space),
        "action": _action_kind(action_space),
        "action_shape": action_space.shape or (),
        **notes,
    }
    arrays: dict[str, Any] = {"params": actor.params}
    if normalizer.obs is not None:
        arrays["obs"] = normalizer.obs._asdict()
    if isinstance(action_space, spaces.Box):
        arrays["bounds"] = {"low": action_space.low, "high": action_space.high}
    folder.mkdir(parents=True, exist_ok=True)
    save_tree(folder / "policy.npz", arrays, about)
    write_atomically(folder / "policy.json", lambda file: file.write(json.dumps(about, indent=2).encode() + b"\n"))


def load_policy(path: str | Path) -> Policy:
    """Reads a policy that a run left behind; it needs neither the run nor the environment.

    Args:
      path: a run's folder (its best policy, or the latest if no evaluation chose one), or a bundle's.

    Returns:
      A callable: raw observations in, environment actions out.

    Raises:
      BadInput: there is no policy, or it is damaged or of an unknown kind.
    """
    path = Path(path)
    candidates = [path, path / "policy" / "best", path / "policy" / "latest"]
    folder = next((folder for folder in candidates if (folder / "policy.npz").is_file()), None)
    if folder is None:
        raise BadInput(f"there is no policy in {path}: give a run's folder, or a policy's with a policy.npz in it")
    arrays, notes = load_arrays(folder / "policy.npz")
    if notes.get("format") != FORMAT or notes.get("actor") not in ACTORS:
        raise BadInput(f"{folder} holds a policy of an unknown kind: this version of jaxrl reads format {FORMAT}")
    try:
        settings = dict(notes["settings"], dtype=np.dtype(notes["settings"]["dtype"]))
        settings = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
        _, apply = apply_function(ACTORS[notes["actor"]], *settings.values())
        obs = Moments(arrays["obs.seen"], arrays["obs.mean"], arrays["obs.var"]) if "obs.mean" in arrays else None
        action_space = spaces.Box(arrays["bounds.low"], arrays["bounds.high"]) if "bounds.low" in arrays else None
        params = _nested({name: array for name, array in arrays.items() if name.startswith("params.")})["params"]
        return Policy(apply, params, Normalizer(obs, None, np.zeros(0)), notes, action_space)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{folder} holds a policy whose description is incomplete: {error}") from error


def _layout_from_json(record: Any) -> Layout:
    if isinstance(record, dict):
        return {key: _layout_from_json(part) for key, part in record.items()}
    return tuple(record)


def _action_kind(space: spaces.Space) -> str:
    if isinstance(space, spaces.Discrete):
        return f"Discrete {space.n} from {space.start}"
    if isinstance(space, spaces.MultiDiscrete):
        return f"MultiDiscrete {space.nvec.tolist()} from {space.start.tolist()}"
    return f"{type(space).__name__} {list(space.shape or ())}"


def _nested(flat: dict[str, np.ndarray]) -> dict[str, Any]:
    """`{"a.b": x}` to `{"a": {"b": x}}`."""
    tree: dict[str, Any] = {}
    for name, array in flat.items():
        *path, last = name.split(".")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[last] = array
    return tree

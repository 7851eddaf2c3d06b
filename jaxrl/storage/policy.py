"""A trained policy on its own: a folder that holds all it takes to act, and nothing of how it was learned."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from gymnasium import spaces

from jaxrl.algos.networks import (
    CategoricalActor,
    DeterministicActor,
    GaussianActor,
    MultiCategoricalActor,
    apply_function,
    host_policy,
)
from jaxrl.data.normalize import Moments, Normalizer, observer
from jaxrl.data.spaces import describe, layout, layout_from_json, layout_to_json
from jaxrl.data.user_observations import read_observations
from jaxrl.errors import BadInput
from jaxrl.storage.files import load_arrays, save_tree, write_atomically

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

    def __init__(self, arrays: dict[str, np.ndarray], notes: dict[str, Any]) -> None:
        """Puts a policy together from the arrays and the notes of a bundle, which `load_policy` reads."""
        self._arrays = arrays
        self.env: str = notes["env"]
        self.wrapper: tuple[str, ...] = tuple(notes.get("wrapper", ()))
        self.notes = notes
        self.deterministic: bool = notes["actor"] == DeterministicActor.__name__
        settings = dict(notes["settings"], dtype=np.dtype(notes["settings"]["dtype"]))
        settings = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
        _, apply = apply_function(ACTORS[notes["actor"]], *settings.values())
        params = _nested({name: array for name, array in arrays.items() if name.startswith("params.")})["params"]
        self._policy = host_policy(apply, params)
        obs = Moments(arrays["obs.seen"], arrays["obs.mean"], arrays["obs.var"]) if "obs.mean" in arrays else None
        self._see = observer(Normalizer(obs, None, np.zeros(0)))
        self._layout = layout_from_json(notes["observation"])
        self._bounds = (arrays["bounds.low"], arrays["bounds.high"]) if "bounds.low" in arrays else None
        self._action_shape = tuple(notes["action_shape"])
        # Older bundles do not say the type.
        self._action_dtype = np.dtype(notes.get("action_dtype", self._bounds[0].dtype if self._bounds else np.int64))

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, also one in another process, is put together from the same arrays and notes."""
        return type(self), (self._arrays, self.notes)

    def check_spaces(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        """Raises BadInput unless an environment with these spaces is one that this policy can act in."""
        found, wanted = layout(observation_space), self._layout
        takes, gives = _action_kind(action_space), self.notes["action"]
        if describe(wanted) != describe(found) or takes != gives:  # The order of a Dict's parts counts too.
            raise BadInput(
                f"the policy takes observations {describe(wanted)} and gives {gives} actions; the environment has "
                f"{describe(found)} and takes {takes}"
            )

    def __call__(self, obs: Any, rng: np.random.Generator | None = None) -> np.ndarray:
        """The most probable actions, or with `rng` sampled ones.

        Args:
          obs: raw observations as the environment gives them: one, or a batch with a leading axis, of a Dict or Tuple
            each part so; or flattened ones. `jaxrl.data.user_observations` says how its shape is read where two ways
            are possible. No observations give no actions.
          rng: NumPy generator to sample with; a deterministic policy takes none.

        Returns:
          For one observation an action of the action space's shape, else a batch of these, `(N, ...)`: of the action
          space's type and in that space.

        Raises:
          BadInput: the observations have another shape or structure, or are not finite or not in their space; `rng` is
            no NumPy generator, or the policy is deterministic.
        """
        rows, is_one = read_observations(self._layout, obs)
        actions = self.act(rows, rng)
        if not is_one:
            return actions
        # A Box has arrays, also of no dimensions. A Discrete has numbers, which an environment may look up in a dict.
        return actions[0] if self._bounds is None else actions[0, ...]

    def act(self, rows: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """As a call, for a batch of flattened observations only, `(N, S)` float32, as `jaxrl.make_envs` gives them."""
        if rng is not None and self.deterministic:
            raise BadInput("the policy is deterministic: there is nothing to sample with rng, leave it off")
        if not isinstance(rng, np.random.Generator | None):
            raise BadInput(f"rng is of type {type(rng).__name__}: it must be what numpy.random.default_rng makes")
        with np.errstate(all="ignore"):  # What overflows is looked for.
            distribution = self._policy(self._see(rows))
            if any(np.isnan(leaf).any() for leaf in jax.tree.leaves(distribution)):
                raise BadInput("obs holds numbers that are too large: the networks overflow, and there is no action")
            action = distribution.to_env(distribution.mode() if rng is None else distribution.sample(rng))
            # Clipped last: to round to another type can lead out of the bounds.
            action = np.reshape(action, (len(rows), *self._action_shape)).astype(self._action_dtype, copy=False)
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
        "observation": layout_to_json(layout(observation_space)),
        "action": _action_kind(action_space),
        "action_shape": action_space.shape or (),
        "action_dtype": np.dtype(action_space.dtype).name,
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
    # Caches of model hubs keep links; what they lead to is data only, and its digest is checked.
    arrays, notes = load_arrays((folder / "policy.npz").resolve())
    if notes.get("format") != FORMAT or notes.get("actor") not in ACTORS:
        raise BadInput(f"{folder} holds a policy of an unknown kind: this version of jaxrl reads format {FORMAT}")
    try:
        return Policy(arrays, notes)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{folder} holds a policy whose description is incomplete: {error}") from error


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

"""A trained policy on its own: a folder that holds all it takes to act, and nothing of how it was learned. With a
built-in network it is loaded and acts in NumPy alone; JAX and Gymnasium are imported where they are needed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxrl.algos.host import ACTORS, host_actor
from jaxrl.data.normalize import Moments, Normalizer, observer
from jaxrl.data.spaces import describe, layout, layout_from_json, layout_to_json, width
from jaxrl.data.user_observations import read_observations
from jaxrl.errors import BadInput
from jaxrl.storage.files import load_arrays, save_tree, write_atomically

if TYPE_CHECKING:
    import flax.linen as nn
    from gymnasium import spaces

FORMAT = 2


class Policy:
    """Actions for raw observations.

    Attributes:
      env: the environment's id, or what a user's own was called.
      wrapper: names of the wrappers that were around it, the innermost first.
      deterministic: whether there is nothing to sample.
      notes: what the bundle records: how to act, versions, and the evaluation it had.
      arrays: parameters, statistics and bounds, by name.
      params: the parameters, nested as Flax has them.
      actor: the network where it is a user's own, else None.
      action_dtype: NumPy's type of the actions.
    """

    def __init__(self, arrays: dict[str, np.ndarray], notes: dict[str, Any], actor: "nn.Module | None" = None) -> None:
        """Puts a policy together from the arrays and the notes of a bundle, which `load_policy` reads, and the network
        where it is a user's own."""
        self.arrays, self.actor = arrays, actor
        self.env: str = notes["env"]
        self.wrapper: tuple[str, ...] = tuple(notes.get("wrapper", ()))
        self.notes = notes
        self._layout = layout_from_json(notes["observation"])
        self.params = _nested({name: array for name, array in arrays.items() if name.startswith("params.")})["params"]
        self._policy: Callable[[np.ndarray], Any]
        self.deterministic: bool = notes["actor"] == "DeterministicActor"
        # The distribution of a built-in network is a tuple already, of arrays and settings.
        self._leaves: Callable[[Any], Any] = tuple
        if actor is None:
            self._policy = host_actor(notes["actor"], notes["settings"], self.params["params"])
        else:
            from jaxrl.storage.own_actor import leaves_of, own_policy

            self._policy, self.deterministic = own_policy(actor, self.params, width(self._layout))
            self._leaves = leaves_of
        obs = Moments(arrays["obs.seen"], arrays["obs.mean"], arrays["obs.var"]) if "obs.mean" in arrays else None
        self._normalizer = Normalizer(obs, None, np.zeros(0))
        self._see = observer(self._normalizer)
        self._bounds = (arrays["bounds.low"], arrays["bounds.high"]) if "bounds.low" in arrays else None
        self._action_shape = tuple(notes["action_shape"])
        # Older bundles do not say the type.
        self.action_dtype = np.dtype(notes.get("action_dtype", self._bounds[0].dtype if self._bounds else np.int64))

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, also one in another process, is put together from the same arrays and notes."""
        return type(self), (self.arrays, self.notes, self.actor)

    @property
    def parts(self) -> tuple[Callable[..., Any], Any, Normalizer]:
        """The parts that act, for a program of one's own: `apply(params, obs)`, the parameters, and the statistics that
        raw observations are standardised with before."""
        from jaxrl.storage.own_actor import module_of

        return module_of(self.actor, self.notes).apply, self.params, self._normalizer

    def check_spaces(self, observation_space: "spaces.Space", action_space: "spaces.Space") -> None:
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
            if any(np.isnan(leaf).any() for leaf in self._leaves(distribution)):
                raise BadInput("obs holds numbers that are too large: the networks overflow, and there is no action")
            action = distribution.to_env(distribution.mode() if rng is None else distribution.sample(rng))
            # Clipped last: to round to another type can lead out of the bounds.
            action = np.reshape(action, (len(rows), *self._action_shape)).astype(self.action_dtype, copy=False)
            return action if self._bounds is None else np.clip(action, *self._bounds)


def save_policy(
    folder: Path,
    actor: Any,
    normalizer: Normalizer,
    env: str,
    observation_space: "spaces.Space",
    action_space: "spaces.Space",
    notes: dict[str, Any],
    networks: str | None = None,
) -> None:
    """Writes a policy bundle: `policy.json`, to be read, and `policy.npz`, the arrays.

    Args:
      folder: made where missing; what it holds is replaced.
      actor: the actor's learner.
      normalizer: statistics that the policy's observations are standardised with.
      env: the environment's id.
      observation_space, action_space: those of one environment.
      notes: anything else to record, JSON-able.
      networks: how the actor was named, `module:callable`, where it is a user's own; it is not imported here.
    """
    from gymnasium import spaces

    from jaxrl.data.space_records import space_to_json

    about = {
        "format": FORMAT,
        "env": env,
        **_named(actor),
        "networks": networks,
        "observation": layout_to_json(layout(observation_space)),
        "observation_space": space_to_json(observation_space),
        "action_space": space_to_json(action_space),
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


def load_policy(
    path: str | Path, *, actor: "nn.Module | None" = None, networks: str | Callable[..., Any] | None = None
) -> Policy:
    """Reads a policy that a run left behind; it needs neither the run nor the environment.

    A network of your own is not in the bundle, nor is its code imported unasked: name it again, by one of two.

    Args:
      path: a run's folder (its best policy, or the latest if no evaluation chose one), or a bundle's.
      actor: the Flax module that the actor was made from.
      networks: a function from the observation and the action space to `(actor, critic)`, or its name,
        `module:callable`, which is imported.

    Returns:
      A callable: raw observations in, environment actions out.

    Raises:
      BadInput: there is no policy, or it is damaged or of an unknown kind; or its network is your own and not given, or
        the one that is given has other parameters.
    """
    if actor is not None and networks is not None:
        raise BadInput("actor and networks are both given: one of them names the network, leave the other off")
    path = Path(path)
    candidates = [path, path / "policy" / "best", path / "policy" / "latest"]
    folder = next((folder for folder in candidates if (folder / "policy.npz").is_file()), None)
    if folder is None:
        raise BadInput(f"there is no policy in {path}: give a run's folder, or a policy's with a policy.npz in it")
    # Caches of model hubs keep links; what they lead to is data only, and its digest is checked.
    arrays, notes = load_arrays((folder / "policy.npz").resolve())
    own = ":" in str(notes.get("actor"))
    if notes.get("format") != FORMAT or not (own or notes.get("actor") in ACTORS):
        raise BadInput(f"{folder} holds a policy of an unknown kind: this version of jaxrl reads format {FORMAT}")
    if own and actor is None and networks is None:
        how = "actor=MODULE" if notes.get("networks") is None else f"networks={notes['networks']!r}"
        raise BadInput(f"{folder} holds a policy with a network of your own, {notes['actor']}: load it with {how}")
    try:
        if networks is not None:
            from jaxrl.storage.own_actor import actor_of

            actor = actor_of(networks, notes)
        return Policy(arrays, notes, actor)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{folder} holds a policy whose description is incomplete: {error}") from error


def _named(actor: Any) -> dict[str, Any]:
    """How a bundle names an actor: a built-in one by its class and its settings, a user's own by its class alone, and
    one of a plain TrainState by its function."""
    module: Any = getattr(actor, "module", None)
    if type(module).__name__ not in ACTORS or type(module).__module__ != "jaxrl.algos.networks":
        made_by: Any = actor.apply_fn if module is None else type(module)
        return {"actor": f"{getattr(made_by, '__module__', '')}:{getattr(made_by, '__qualname__', repr(made_by))}"}
    fields = type(module).__dataclass_fields__
    settings = {name: getattr(module, name) for name in fields if name not in ("parent", "name")}
    return {"actor": type(module).__name__, "settings": settings | {"dtype": np.dtype(settings["dtype"]).name}}


def _action_kind(space: "spaces.Space") -> str:
    from gymnasium import spaces

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

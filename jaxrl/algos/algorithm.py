"""An algorithm as the house knows it: a row of functions and names. Nothing else asks which algorithm it is.

A row of your own takes three functions and what they work on. `state` is any pytree with an `actor` (a Flax
TrainState), `num_updates` (an integer scalar) and `config`. Environments, evaluation, checkpoints, sweeps, studies and
figures come with it.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from jaxrl.algos.exploration import sample
from jaxrl.errors import BadInput

Bounds = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class OnPolicySettings:
    """Settings of the loop that collects a rollout, updates once and repeats."""

    RANGES: ClassVar[Mapping[str, Bounds]] = {"num_steps": (1, 2**20), "anneal_steps": (1, 10**12)}

    num_steps: int = 256
    """Steps of each environment per rollout, and so per update."""
    anneal_steps: int | None = None
    """Steps over which annealing goes to 0; none for total_steps."""
    normalize_obs: bool = False
    """Standardise observations with their running mean and variance."""
    normalize_reward: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""


@dataclasses.dataclass(frozen=True)
class ReplaySettings:
    """Settings of the loop that stores every step in a replay buffer and updates from it at every step."""

    RANGES: ClassVar[Mapping[str, Bounds]] = {
        "buffer_size": (1, 10**18),
        "learning_starts": (1, 10**12),
        "batch_size": (1, 2**24),
        "updates_per_step": (1, 10**6),
    }

    buffer_size: int = 1_000_000
    """Transitions that the replay buffer keeps."""
    learning_starts: int = 25_000
    """Steps that are uniformly random, before the first update."""
    batch_size: int = 256
    """Transitions in the batch of an update."""
    updates_per_step: int = 1
    """Updates for each joint step of the environments: with N of them, for N steps."""
    noise_correlation: float = 0.0
    """Correlation of the exploration's noise with that of the step before, at least 0 and below 1. At 0 the noise is
    drawn anew at every step; at 0.9 it pushes the same way for some ten steps. It does not change how large the noise
    is."""


@dataclasses.dataclass(frozen=True)
class OffPolicySettings(ReplaySettings):
    """The same for a deterministic policy, which explores by noise on its actions."""

    RANGES: ClassVar[Mapping[str, Bounds]] = {**ReplaySettings.RANGES, "exploration_noise": (0, 10**6)}

    exploration_noise: float = dataclasses.field(default=0.1, metadata={"sweepable": True})
    """Standard deviation of the Gaussian noise on actions, times (high - low) / 2 of each dimension."""


def no_presets(env: str) -> Mapping[str, Any]:
    """No task has settings of its own."""
    return {}


def accept(run: Any) -> None:
    """Every run can work."""


def no_horizon(config: Any, updates: float) -> Any:
    """Nothing anneals."""
    return config


def suits_any(config: Any) -> bool:
    """Every config of its class is this row's."""
    return True


class Algorithm(NamedTuple):
    """A row of the table of algorithms.

    Attributes:
      name: on the command line and in a run's files, such as `ppo`.
      config: the class of its numbers: a dataclass, or a Flax PyTreeNode, in which every field has a default.
      settings: the class of its loop's settings: OnPolicySettings, ReplaySettings, OffPolicySettings, or one derived
        from these; of a loop of your own any dataclass.
      init: `(key, config, observation_space, action_space) -> state`.
      act: `(state, obs) -> output`, obs `(N, S)`: what `state.actor.apply_fn(state.actor.params, obs)` gives, a
        distribution over actions, or for a deterministic policy a `Deterministic`.
      update: `(state, rollout or batch) -> (state, metrics)`, pure; metrics are scalars by name.
      metrics: the names of these metrics, which become the columns of metrics.csv.
      averaged_over: `{"actor_loss": "actor_steps"}` where a metric belongs to some updates only: its mean is taken over
        those that the other counts, and it is 0 elsewhere.
      loop: "on_policy", "off_policy", or a function of your own, as `jaxrl.training.scheduler` describes it.
      presets: `(env id) -> settings by name` of the tasks that have their own.
      defaults: settings by name that this row has where others have another default.
      check: `(run) -> None`; raises BadInput, in one line, where the run cannot work whatever the environment.
      explore: `(output, source, settings, bounds) -> (action, env_action)`: the action that is recorded, and the one
        that the environment gets. `source` is a NumPy Generator, or on the device a JAX key. With a
        `noise_correlation`, it is a `Noise`; a function of your own is not asked for that. `bounds` are the lowest and
        the highest actions of a Box, `(A,)` each, and None for another space.
      horizon: `(config, updates) -> config` that anneals over so many updates; the same object where nothing anneals.
      update_actor, update_critic: two halves of `update`, or None where it has none. The first gives the state with its
        new actor, and what the second needs; `update_critic(state.critic, that) -> (critic, metrics)`. The next
        rollout is collected while the second runs.
      networks: fields of the state that `--init-from` takes from another run.
      suits: `(config) -> bool`, where several rows share the class of their config: whether it is this row's.
    """

    name: str
    config: type
    settings: type
    init: Callable[..., Any]
    act: Callable[..., Any]
    update: Callable[..., Any]
    metrics: Sequence[str]
    loop: str | Callable[..., Any]
    averaged_over: Mapping[str, str] = {}
    presets: Callable[[str], Mapping[str, Any]] = no_presets
    defaults: Mapping[str, Any] = {}
    check: Callable[[Any], None] = accept
    explore: Callable[..., tuple[Any, Any]] = sample
    horizon: Callable[[Any, float], Any] = no_horizon
    update_actor: Callable[..., Any] | None = None
    update_critic: Callable[..., Any] | None = None
    networks: Sequence[str] = ("actor",)
    suits: Callable[[Any], bool] = suits_any


def check_row(row: Any) -> None:
    """Raises BadInput, in one line, unless `row` is a whole row of the table."""
    if not isinstance(row, Algorithm):
        raise BadInput(f"the algorithm is a {type(row).__name__}: it must be a jaxrl.Algorithm")
    if not isinstance(row.name, str) or not row.name.isidentifier():
        raise BadInput(f"the algorithm's name is {row.name!r}: it must be one word of letters, digits and _")
    for name in ("init", "act", "update", "presets", "check", "explore", "horizon", "suits"):
        if not callable(getattr(row, name)):
            raise BadInput(f"{row.name} has {getattr(row, name)!r} as {name}: it must be a function")
    if (row.update_actor is None) != (row.update_critic is None):
        raise BadInput(f"{row.name} has one of update_actor and update_critic: it must have both or none")
    if row.loop not in ("on_policy", "off_policy") and not callable(row.loop):
        raise BadInput(f"{row.name} has the loop {row.loop!r}: it must be on_policy, off_policy or a function")
    needed = {"on_policy": OnPolicySettings, "off_policy": ReplaySettings}.get(str(row.loop))
    if needed is not None and not (isinstance(row.settings, type) and issubclass(row.settings, needed)):
        raise BadInput(f"{row.name} has the loop {row.loop}, whose settings must be {needed.__name__}")
    for name in ("config", "settings"):
        _check_class(row, name)
    metrics = row.metrics
    if isinstance(metrics, str) or not all(isinstance(each, str) for each in metrics) or not metrics:
        raise BadInput(f"{row.name} has the metrics {metrics!r}: they must be a tuple of names, one or more")
    if len(set(metrics)) < len(metrics):
        raise BadInput(f"{row.name} names a metric twice: {', '.join(metrics)}")


def _check_class(row: Algorithm, name: str) -> None:
    kind = getattr(row, name)
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        raise BadInput(f"{row.name} has {kind!r} as {name}: it must be a dataclass or a Flax PyTreeNode")
    for field in dataclasses.fields(kind):
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise BadInput(f"{kind.__name__} of {row.name} has no default for {field.name}: every field must have one")


def check_metrics(row: Algorithm, metrics: Any) -> None:
    """Raises BadInput unless `metrics`, from the row's update, are those that the row names."""
    if not isinstance(metrics, Mapping):
        raise BadInput(f"update of {row.name} gives a {type(metrics).__name__}: its metrics must be a dict by name")
    missing = [name for name in row.metrics if name not in metrics]
    beside = [name for name in metrics if name not in row.metrics]
    if missing or beside:
        said = f"lacks {', '.join(missing)}" if missing else f"gives {', '.join(beside)} beside them"
        raise BadInput(f"update of {row.name} {said}: its metrics must be {', '.join(row.metrics)}")

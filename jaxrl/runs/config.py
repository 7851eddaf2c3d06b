"""The settings of a run. `checks.py` says which of them cannot work."""

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Self

from jaxrl.algos.algorithm import Algorithm
from jaxrl.envs.make import EnvLike, WrapperLike
from jaxrl.errors import BadInput
from jaxrl.runs.algorithms import check_names, find, name_for, register, settings_of
from jaxrl.runs.convert import shown
from jaxrl.runs.other_words import ours_for

EnvBackend = Literal["gymnasium", "async", "envpool", "jax", "gymnax", "playground", "envelope"]
Networks = str | Callable[..., tuple[Any, Any]]
BY_ALGORITHM: Any = "by algorithm"  # A default that the algorithm decides.


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything about a run: in `agent` the algorithm's numbers, in `loop` the settings of its loop.

    `RunConfig.of` takes all of them by name, without `agent` and `loop`.
    """

    # Beyond these a typing error is likelier than a wish, and memory ends before the run begins.
    RANGES: ClassVar[Mapping[str, tuple[int, int]]] = {
        "num_envs": (1, 2**16),
        "eval_episodes": (1, 10**5),
        "seed": (0, 2**64 - 1),
        "num_seeds": (1, 1024),
        "updates_per_call": (1, 2**16),
        "num_devices": (1, 2**16),
        **dict.fromkeys(("total_steps", "eval_every", "eval_max_steps", "checkpoint_every", "log_every"), (1, 10**12)),
    }

    env: EnvLike = "CartPole-v1"
    """Gymnasium id of the task; with a backend on the device the name that it has there."""
    agent: Any = None
    """The algorithm's numbers, such as PPOConfig(); none for its defaults."""
    total_steps: int = 1_000_000
    """Environment steps to train for, over all environments; the run ends at the first update at or after it."""
    seed: int = 0
    """Seed of everything random in the run."""
    num_seeds: int = 1
    """Train as many runs side by side, with the seeds from `seed` on, each in a folder of its own, seed-0, seed-1, ...
    They share the start and the cores; on an accelerator their updates are one call, and there the real gain is."""
    sweep: tuple[str, ...] = ()
    """Train side by side with each of several numbers for a setting, NAME=V1,V2,V3, every one in a folder of its own,
    NAME=V1, ..., with all of --num-seeds in it; of two settings, every pair. Any setting that changes nothing of the
    compiled program can be swept: learning rates, gamma, clip_eps, kl_target, tau, exploration_noise, ..."""
    wrapper: tuple[WrapperLike, ...] = ()
    """Wrappers around each environment, module:callable, the innermost first; from Python also callables."""
    env_backend: EnvBackend = "gymnasium"
    """Where the environments trained in run: gymnasium in this process, async each in a process of its own, envpool in
    the threads of EnvPool, for CartPole and the MuJoCo tasks; on the device, in one program with the updates: jax for
    the classic control tasks, gymnax, playground and envelope for those of the libraries of these names."""
    updates_per_call: int | None = None
    """Updates in one call of the device, with a backend on the device; with ddpg, td3 and sac steps of all
    environments, each with its updates. None for as many as take about half a second. It changes no number: logs,
    evaluations, checkpoints and signals wait for the end of a call."""
    num_devices: int = 1
    """Devices that share the environments, with a backend on the device, or the seeds where they divide these; else
    they must divide --num-envs."""
    distributed: bool = False
    """Share the run with other processes, with a backend on the device: each is given the same command, and all devices
    of all of them share the environments. The first alone writes and prints. JAX_COORDINATOR_ADDRESS, HOST:PORT of the
    first, JAX_NUM_PROCESSES and JAX_PROCESS_ID say who they are; under SLURM and Kubernetes JAX finds that out."""
    env_timeout: float = 60.0
    """Seconds that an environment in a process of its own may take for an answer, before the run is ended."""
    on_fault: Literal["stop", "reset"] = "stop"
    """The answer to a step of which nothing can be learned, because something in it is not finite or MuJoCo diverged:
    stop ends the run, reset begins a new episode in that environment, counted and logged."""
    num_envs: int = BY_ALGORITHM
    """Environments that step together; by default 8, with ddpg, td3 and sac 1."""
    eval_every: int | None = BY_ALGORITHM
    """Evaluate before the first step and at the first update at or after each multiple of this many steps; by default
    50,000, with ddpg, td3 and sac 5,000. With none there is no evaluation and no environment for one; policy/best is
    the latest policy then."""
    eval_episodes: int = 10
    """Episodes of one evaluation, noise-free, in environments of their own."""
    eval_env: EnvLike | None = None
    """Environment to evaluate in; none for the one trained in."""
    eval_max_steps: int | None = None
    """Steps at which an evaluation cuts an episode; none for the task's own limit, or 20,000 where it has none. An
    episode that is cut counts with its return up to there, also for policy/best."""
    eval_backend: Literal["gymnasium", "async"] = "gymnasium"
    """Where the environments evaluated in run: gymnasium in this process, async each in a process of its own, at most
    as many as --num-envs, and with --env-timeout for an answer."""
    stop_return: float | None = None
    """End the run once an evaluation's mean return reaches this, and none of its episodes was cut by
    --eval-max-steps."""
    checkpoint_every: int = 100_000
    """Save a checkpoint at the first update at or after each multiple of this many steps, and at the end."""
    log_every: int = 2_048
    """Write a row of metrics at the first update at or after each multiple of this many steps."""
    render: bool = False
    """Show one more episode in a window after each evaluation."""
    run_dir: str | None = None
    """Folder for what the run leaves behind; none for the next free runs/<algo>-<env>-seed<k>."""
    init_from: str | None = None
    """Start from the networks and the normaliser of the run in this folder."""
    resume: str | None = None
    """Continue the run in this folder."""
    loop: Any = None
    """The loop's settings, such as OnPolicySettings(); none for its defaults."""
    networks: Networks | None = None
    """Networks of your own, module:callable, from Python also the callable: a function from the observation and the
    action space to (actor, critic), Flax modules; none for the built-in ones."""
    algo: str = None  # type: ignore[assignment]
    """The algorithm's name in the table, or package.module:ROW; none for the one that `agent` belongs to."""

    def __new__(cls, *_: Any, **settings: Any) -> Self:
        """Says where a setting that is none of these fields belongs."""
        strangers = settings.keys() - {field.name for field in dataclasses.fields(cls)}
        if strangers:
            name = min(strangers)
            raise BadInput(
                f"RunConfig has no {name}: RunConfig.of(algo, env, {name}=...) takes the settings of an algorithm and "
                "of its loop by name"
            )
        return super().__new__(cls)

    def __post_init__(self) -> None:
        algo = self.algo
        if algo is None:
            algo = "ppo" if self.agent is None else name_for(self.agent)
        if algo is None:
            return  # `train` may be told the algorithm, or else `check_settings` says that it is unknown.
        row = find(algo)
        check_names(row, {field.name for field in dataclasses.fields(RunConfig)})
        parts = _by_place(row, row.defaults)
        defaults = {"num_envs": 8, "eval_every": 50_000} | parts["run"]
        chosen = {name: defaults[name] for name in defaults if _is_open(getattr(self, name))}
        for name, kind in (("agent", row.config), ("loop", row.settings)):
            value = getattr(self, name)
            if value is None:
                chosen[name] = kind(**parts[name])
            elif type(value) is not kind:
                raise BadInput(f"{name} is {shown(value)}: it must be a {kind.__name__} with {algo}")
        for name, value in (chosen | {"algo": algo}).items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, algo: str | Algorithm, env: EnvLike, **settings: Any) -> Self:
        """The settings by name, whether they are the run's, the loop's or the algorithm's; all others have their
        general defaults.

        Args:
          algo: a name in the table of algorithms, `package.module:ROW`, or a row.
          env: the task.
          settings: such as `total_steps=100_000, num_steps=128, gamma=0.98`.

        Example:
          >>> run = RunConfig.of("ppo", "CartPole-v1", num_steps=128, gamma=0.98)
          >>> run.loop.num_steps, run.agent.gamma, run.num_envs
          (128, 0.98, 8)

        Raises:
          BadInput: no such algorithm, or it has no such setting.
        """
        row = register(algo) if isinstance(algo, Algorithm) else find(algo)
        parts = _by_place(row, {**row.defaults, **settings})
        run = {"agent": row.config(**parts["agent"]), "loop": row.settings(**parts["loop"])} | parts["run"]
        return cls(env=env, algo=row.name if isinstance(algo, Algorithm) else algo, **run)

    def by(self, row: Algorithm) -> Self:
        """The same run by an algorithm of one's own, which enters the table. Where `agent` and `loop` were left to
        their defaults, they are those of this algorithm.

        Raises:
          BadInput: `agent` or `loop` is another algorithm's.
        """
        register(row)
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        default = None if self.algo is None else type(self)(algo=self.algo)
        for name, kind in (("agent", row.config), ("loop", row.settings)):
            if default is not None and own[name] == getattr(default, name) and type(own[name]) is not kind:
                own[name] = None  # It was not chosen, but is another algorithm's default.
        return type(self)(**own | {"algo": row.name})

    def with_settings(self, **settings: Any) -> Self:
        """The same run with some settings changed, by name, whether they are the run's, the loop's or the algorithm's.

        Raises:
          BadInput: the algorithm has no such setting.
        """
        parts = _by_place(self.row, settings)
        changed = {place: dataclasses.replace(getattr(self, place), **parts[place]) for place in ("agent", "loop")}
        return dataclasses.replace(self, **changed | parts["run"])

    def setting(self, name: str) -> Any:
        """The value of a setting of that name, whether it is the run's, the loop's or the algorithm's."""
        return next(getattr(place, name) for place in (self, self.loop, self.agent) if hasattr(place, name))

    @property
    def row(self) -> Algorithm:
        """The algorithm's row in the table."""
        return find(self.algo)

    @property
    def env_name(self) -> str:
        """The task's id, or what a user's own environment is called."""
        return self.env if isinstance(self.env, str) else getattr(self.env, "__name__", type(self.env).__name__)

    @property
    def anneals(self) -> bool:
        """True if anything goes to 0 over the run."""
        return self.row.horizon(self.agent, 1.0) is not self.agent

    @property
    def algorithm_config(self) -> Any:
        """The agent's config with the annealing horizon in updates, as a fresh state takes it."""
        anneal_steps, num_steps = getattr(self.loop, "anneal_steps", None), getattr(self.loop, "num_steps", 1)
        steps = self.total_steps if anneal_steps is None else anneal_steps
        # A rollout of an environment that spends rows on resetting holds fewer steps than rows: there the run makes a
        # few updates more than this, at a rate of 0.
        return self.row.horizon(self.agent, max(1.0, steps / (self.num_envs * num_steps)))


def default_run(algo: str, env: str) -> RunConfig:
    """The settings that a command starts from: the task's own where the algorithm has them, else general ones.

    Raises:
      BadInput: no such algorithm.
    """
    return RunConfig.of(algo, env, **find(algo).presets(env))


def _is_open(value: Any) -> bool:
    return isinstance(value, str) and value == BY_ALGORITHM


def _by_place(row: Algorithm, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings by name, sorted into those of the run, of its loop and of its algorithm."""
    loop, agent = settings_of(row)
    own = {field.name for field in dataclasses.fields(RunConfig)}
    parts: dict[str, dict[str, Any]] = {"run": {}, "loop": {}, "agent": {}}
    for name, value in settings.items():
        place = "loop" if name in loop else "agent" if name in agent else "run"
        if place == "run" and name not in own:
            if answer := ours_for(name, loop | agent | own, str):
                raise BadInput(f"{row.name} has no setting {name}, a word of other libraries; {answer}")
            near = difflib.get_close_matches(name, loop | agent | own, 1)
            hint = f"; perhaps you meant {near[0]}" if near else f"; jaxrl train --algo {row.name} --help lists them"
            raise BadInput(f"{row.name} has no setting {name}{hint}")
        parts[place][name] = value
    return parts

"""What a run is: its settings, the checks on them, good defaults for known tasks, and their form as JSON."""

import collections.abc
import contextlib
import dataclasses
import errno
import itertools
import json
import math
import os
import re
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import jax
import numpy as np
from gymnasium.vector import VectorEnv

from jaxrl.algos.ddpg import DDPGConfig
from jaxrl.algos.ppo import PPOConfig
from jaxrl.envs.make import EnvLike, WrapperLike
from jaxrl.errors import BadInput

BY_ALGORITHM: Any = "by algorithm"  # A default that the algorithm decides.


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything about a run but the algorithm, and in `agent` the algorithm."""

    env: EnvLike = "CartPole-v1"
    """Gymnasium id of the task."""
    agent: PPOConfig | DDPGConfig = dataclasses.field(default_factory=PPOConfig)
    """The algorithm and its numbers."""
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
    env_backend: Literal["gymnasium", "async", "envpool"] = "gymnasium"
    """Where the environments trained in run: gymnasium in this process, async each in a process of its own, envpool in
    the threads of EnvPool, for CartPole and the MuJoCo tasks."""
    env_timeout: float = 60.0
    """Seconds that an environment in a process of its own may take for an answer, before the run is ended."""
    on_fault: Literal["stop", "reset"] = "stop"
    """What follows a step of which nothing can be learned, because something in it is not finite or MuJoCo diverged:
    stop ends the run, reset begins a new episode in that environment, counted and logged."""
    num_envs: int = None  # type: ignore[assignment]
    """Environments that step together; by default 8 for PPO, 1 for DDPG."""
    num_steps: int = 256
    """Steps of each environment per rollout, and so per update."""
    anneal_steps: int | None = None
    """Steps over which annealing goes to 0; none for total_steps."""
    normalize_obs: bool = False
    """Standardise observations with their running mean and variance."""
    normalize_reward: bool = False
    """Divide rewards by the running standard deviation of the discounted return."""
    buffer_size: int = 1_000_000
    """Transitions that the replay buffer keeps."""
    learning_starts: int = 25_000
    """Steps that are uniformly random, before the first update."""
    exploration_noise: float = 0.1
    """Standard deviation of the Gaussian noise on actions, times (high - low) / 2 of each dimension."""
    batch_size: int = 256
    """Transitions in the batch of an update."""
    updates_per_step: int = 1
    """Updates for each joint step of the environments: with N of them, for N steps."""
    eval_every: int | None = BY_ALGORITHM
    """Evaluate before the first step and at the first update at or after each multiple of this many steps; by default
    50,000 for PPO, 5,000 for DDPG. With none there is no evaluation and no environment for one; policy/best is the
    latest policy then."""
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

    def __post_init__(self) -> None:
        num_envs, eval_every = (1, 5_000) if isinstance(self.agent, DDPGConfig) else (8, 50_000)
        if self.num_envs is None:
            object.__setattr__(self, "num_envs", num_envs)
        if isinstance(self.eval_every, str) and self.eval_every == BY_ALGORITHM:
            object.__setattr__(self, "eval_every", eval_every)

    @property
    def algo(self) -> str:
        """The algorithm's name on the command line: `ddpg`; `ppo_kl` where a KL penalty is on, else `ppo`."""
        if isinstance(self.agent, DDPGConfig):
            return "ddpg"
        return "ppo_kl" if self.agent.kl_coef is not None else "ppo"

    @property
    def env_name(self) -> str:
        """The task's id, or what a user's own environment is called."""
        return self.env if isinstance(self.env, str) else getattr(self.env, "__name__", type(self.env).__name__)

    @property
    def anneals(self) -> bool:
        """Whether anything goes to 0 over the run."""
        return isinstance(self.agent, PPOConfig) and (self.agent.anneal_learning_rate or self.agent.anneal_clip)

    @property
    def algorithm_config(self) -> PPOConfig | DDPGConfig:
        """The agent's config with the annealing horizon in updates, as a fresh state takes it."""
        if not self.anneals:
            return self.agent
        steps = self.total_steps if self.anneal_steps is None else self.anneal_steps
        # A rollout of an environment that spends rows on resetting holds fewer steps than rows: there the run makes a
        # few updates more than this, at a rate of 0.
        return self.agent.replace(anneal_updates=max(1.0, steps / (self.num_envs * self.num_steps)))


CLASSIC = {
    "CartPole-v1": (
        {"total_steps": 100_000, "num_envs": 8, "num_steps": 32, "eval_every": 20_000, "eval_episodes": 100},
        {"gamma": 0.98, "gae_lambda": 0.8, "num_epochs": 20, "num_minibatches": 1, "anneal_learning_rate": True}
        | {"actor_learning_rate": 1e-3, "critic_learning_rate": 1e-3},
    ),
    "Acrobot-v1": (
        {"total_steps": 200_000, "num_envs": 16, "num_steps": 64, "eval_every": 20_000, "eval_episodes": 20},
        {"num_epochs": 10, "num_minibatches": 4, "actor_learning_rate": 1e-3, "critic_learning_rate": 1e-3},
    ),
    "Pendulum-v1": (
        {"total_steps": 200_000, "num_envs": 4, "num_steps": 256, "eval_every": 20_000, "eval_episodes": 20},
        {"gamma": 0.9, "num_epochs": 10, "num_minibatches": 16}
        | {"actor_learning_rate": 1e-3, "critic_learning_rate": 1e-3},
    ),
}
# What differs where a KL penalty does the clip's work. An adaptive coefficient makes every update move the policy by
# kl_target, also once CartPole is solved and only noise is left in the advantages; at 0.01 and an update every 256
# steps, one seed in ten walks off until it drops the pole again. Fewer updates, each a tenth as far, do not.
PENALTY: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "CartPole-v1": ({"num_steps": 128}, {"kl_coef": 10.0, "kl_target": 0.001, "num_epochs": 10, "num_minibatches": 4}),
}
MUJOCO = {f"{task}-v{version}" for version in (4, 5) for task in (
    "Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum", "InvertedPendulum",
    "Pusher", "Reacher", "Swimmer", "Walker2d",
)}  # fmt: skip
MUJOCO_DEFAULTS: tuple[dict[str, Any], dict[str, Any]] = (
    {"total_steps": 1_000_000, "num_envs": 8, "num_steps": 256, "normalize_obs": True, "normalize_reward": True}
    | {"eval_every": 100_000},
    {"num_epochs": 10, "num_minibatches": 32, "anneal_learning_rate": True},
)

# DDPG's own defaults are those of the MuJoCo tasks.
OFF_POLICY: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Pendulum-v1": (
        {"total_steps": 20_000, "learning_starts": 1_000, "buffer_size": 100_000},
        {"actor_learning_rate": 1e-3},
    ),
}


def default_run(algo: str, env: str) -> RunConfig:
    """The settings that a command starts from: the task's own where the table has them, else general ones.

    Raises:
      BadInput: no such algorithm.
    """
    if algo == "ddpg":
        run, agent = OFF_POLICY.get(env, ({}, {}))
        return RunConfig(env=env, agent=DDPGConfig(**agent), **run)
    if algo not in ("ppo", "ppo_kl"):
        raise BadInput(f"algorithm {algo!r} is not known: it must be ppo, ppo_kl or ddpg")
    run, agent = CLASSIC.get(env) or (MUJOCO_DEFAULTS if env in MUJOCO else ({}, {}))
    if algo == "ppo_kl":
        own_run, own_agent = PENALTY.get(env, ({}, {}))
        run, agent = run | own_run, agent | {"clip_eps": None, "kl_coef": 1.0, "kl_target": 0.01} | own_agent
    return RunConfig(env=env, agent=PPOConfig(**agent), **run)


# Beyond these a typing error is likelier than a wish, and memory ends before the run begins.
MOST = {"num_envs": 2**16, "num_steps": 2**20, "eval_episodes": 10**5, "seed": 2**64 - 1, "num_seeds": 1024}
MOST |= {"buffer_size": 10**18, "batch_size": 2**24, "updates_per_step": 10**6, "learning_starts": 10**12}
MOST |= dict.fromkeys(("total_steps", "eval_every", "checkpoint_every", "log_every", "anneal_steps"), 10**12)
MOST["eval_max_steps"] = 10**12


def converted(run: RunConfig) -> RunConfig:
    """The same settings in the types that their fields declare, which are those that config.json gives back: a whole
    float such as 1e6 becomes an int, a NumPy or JAX scalar a Python number, 0 or 1 a flag, a list a tuple, and a Path a
    string.

    Raises:
      BadInput: `run` is no RunConfig, or one of its settings is of another type.
    """
    if not isinstance(run, RunConfig):
        raise BadInput(f"run is {shown(run)}: it must be a RunConfig")
    return _converted_fields(run)


def _converted_fields(settings: Any) -> Any:
    kinds, values = get_type_hints(type(settings)), {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        try:
            values[field.name] = _converted(value, kinds[field.name])
        except (TypeError, OverflowError):
            raise BadInput(f"{field.name} is {shown(value)}: it must be {_words(kinds[field.name])}") from None
    return dataclasses.replace(settings, **values)


def _converted(value: Any, kind: Any) -> Any:
    """`value` as a field of this kind holds it; TypeError where it is of another."""
    if isinstance(value, jax.Array):
        value = np.asarray(value)
    if isinstance(value, np.generic | np.ndarray) and value.ndim == 0:
        value = value.item()
    if get_origin(kind) in (Union, UnionType):
        for each in get_args(kind):
            with contextlib.suppress(TypeError):
                return _converted(value, each)
    elif get_origin(kind) is tuple and (isinstance(value, list | tuple | np.ndarray | str) or callable(value)):
        value = [value] if isinstance(value, str) or callable(value) else value  # One wrapper, or one sweep.
        return tuple(_converted(each, get_args(kind)[0]) for each in value)
    elif kind in (int, float, bool, str):
        return _converted_scalar(value, kind)
    elif _is(value, kind):
        return _converted_fields(value) if isinstance(value, PPOConfig | DDPGConfig) else value
    raise TypeError


def _converted_scalar(value: Any, kind: type) -> Any:
    if kind is str:
        text = os.fspath(value)
        if isinstance(text, str):
            return text
    elif kind is bool:
        if isinstance(value, int | float) and value in (0, 1):
            return bool(value)
    elif isinstance(value, int | float) and not isinstance(value, bool) and (kind is float or value % 1 == 0):
        return kind(value)
    raise TypeError


def _is(value: Any, kind: Any) -> bool:
    """Whether `value` is of a kind that is taken as it is."""
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) is collections.abc.Callable:
        return callable(value)
    return isinstance(kind, type) and isinstance(value, kind)


def shown(value: Any) -> str:
    """A value in a complaint: one line, and not a long one."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:80]}..."


KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a string", NoneType: "None"}


def _words(kind: Any) -> str:
    """The values that a field of this kind takes."""
    if get_origin(kind) in (Union, UnionType):
        *first, last = map(_words, get_args(kind))
        return f"{', '.join(first)} or {last}"
    if get_origin(kind) is tuple:
        return f"a list or a tuple, each of its parts {_words(get_args(kind)[0])}"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    if get_origin(kind) is collections.abc.Callable:
        return "a function"
    return KINDS.get(kind) or f"a {kind.__name__}"


def check_settings(run: RunConfig) -> None:
    """Raises BadInput, in one line, if the settings cannot work whatever the environment."""
    _check_relevant(run)
    at_least = {"total_steps": 1, "num_envs": 1, "num_steps": 1, "eval_every": 1, "eval_episodes": 1}
    at_least |= {"num_seeds": 1, "buffer_size": 1, "learning_starts": 1, "batch_size": 1, "updates_per_step": 1}
    at_least |= {"checkpoint_every": 1, "log_every": 1, "seed": 0, "anneal_steps": 1, "eval_max_steps": 1}
    for name, low in at_least.items():
        number = getattr(run, name)
        if number is not None and not low <= number <= MOST[name]:
            raise BadInput(f"{name} is {number}: it must be from {low} to {MOST[name]:,}")
    if run.init_from is not None and run.resume is not None:
        raise BadInput("init_from begins a run and resume continues one: give one of them")
    if (run.num_seeds > 1 or run.sweep) and (run.render or not (isinstance(run.env, str) or callable(run.env))):
        many = f"num_seeds is {run.num_seeds}" if run.num_seeds > 1 else "sweep stands for several runs"
        odd = "render shows one run" if run.render else "a vector environment belongs to one run"
        raise BadInput(f"{many}, but {odd}: leave one of the two off")
    if run.anneal_steps is not None and not run.anneals:
        raise BadInput("anneal_steps is set, but nothing anneals: add anneal_learning_rate or anneal_clip")
    own = isinstance(run.env, VectorEnv) or isinstance(run.eval_env, VectorEnv)
    has_processes = own or "async" in (run.env_backend, run.eval_backend)
    if run.env_timeout != RunConfig.env_timeout and not has_processes:
        raise BadInput(
            "env_timeout limits environments in processes of their own: use env_backend or eval_backend async, or "
            "leave it off"
        )
    if run.render and not isinstance(run.env, str):
        raise BadInput("render opens a window on an environment made from an id: give env as an id, or leave it off")
    _check_evaluation(run)
    if isinstance(run.agent, DDPGConfig):
        _check_replay(run)
    else:
        _check_minibatches(run, run.agent.num_minibatches)


def _check_evaluation(run: RunConfig) -> None:
    if run.eval_every is None:
        unused = {"eval_env": None, "eval_max_steps": None, "eval_backend": "gymnasium", "stop_return": None}
        for name, default in (unused | {"render": False}).items():
            if getattr(run, name) != default:
                raise BadInput(
                    f"{name} needs evaluations, and eval_every none switches them off: leave one of them off"
                )
        return
    if run.stop_return is not None and not math.isfinite(run.stop_return):
        raise BadInput(f"stop_return is {run.stop_return}: it must be a finite return, or none")
    if isinstance(run.env, VectorEnv) and run.eval_env in (None, run.env):
        raise BadInput(
            "env is a vector environment, which cannot be evaluated in while it trains: give another as eval_env, or "
            "eval_every none"
        )
    if isinstance(run.eval_env, VectorEnv) and (run.num_seeds > 1 or run.sweep):
        raise BadInput("eval_env is a vector environment, which belongs to one run: give an id or a function")
    if isinstance(run.eval_env, VectorEnv) and run.eval_backend != "gymnasium":
        raise BadInput("eval_env is a vector environment, which steps as it does: leave eval_backend off")


# Settings that one algorithm alone has a use for.
OWN = {
    PPOConfig: ("num_steps", "anneal_steps", "normalize_obs", "normalize_reward"),
    DDPGConfig: ("buffer_size", "learning_starts", "exploration_noise", "batch_size", "updates_per_step"),
}


def _check_relevant(run: RunConfig) -> None:
    if not isinstance(run.agent, PPOConfig | DDPGConfig):
        raise BadInput(f"agent is {run.agent!r}: it must be a PPOConfig or a DDPGConfig")
    defaults = {field.name: field.default for field in dataclasses.fields(run)}
    for kind, names in OWN.items():
        odd = [name for name in names if getattr(run, name) != defaults[name]]
        if odd and not isinstance(run.agent, kind):
            raise BadInput(f"{odd[0]} is nothing that {run.algo} has a use for: leave it off")


def _check_replay(run: RunConfig) -> None:
    if not 0 <= run.exploration_noise <= 1e6:
        raise BadInput(f"exploration_noise is {run.exploration_noise}: it must be from 0 to 1,000,000")
    stored = min(run.learning_starts, run.buffer_size)
    if run.batch_size > stored:
        name = "learning_starts" if stored == run.learning_starts else "buffer_size"
        raise BadInput(
            f"batch_size {run.batch_size:,} is larger than what is stored when the updates begin: "
            f"it must be at most {name}, {stored:,}"
        )


def _check_minibatches(run: RunConfig, num_minibatches: int) -> None:
    rows = run.num_envs * run.num_steps
    if num_minibatches < 1 or rows % num_minibatches or rows // num_minibatches < 2:
        raise BadInput(
            f"num_minibatches {num_minibatches} does not divide the rollout of num_envs {run.num_envs} x "
            f"num_steps {run.num_steps} = {rows} rows into equal parts of 2 or more"
        )


def claim_run_dir(run: RunConfig, here: Path = Path()) -> Path:
    """Makes the run's folder.

    Args:
      run: the settings.
      here: the folder that relative paths start from.

    Returns:
      The folder, relative to `here` where it is there.

    Raises:
      BadInput: there is something in the folder, or it cannot be made.
    """
    if run.run_dir is None:
        return claim_next_folder(f"{run.algo}-{run.env_name}-seed{run.seed}", here)
    named = Path(run.run_dir)
    folder = here / named
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise BadInput(f"run_dir {named} is not empty: name a new folder, or continue its run with resume")
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise BadInput(f"run_dir {named} cannot be written to ({error.strerror}): name another") from error
    return named


def claim_next_folder(name: str, here: Path) -> Path:
    """Makes the next free folder runs/NAME, runs/NAME-2, ... below `here`, and gives it relative to `here`. Processes
    that do this at the same time get different ones."""
    name = re.sub(r"[^\w.-]+", "-", name)
    try:
        (here / "runs").mkdir(exist_ok=True)
        for suffix in itertools.count(1):
            named = Path("runs") / (name if suffix == 1 else f"{name}-{suffix}")
            with contextlib.suppress(FileExistsError):
                (here / named).mkdir(parents=True)  # A study that is refused removes runs again.
                break
    except OSError as error:
        raise BadInput(f"no folder can be made in runs ({error.strerror}): name one with run_dir") from error
    return named


def working_folder() -> Path:
    """The folder that relative paths start from now; the empty path where it was removed."""
    try:
        return Path.cwd()
    except OSError:
        return Path()


def reachable(named: Path, here: Path) -> Path:
    """The path `named`, relative to `here`, as it stands where that still leads there: nothing has moved the working
    folder. Else the path from `here`."""
    return named if working_folder() == here else here / named


def run_to_json(run: RunConfig) -> dict[str, Any]:
    """The settings as JSON-able values; an environment that is no id is recorded by name."""
    wrapper = tuple(map(_name_of, run.wrapper))
    record = dataclasses.asdict(dataclasses.replace(run, env="", eval_env=None, wrapper=wrapper))
    record = json.loads(json.dumps(record))
    eval_env = run.eval_env if run.eval_env is None or isinstance(run.eval_env, str) else repr(run.eval_env)
    return {"algo": run.algo} | record | {"env": run.env_name, "eval_env": eval_env}


def _name_of(wrapper: WrapperLike) -> str:
    if isinstance(wrapper, str):
        return wrapper
    return f"{wrapper.__module__}:{getattr(wrapper, '__qualname__', type(wrapper).__qualname__)}"


def run_from_json(record: dict[str, Any]) -> RunConfig:
    """The inverse of `run_to_json`, for runs on environments with an id."""
    agent = dict(record["agent"], hidden_sizes=tuple(record["agent"]["hidden_sizes"]))
    rest = {name: value for name, value in record.items() if name not in ("algo", "agent")}
    rest |= {name: tuple(rest.get(name, ())) for name in ("wrapper", "sweep")}
    run = RunConfig(agent=(DDPGConfig if record["algo"] == "ddpg" else PPOConfig)(**agent), **rest)
    if not isinstance(run.env, str):
        raise TypeError(f"env is {run.env!r}")
    if not all(isinstance(each, str) for each in run.wrapper):
        raise TypeError(f"wrapper is {run.wrapper!r}")
    for settings in (run, run.agent):
        for name, kind in get_type_hints(type(settings)).items():
            value = getattr(settings, name, None)
            if not _fits(value, kind):
                raise TypeError(f"{name} is {value!r}")
    return run


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value read from JSON is of the kind that a field declares."""
    if get_origin(kind) in (Union, UnionType):
        return any(_fits(value, each) for each in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(each, get_args(kind)[0]) for each in value)
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return not isinstance(kind, type) or isinstance(value, kind)


def load_run(folder: str | Path) -> RunConfig:
    """The settings of the run in `folder`, set to resume it; BadInput where there is none."""
    path = Path(folder) / "config.json"
    try:
        run = run_from_json(json.loads(path.read_text())["run"])
        return dataclasses.replace(run, resume=str(folder), init_from=None)
    except FileNotFoundError as error:
        raise BadInput(f"{folder} holds no run: there is no {path}") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error


# What a resumed run may be told anew: none of it changes what is learned from here on.
MAY_CHANGE = {"total_steps", "stop_return", "checkpoint_every", "log_every", "render", "env_timeout"}
MAY_CHANGE |= {"run_dir", "init_from", "resume"}


def check_resumable(run: RunConfig, folder: Path) -> dict[str, Any]:
    """Raises BadInput, naming the setting, if `run` is to resume the run in `folder` and that had other settings; gives
    those."""
    path = folder / "config.json"
    try:
        before = json.loads(path.read_text())["run"]
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    now = json.loads(json.dumps(run_to_json(run)))
    may_change = MAY_CHANGE if run.eval_env is None or isinstance(run.eval_env, str) else {*MAY_CHANGE, "eval_env"}
    # A setting that came after the run was begun had its default then.
    default = json.loads(json.dumps(run_to_json(RunConfig(agent=type(run.agent)()))))
    before = default | before | {"agent": default["agent"] | before.get("agent", {})}
    for old, new in ((before, now), (before["agent"], now["agent"])):
        for name in new:
            if name != "agent" and name not in may_change and old[name] != new[name]:
                raise BadInput(f"{name} is {new[name]}, but the run in {folder} had {old[name]}: it keeps its settings")
    if run.anneals and run.anneal_steps is None and run.total_steps != before["total_steps"]:
        raise BadInput("total_steps cannot change in a run that anneals over it: only one with anneal_steps can")
    return before

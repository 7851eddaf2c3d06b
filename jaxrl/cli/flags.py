"""The flags of the commands, as dataclasses that tyro reads. Those of `train` are made from the settings of a run: the
help of each is the text below its field."""

import ast
import dataclasses
import inspect
import itertools
import textwrap
from types import NoneType
from typing import Annotated, Any, Literal, Union, get_args, get_type_hints

import tyro

from jaxrl.runs.algorithms import names
from jaxrl.runs.config import RunConfig

TRAIN = """Trains a policy, and leaves its curves, checkpoints and the policy itself in a folder.

The defaults shown are those of the --algo and --env given: some tasks have their own."""
ALGO = (
    "The algorithm. ppo clips the surrogate; ppo_kl penalises KL(old || new) instead, with a coefficient that adapts; "
    "ddpg, td3 and sac learn from a replay buffer, for Box actions, ddpg and td3 a deterministic policy. One of your "
    "own is named module:ROW."
)
THREADS = (
    "Threads that XLA computes with; none for all cores. With several seeds or a sweep of small networks on few cores, "
    "1 is faster. The variable NPROC, where it is set, decides instead."
)
TASK = (
    *("algo", "env", "networks", "wrapper", "env_backend", "env_timeout", "on_fault", "num_envs"),
    *("updates_per_call", "num_devices", "distributed"),
    *("total_steps", "seed", "num_seeds", "sweep"),
)
OUTPUT = "checkpoint_every", "log_every", "run_dir", "init_from", "resume"
LOGGER = (
    "More that hear what the run logs: wandb, Weights & Biases (offline where WANDB_MODE is offline), and mlflow. With "
    "--resume give it again. Its package is an extra, jaxrl-kernels[wandb] or jaxrl-kernels[mlflow]."
)
# From Python an environment may be a function too; a flag takes names.
NAMED = {"env": str, "eval_env": str | None, "wrapper": tuple[str, ...], "networks": str | None}


def train_flags(run: RunConfig) -> Any:
    """The flags that stand for `run`: an instance of a dataclass of groups of settings."""
    kinds = get_type_hints(RunConfig) | NAMED
    values = {field.name: getattr(run, field.name) for field in dataclasses.fields(run)}
    texts = _own_docs(RunConfig) | {"algo": ALGO}
    evaluation = [name for name in values if name not in {*TASK, *OUTPUT, "agent", "loop"}]
    groups = {
        "task": [
            *((name, kinds[name], values[name], texts.get(name, "")) for name in TASK),
            ("num_threads", int | None, None, THREADS),
        ],
        "algorithm": _settings(run.agent),
        "loop": _settings(run.loop),
        "evaluation": [(name, kinds[name], values[name], texts.get(name, "")) for name in evaluation],
        "output": [
            *((name, kinds[name], values[name], texts.get(name, "")) for name in OUTPUT),
            ("logger", tuple[Literal["wandb", "mlflow"], ...], (), LOGGER),
        ],
    }
    made = [(title, _group(title, flags)) for title, flags in groups.items()]
    kind = dataclasses.make_dataclass("TrainFlags", [(title, group, group()) for title, group in made], frozen=True)
    kind.__doc__ = TRAIN
    return kind()


def run_of(flags: Any, default: RunConfig) -> RunConfig:
    """The run that the flags stand for, where the parser has read them; `default` is what they were made of."""
    given = {field.name: _values(getattr(flags, field.name)) for field in dataclasses.fields(flags)}
    del given["task"]["num_threads"], given["output"]["logger"]  # No settings of a run: the process has them.
    if given["task"]["wrapper"] == ("None",):
        given["task"]["wrapper"] = ()
    return dataclasses.replace(
        default,
        agent=dataclasses.replace(default.agent, **given["algorithm"]),
        loop=dataclasses.replace(default.loop, **given["loop"]),
        **given["task"] | given["evaluation"] | given["output"],
    )


@dataclasses.dataclass(frozen=True)
class EvaluateFlags:
    """Runs a saved policy for whole episodes and prints their returns."""

    run_dir: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN_DIR")]
    """Folder of a run (its best policy), or of one policy in it, such as RUN_DIR/policy/latest."""
    episodes: int | None = None
    """How many episodes to run; none for 10, for 1 in an animation, or for as many as were recorded."""
    seed: int | None = None
    """Seed of the episodes, 0 if none; evaluations during training use other streams."""
    recorded: bool = False
    """Repeat the evaluation that chose the policy: its environments, seeds and episodes, to the same returns."""
    stochastic: bool = False
    """Sample actions instead of taking the most probable ones."""
    max_episode_steps: int | None = None
    """Length at which an episode is cut; none for the task's own, or 20,000 where it has none."""
    env: str | None = None
    """Gymnasium id to run in; none for the one trained in."""
    wrapper: tuple[str, ...] = ()
    """Wrappers around the environment, module:callable, the innermost first; none for no wrapper."""
    networks: str | None = None
    """Networks of your own that the policy was trained with, module:callable."""
    render: bool = False
    """Show the episodes in a window, one after the other."""
    video: str | None = None
    """Folder for a video of each episode (mp4), RUN_DIR/video where none is named, or FILE.webp or FILE.gif for one
    animation of them all."""


@dataclasses.dataclass(frozen=True)
class ExportFlags:
    """Writes a saved policy for use where there is no jaxrl: observations in, actions for the environment out, with the
    normaliser inside and any number of rows."""

    run_dir: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN_DIR")]
    """Folder of a run (its best policy), or of one policy in it, such as RUN_DIR/policy/latest."""
    onnx: str | None = None
    """File for an ONNX model, which ONNX Runtime and others run; for the built-in networks."""
    stablehlo: str | None = None
    """File for a StableHLO program, which JAX runs on a CPU, a GPU or a TPU (jax.export.deserialize); any network."""
    networks: str | None = None
    """Networks of your own that the policy was trained with, module:callable."""


def command_flags(flags: type) -> Any:
    """EvaluateFlags, say, as the parser takes it, with help that has no line breaks of its own."""
    kinds, texts = get_type_hints(flags, include_extras=True), _docs(flags)
    fields = [
        (field.name, kinds[field.name], field)
        if field.default is dataclasses.MISSING
        else (field.name, _flag(kinds[field.name], field.name, texts[field.name]), field)
        for field in dataclasses.fields(flags)
    ]
    kind = dataclasses.make_dataclass(flags.__name__, fields, bases=(flags,), frozen=True)
    kind.__doc__ = flags.__doc__
    return kind


def _settings(settings: Any) -> list[tuple[str, Any, Any, str]]:
    """Of each setting its name, kind, value and text; none that the loop sets itself."""
    kinds, texts = get_type_hints(type(settings)), _docs(type(settings))
    return [
        (field.name, kinds[field.name], getattr(settings, field.name), texts.get(field.name, ""))
        for field in dataclasses.fields(settings)
        if field.metadata.get("flag", True)
    ]


def _group(title: str, flags: list[tuple[str, Any, Any, str]]) -> Any:
    fields = [(name, _flag(kind, name, text), value) for name, kind, value, text in flags]
    group = dataclasses.make_dataclass(title.capitalize(), fields, frozen=True)
    group.__doc__ = ""
    return group


def _flag(kind: Any, name: str, text: str) -> Any:
    """A kind with what `--help` says of it."""
    metavar = "{" + ",".join(names()) + "}|MODULE:ROW" if name == "algo" else _metavar(kind)
    about = tyro.conf.arg(help=text, metavar=metavar, help_behavior_hint=lambda default: f"(default: {_said(default)})")
    return Annotated[kind, about]


def _metavar(kind: Any) -> str | None:
    """`none|FLOAT` for a float that may be None; None where the parser's own word will do."""
    parts = get_args(kind)
    if NoneType not in parts or not isinstance(kind, Union if isinstance(Union, type) else type(int | None)):
        return None
    return "|".join(["none", *(part.__name__.upper() for part in parts if part is not NoneType)])


def _said(default: str) -> str:
    return {"None": "none", "": "nothing"}.get(default, default)


def _docs(kind: type) -> dict[str, str]:
    """The text below each field of a class, and of those that it derives from, as one line."""
    return {name: text for base in reversed(kind.__mro__) for name, text in _own_docs(base).items()}


def _own_docs(kind: type) -> dict[str, str]:
    try:
        [source] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, TypeError, SyntaxError, ValueError):  # It has no source: it was written at a prompt, say.
        return {}
    found = {}
    for field, text in itertools.pairwise(getattr(source, "body", [])):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(text.value.value).split())
    return found


def _values(group: Any) -> dict[str, Any]:
    return {field.name: getattr(group, field.name) for field in dataclasses.fields(group)}

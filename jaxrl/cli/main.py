"""The command line: flags to settings, mistakes to one line. The command `jaxrl` and the scripts in experiments/ are
this module.

JAX is imported late, because what suits a machine with few cores must be set before it.
"""

import argparse
import contextlib
import dataclasses
import io
import os
import re
import signal
import statistics
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO, TypeVar, cast

from jaxrl.cli.startup import nothing_collected, prepare_jax
from jaxrl.errors import BadInput, EnvironmentLost, NotSaved
from jaxrl.output import Output, say

if TYPE_CHECKING:
    from jaxrl.cli.flags import EvaluateFlags
    from jaxrl.runs.config import RunConfig
    from jaxrl.training.train import Result

T = TypeVar("T")
NAMES = (
    "--env",
    "--eval-env",
    "--wrapper",
    "--run-dir",
    "--init-from",
    "--resume",
    "--video",
)  # Flags whose values are names.
REPEATABLE = "--sweep", "--wrapper"
# A minibatch's numbers in the widest layer's output, and its rows. With twice as many of either two threads give other
# bits: they share the sums over rows among them, for 2,048 rows of 376 numbers even in front of a layer of 16 units.
SMALL_MINIBATCH, FEW_ROWS = 2**15, 2**10
USAGE = """usage: jaxrl train --algo {ppo,ppo_kl,ddpg} --env ID [OPTIONS]
       jaxrl evaluate RUN_DIR [OPTIONS]
       jaxrl study STUDY.toml [OPTIONS]
       jaxrl plot RUN_DIR ... [OPTIONS]
each lists its options with --help"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command `jaxrl`. Returns the exit code."""
    commands: dict[str, Callable[[Sequence[str]], int]] = {
        "train": train_command,
        "evaluate": evaluate_command,
        "study": _study,
        "plot": _plot,
    }
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in commands:
        return commands[argv[0]](argv[1:])
    if not argv or argv[0] in ("-h", "--help"):
        say(USAGE, sys.stdout)
        return 0
    return _complain(BadInput(f"there is no command {argv[0]!r}: it must be {' or '.join(commands)}"))


def _study(argv: Sequence[str]) -> int:
    from jaxrl.studies.study import main as study

    return study(argv, prog="jaxrl study")


def _plot(argv: Sequence[str]) -> int:
    from jaxrl.studies.plot import main as plot  # Brings matplotlib and SciPy.

    return plot(argv, prog="jaxrl plot")


def train_command(argv: Sequence[str] | None = None) -> int:
    """Trains as the flags say.

    Returns:
      The exit code: 0 done, 1 an environment or disk failed, 2 bad input, 130 after Ctrl-C; SIGTERM raises SystemExit.
    """

    def command() -> None:
        with nothing_collected():
            _import_jax()
            run = parse_run(sys.argv[1:] if argv is None else argv)
            from jaxrl.runs.sweep import is_study
            from jaxrl.training.train import train, train_many
        if run.render:
            _check_display()
        with _no_exit_of_others():
            if is_study(run):
                choose_threads(run)
                _print_results(run, train_many(run))
            else:
                train(run)

    return _run(command)


def _print_results(study: "RunConfig", results: "Sequence[Result]") -> None:
    """A table of the last evaluations of several runs: a line for each setting, over its seeds."""
    from jaxrl.runs.sweep import setting_of

    if study.eval_every is None:
        say(f"{len(results)} runs are done; eval_every is none, so there are no evaluations to show", sys.stdout)
        return
    last: dict[str, list[float]] = {"last evaluations": []}
    for result in results:
        setting = setting_of(study, result.run)
        text = ", ".join(f"{name} {number:g}" for name, number in setting.items()) or study.env_name
        last.setdefault(text, []).extend(each.mean_return for each in result.evaluations[-1:])
    wide = max(map(len, last))
    say(f"{'last evaluations':{wide}} seeds       mean        std     lowest    highest", sys.stdout)
    for text, returns in last.items():
        if returns:
            numbers = statistics.fmean(returns), statistics.pstdev(returns), min(returns), max(returns)
            cells = f"{text:{wide}} {len(returns):5}", *(f"{number:10,.1f}" for number in numbers)
            say(" ".join(cells), sys.stdout)


def evaluate_command(argv: Sequence[str] | None = None) -> int:
    """Runs a saved policy as the flags say. Returns the exit code: 0 done, 2 bad input, 130 after Ctrl-C."""

    def command() -> None:
        _import_jax()
        from jaxrl.cli.flags import EvaluateFlags

        words = _gathered(sys.argv[1:] if argv is None else argv)
        flags = _parse(EvaluateFlags, words, prog="evaluate.py")
        with _no_exit_of_others():
            _evaluate(flags)

    return _run(command)


def parse_run(argv: Sequence[str]) -> "RunConfig":
    """The settings that the flags of `train` ask for; `--algo` and `--env` choose the defaults of the others.

    Raises:
      BadInput: a flag or a value that cannot be.
      SystemExit: after `--help`.
    """
    from jaxrl.cli.flags import TrainFlags
    from jaxrl.runs.config import default_run
    from jaxrl.runs.sweep import load_study

    argv = _gathered(argv)
    first, _ = _some_flags(argv, **{"--algo": "ppo", "--env": "CartPole-v1", "--resume": None})
    if first.resume is not None and not {"-h", "--help"} & set(argv):
        return _resumed(load_study(first.resume), argv)
    default = TrainFlags.of(first.algo, default_run(first.algo, first.env))
    return _parse(type(default), argv, prog="train.py", default=default).run()


def _resumed(run: "RunConfig", argv: Sequence[str]) -> "RunConfig":
    """A resumed run keeps its settings; only its end may move, where nothing is annealed towards it."""
    parser = _lenient_parser(**{"--resume": None, "--total-steps": str(run.total_steps), "--env": None})
    parser.add_argument("--wrapper", nargs="*", default=[])
    given, others = _leniently(parser, argv)
    _check_named(run, given.env, tuple(given.wrapper))
    if others:
        raise BadInput(f"{others[0]} cannot be given with --resume: the run keeps its settings, all but --total-steps")
    try:
        total_steps = int(_spelled_out(given.total_steps))
    except ValueError as error:
        raise BadInput(f"--total-steps {given.total_steps} is no whole number") from error
    if total_steps != run.total_steps and run.anneals and run.anneal_steps is None:
        raise BadInput("--total-steps cannot change in a run that anneals over it: only one with --anneal-steps can")
    return dataclasses.replace(run, total_steps=total_steps)


def _check_named(run: "RunConfig", env: str | None, wrapper: tuple[str, ...]) -> None:
    """What a file names is code to be imported: only whoever gives the command may ask for that."""
    if env is not None and env != run.env:
        raise BadInput(f"--env is {env}, but the run is one on {run.env}: leave it off, or begin a run of its own")
    imports = any(isinstance(name, str) and ":" in name for name in (run.env, run.eval_env))
    if (imports and env is None) or wrapper != run.wrapper:
        named = " ".join([f"--env {run.env}", *(["--wrapper"] if run.wrapper else []), *map(str, run.wrapper)])
        raise BadInput(f"the run's environment imports modules of yours: say {named} too, if that is right")


def _some_flags(argv: Sequence[str], **flags: str | None) -> tuple[argparse.Namespace, list[str]]:
    return _leniently(_lenient_parser(**flags), argv)


def _lenient_parser(**flags: str | None) -> argparse.ArgumentParser:
    """A parser of a few flags, that leaves the others alone."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag, default in flags.items():
        parser.add_argument(flag, default=default)
    return parser


def _leniently(parser: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    try:
        return parser.parse_known_args(list(argv))
    except (argparse.ArgumentError, SystemExit) as error:
        raise BadInput(f"{error}; see --help") from error


def _parse(kind: type[T], argv: Sequence[str], prog: str, default: Any = None) -> T:
    """Tyro's parser, its boxed complaints turned into one line, `none` accepted beside `None`, and 1e6 for 1000000."""
    import tyro

    words = [_spelled_out(word, flag in NAMES) for flag, word in zip(["", *argv], argv, strict=False)]
    complaint, output = io.StringIO(), Output(sys.stdout)
    try:
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(cast(TextIO, output)):
            return tyro.cli(kind, args=words, prog=prog, default=default, config=(tyro.conf.OmitArgPrefixes,))
    except SystemExit as end:
        if end.code in (0, None):
            output.flush()
            raise
        # A box, in ASCII where the terminal knows no other: a title, what is wrong, and after a rule what comes near.
        lines = [line.strip("│╭╮╰╯ ") for line in complaint.getvalue().strip().splitlines()[1:]]
        blocks = re.split(r"\n[─-]{5,}\n", "\n" + "\n".join(lines))
        texts = [text for text in (" ".join(block.strip("─- \n").split()) for block in blocks) if text]
        near = next((text for text in texts if text.startswith("Perhaps you meant")), "")
        hint = f"; perhaps you meant {' or '.join(re.findall(r'--[a-z][a-z-]*', near))}" if near else ""
        raise BadInput(f"{texts[0].rstrip('.')}{hint}; see {prog} --help") from None


def _gathered(argv: Sequence[str]) -> list[str]:
    """`--sweep A --sweep B` as `--sweep A B`, which is all that the parsers know: of a flag that is given twice they
    take the second alone."""
    others: list[str] = []
    gathered: dict[str, list[str]] = {}
    here = others
    for word in argv:
        flag, given, value = word.partition("=")
        if flag in REPEATABLE:
            here = gathered.setdefault(flag, [])
            if given:  # `--wrapper=A` takes that one word, and the next is not its.
                here.append(value)
                here = others
        else:
            here = others if word.startswith("-") else here
            here.append(word)
    return others + [word for flag, values in gathered.items() for word in (flag, *values)]


def _spelled_out(word: str, is_name: bool = False) -> str:
    """`none` as tyro wants it, and `1e6` as the whole number that it is, unless it is the name of something."""
    if word.lower() == "none":
        return "None"
    if not is_name and re.fullmatch(r"\d+(\.\d+)?[eE]\+?\d+", word) and float(word).is_integer():
        return str(int(float(word)))
    return word


def _evaluate(flags: "EvaluateFlags") -> None:
    import numpy as np

    from jaxrl.envs.vector import make_envs
    from jaxrl.storage.policy import load_policy
    from jaxrl.training.evaluate import MAX_ENVS_IN_TURN, cut_line, evaluate, make_eval_envs

    _check_flags(flags)
    policy = load_policy(flags.run_dir)
    record = _record_of(flags, policy.notes, policy.wrapper) if flags.recorded else {}
    env, wrapper = _environment_of(flags, record.get("env", policy.env), policy.wrapper)
    episodes, seed = record.get("episodes", flags.episodes or 10), record.get("seeds", flags.seed or 0)
    camera = None
    options: dict[str, Any] = {}
    if flags.max_episode_steps is not None:
        options["max_episode_steps"] = flags.max_episode_steps
    if flags.render:
        envs = make_envs(env, 1, 0, wrapper=wrapper, render_mode="human", **options)
    elif flags.video is not None:
        from jaxrl.envs.video import Camera, is_animation

        path = Path(flags.video)
        episodes = flags.episodes or (1 if is_animation(path) else 10)
        camera = Camera(env, path, **options)
        envs = make_envs(camera, 1, 0, wrapper=wrapper)
    else:
        max_envs = record.get("num_envs", MAX_ENVS_IN_TURN)
        backend = record.get("backend", "gymnasium")
        envs = make_eval_envs(env, episodes, wrapper, record.get("on_fault", "stop"), backend, max_envs, **options)
    policy.check_spaces(envs.observation_space, envs.action_space)
    if flags.recorded and envs.num_envs != record["num_envs"]:
        raise BadInput(f"the evaluation ran in {record['num_envs']} environments, here it is {envs.num_envs}")
    if flags.stochastic and policy.deterministic:
        raise BadInput(
            f"--stochastic samples actions, but the policy in {flags.run_dir} is deterministic: leave it off"
        )
    rng = np.random.default_rng(flags.seed or 0) if flags.stochastic else None
    for name in envs.normalizing:
        say(f"the environment has {name} inside: it begins with new statistics, not those of the training", sys.stdout)
    cut: list[Any] = []
    # An evaluation whose record says nothing of a bound had none.
    max_steps = record.get("max_steps", sys.maxsize) if flags.recorded else None
    results = evaluate(lambda obs: policy.act(obs, rng), envs, episodes, seed, max_steps=max_steps, cut=cut)
    envs.close()
    if camera is not None:
        camera.save()
    assert results is not None
    returns, lengths = results
    for episode_return, length in zip(returns, lengths, strict=True):
        say(f"return {episode_return:.1f}, {length} steps", sys.stdout)
    if cut:
        say(f"{cut_line(cut, episodes)} (--max-episode-steps)", sys.stdout)
    with np.errstate(all="ignore"):
        mean = f"mean return {returns.mean():.1f} +- {returns.std():.1f}"
    say(f"{env}: {mean} over {len(returns)} episodes", sys.stdout)
    if flags.recorded:
        same = float(returns.mean()) == record["mean_return"]
        found = f"{record['mean_return']:.1f} at step {record['step']:,}, {'the same' if same else 'another'}"
        say(f"recorded: {found}", sys.stdout)


def _check_flags(flags: "EvaluateFlags") -> None:
    if flags.episodes is not None and not 1 <= flags.episodes <= 10**5:
        raise BadInput(f"--episodes is {flags.episodes}: it must be from 1 to 100,000")
    if flags.seed is not None and flags.seed < 0:
        raise BadInput(f"--seed is {flags.seed}: it must be at least 0")
    if flags.max_episode_steps is not None and flags.max_episode_steps < 1:
        raise BadInput(f"--max-episode-steps is {flags.max_episode_steps}: it must be at least 1")
    if flags.render and flags.video is not None:
        raise BadInput("--render shows the episodes and --video films them: give one of the two")
    if flags.render:
        _check_display()


def _record_of(flags: "EvaluateFlags", notes: dict[str, Any], wrapper: tuple[str, ...]) -> dict[str, Any]:
    """The evaluation that a policy records, to be repeated."""
    record = notes.get("evaluation")
    if not isinstance(record, dict) or not {"env", "on_fault", "episodes", "seeds", "num_envs"} <= record.keys():
        raise BadInput(f"the policy in {flags.run_dir} records no evaluation: leave --recorded off")
    own = "episodes", "seed", "stochastic", "max_episode_steps", "render", "video"
    changed = [name for name in own if getattr(flags, name) not in (None, False)]
    changed += ["env"] * (flags.env not in (None, record["env"]))
    if flags.wrapper != wrapper and (flags.wrapper or wrapper):
        named = f"say --wrapper {' '.join(wrapper)}" if wrapper else "leave --wrapper off"
        raise BadInput(f"--recorded repeats an evaluation as it was: {named}")
    if changed:
        raise BadInput(f"--recorded repeats an evaluation as it was: leave --{changed[0].replace('_', '-')} off")
    return record


def _environment_of(flags: "EvaluateFlags", env: str, wrapper: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The environment to evaluate in and the wrappers around it. What a file names is code to be imported: only whoever
    gives the command may ask for that."""
    if flags.env is None and ":" in env:
        raise BadInput(f"the policy was trained on {env}, which imports a module: say --env {env} if that is right")
    if not flags.wrapper and wrapper:
        names = " ".join(wrapper)
        raise BadInput(f"the policy was trained under wrappers, which import modules: say --wrapper {names}, or none")
    return env if flags.env is None else flags.env, () if flags.wrapper == ("None",) else flags.wrapper


def _check_display() -> None:
    """Windows need a screen; without one, pygame and MuJoCo's viewer fail in ways that say nothing."""
    from jaxrl.envs.video import has_screen

    if not has_screen():
        raise BadInput("--render needs a screen and there is none; evaluate.py --video DIR makes a film instead")


def _run(command: Callable[[], None]) -> int:
    prepare_jax()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)  # Until the run is under way and has something to save.
    try:
        with current_folder_first():
            command()
    except BadInput as error:
        return _complain(error)
    except (EnvironmentLost, NotSaved, OSError) as error:  # The last: a log, on a disk that is full.
        _complain(error)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


@contextlib.contextmanager
def current_folder_first() -> Iterator[None]:
    """Modules that the user names are looked for in the current folder first, as under `python -m`. Processes that are
    spawned inherit that: so where another copy of this package stands there, the folder is looked in last."""
    try:
        here, own = Path.cwd(), Path(__file__).resolve().parents[1]
    except OSError:  # It has been removed.
        here = None
    if here is None or sys.flags.safe_path:
        yield
        return
    copy = here / own.name
    is_other = copy.is_dir() and copy.resolve() != own
    before = list(sys.path)
    sys.path.insert(len(sys.path) if is_other else 0, str(here))
    try:
        yield
    finally:
        sys.path[:] = before


@contextlib.contextmanager
def _no_exit_of_others() -> Iterator[None]:
    """Code of the user's that calls `sys.exit` has failed, whatever the code that it gives: with 0 it would look as if
    all had gone well. Our own exits are those of a signal, once the run is saved."""
    from jaxrl.envs.processes import STOPS

    try:
        yield
    except SystemExit as end:
        if end.code in [128 + kind for kind in STOPS]:
            raise
        place = traceback.extract_tb(end.__traceback__)[-1]
        raise EnvironmentLost(
            f"code that the command imports called sys.exit({end.code!r}) ({Path(place.filename).name}:{place.lineno})"
        ) from end


def _import_jax() -> None:
    """JAX reads its variables when it is imported, and complains of one that it cannot read in many lines."""
    try:
        import jax  # noqa: F401
    except ValueError as error:
        raise BadInput(f"JAX cannot be imported, a variable of its own is wrong: {error}") from error


def _terminate(kind: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + kind)


def _complain(error: Exception) -> int:
    say(f"jaxrl: {' '.join(str(error).split())}", sys.stderr)
    return 2


def choose_threads(run: "RunConfig") -> None:
    """For several runs at once, one thread for XLA where the machine has two cores and PPO's minibatches are small: the
    environments always have use for the other core, and what a second thread adds is mostly waiting.

    Up to this size XLA gives the same bits with one thread and with two, so a run of many still equals the run alone.
    `NPROC`, if the user has set it, says otherwise.
    """
    from jaxrl.algos.ppo import PPOConfig, num_outputs
    from jaxrl.envs.processes import folder_kept
    from jaxrl.envs.vector import make_envs

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not isinstance(run.agent, PPOConfig) or cores != 2 or "NPROC" in os.environ:
        return
    rows = run.num_envs * run.num_steps / run.agent.num_minibatches
    if rows > FEW_ROWS or rows * max(run.agent.hidden_sizes, default=0) > SMALL_MINIBATCH:
        return
    with folder_kept():  # The run's paths start there.
        one = make_envs(run.env, 1, run.seed, wrapper=run.wrapper)  # The last layer may be the widest.
        one.close()
    if rows * num_outputs(one.action_space) <= SMALL_MINIBATCH:
        os.environ["NPROC"] = "1"


if __name__ == "__main__":
    sys.exit(main())

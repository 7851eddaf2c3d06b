"""The commands: `jaxrl`, and the scripts in experiments/. A mistake is one line, and an exit code.

JAX is imported late, because what suits a machine must be set before it.
"""

import dataclasses
import platform
import signal
import statistics
import sys
import threading
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import jaxrl
from jaxrl.cli import parent
from jaxrl.cli.arguments import gathered, parse, parse_run, with_loggers, with_threads, with_value
from jaxrl.cli.next_steps import next_steps
from jaxrl.cli.startup import (
    check_display,
    current_folder_first,
    import_jax,
    no_exit_of_others,
    no_signal_lost,
    nothing_collected,
    prepare_jax,
)
from jaxrl.errors import BadInput, EnvironmentLost, NotSaved, ProcessLost, TrialsFail
from jaxrl.output import say

if TYPE_CHECKING:
    from jaxrl.runs.config import RunConfig
    from jaxrl.training.train import Result

USAGE = """usage: jaxrl train --algo NAME --env ID [OPTIONS]
       jaxrl evaluate RUN_DIR [OPTIONS]
       jaxrl export RUN_DIR --onnx FILE
       jaxrl study STUDY.toml [OPTIONS]
       jaxrl plot RUN_DIR ... [OPTIONS]
       jaxrl tune --algo NAME --env ID [OPTIONS]
       jaxrl completion bash|zsh
       jaxrl --version
each command lists its options with --help"""
COMPLETION = """usage: jaxrl completion bash|zsh

Prints what completes commands, flags and some of their values. In ~/.bashrc, or ~/.zshrc with zsh:

    eval "$(jaxrl completion bash)\""""


def main(argv: Sequence[str] | None = None) -> int:
    """The command `jaxrl`. Returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in COMMANDS:
        return COMMANDS[argv[0]](argv[1:], f"jaxrl {argv[0]}")
    if not argv or argv[0] in ("-h", "--help"):
        say(USAGE, sys.stdout)
        return 0
    if argv[0] == "--version":
        say(f"jaxrl {jaxrl.__version__}, jax {metadata.version('jax')}, Python {platform.python_version()}", sys.stdout)
        return 0
    return _complain(BadInput(f"there is no command {argv[0]!r}: it must be {' or '.join(COMMANDS)}"))


def _study(argv: Sequence[str], prog: str) -> int:
    from jaxrl.studies.study import main as study

    return study(argv, prog)


def _plot(argv: Sequence[str], prog: str) -> int:
    from jaxrl.studies.plot import main as plot  # Brings matplotlib and SciPy.

    return plot(argv, prog)


def _completion(argv: Sequence[str], prog: str) -> int:
    from jaxrl.cli.completion import completion

    if {"-h", "--help"} & set(argv):
        say(COMPLETION, sys.stdout)
        return 0
    if len(argv) != 1:
        return _complain(BadInput(f"{prog} takes the name of one shell, bash or zsh"))

    def command() -> None:
        say(completion(argv[0], [*COMMANDS], {"study": _study, "plot": _plot, "tune": _tune}), sys.stdout)

    return _run(command)


def train_command(argv: Sequence[str] | None = None, prog: str = "train.py", only_check: bool = False) -> int:
    """Trains as the flags say.

    Args:
      argv: the flags; None for those of this process.
      prog: what its help and its errors call the command.
      only_check: whether to end where training would begin: nothing is written.

    Returns:
      The exit code: 0 done, 1 an environment, a disk or another process failed, 2 bad input, 130 after Ctrl-C; SIGTERM
      raises SystemExit.
    """
    argv = sys.argv[1:] if argv is None else argv
    if parent.needs_parent(argv) and not only_check:
        return parent.run_child(argv, prog)
    return train_here(argv, prog, only_check)


def train_here(argv: Sequence[str], prog: str, only_check: bool = False) -> int:
    """`train_command` in this very process, also where the run is a distributed one."""

    def command() -> None:
        with nothing_collected():
            words, named = with_loggers(with_threads(argv))
            import_jax()
            run = parse_run(words, prog)
            from jaxrl.loggers.named import named_loggers
            from jaxrl.runs.on_device import is_on_device
            from jaxrl.runs.sweep import is_study
            from jaxrl.training.processes import follows
            from jaxrl.training.train import check_run, train, train_many
        if run.render and not is_on_device(run):
            check_display()
        with no_exit_of_others():
            if only_check:
                named_loggers(named)
                check_run(run)
            elif is_study(run):
                results = train_many(run, loggers=lambda one: named_loggers(named, one.resume or one.run_dir))
                _say_next(results)
                _print_results(run, results)
            else:
                result = train(run, loggers=named_loggers(named))
                if not follows(run):
                    _say_next([result])

    return _run(command)


def _say_next(results: "Sequence[Result]") -> None:
    for line in next_steps(results):
        say(line, sys.stdout)


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


def evaluate_command(argv: Sequence[str] | None = None, prog: str = "evaluate.py") -> int:
    """Runs a saved policy as the flags say. Returns the exit code: 0 done, 2 bad input, 130 after Ctrl-C."""

    def command() -> None:
        import_jax()
        from jaxrl.cli.evaluate import run_policy
        from jaxrl.cli.flags import EvaluateFlags, command_flags

        words = gathered(sys.argv[1:] if argv is None else argv)
        flags = parse(command_flags(EvaluateFlags), with_value(words, "--video", ""), prog)
        if flags.video == "":
            flags = dataclasses.replace(flags, video=str(Path(flags.run_dir) / "video"))
        with no_exit_of_others():
            run_policy(flags)

    return _run(command)


def _export(argv: Sequence[str], prog: str) -> int:
    def command() -> None:
        import_jax()
        from jaxrl.cli.export import export
        from jaxrl.cli.flags import ExportFlags, command_flags

        flags = parse(command_flags(ExportFlags), argv, prog)
        with no_exit_of_others():
            export(flags)

    return _run(command)


def _tune(argv: Sequence[str], prog: str) -> int:
    def command() -> None:
        import_jax()
        from jaxrl.cli.tune import tune

        tune(argv, prog)

    return _run(command)


def _run(command: Callable[[], None]) -> int:
    prepare_jax()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)  # Until the run is under way and has something to save.
    try:
        with no_signal_lost(), current_folder_first():
            command()
    except BadInput as error:
        return _complain(error)
    except (
        EnvironmentLost,
        NotSaved,
        ProcessLost,
        TrialsFail,
        OSError,
    ) as error:  # The last: a log, on a disk that is full.
        _complain(error)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _terminate(kind: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + kind)


def _complain(error: Exception) -> int:
    say(f"jaxrl: {' '.join(str(error).split())}", sys.stderr)
    return 2


COMMANDS: dict[str, Callable[[Sequence[str], str], int]] = {
    "train": train_command,
    "evaluate": evaluate_command,
    "export": _export,
    "study": _study,
    "plot": _plot,
    "tune": _tune,
    "completion": _completion,
}

if __name__ == "__main__":
    sys.exit(main())

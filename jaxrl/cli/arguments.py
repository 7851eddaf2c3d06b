"""Flags to settings. A mistake is one line."""

import argparse
import contextlib
import dataclasses
import io
import itertools
import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO, TypeVar, cast

from jaxrl.cli.startup import no_exit_of_others
from jaxrl.cli.values import flag_kinds, no_switch, setting_named, understood, whole
from jaxrl.errors import BadInput
from jaxrl.output import Output
from jaxrl.runs.other_words import ours_for

if TYPE_CHECKING:
    from jaxrl.runs.config import RunConfig

T = TypeVar("T")
MAY_MOVE = "total_steps", "num_devices", "updates_per_call"  # The settings that a resumed run may be given anew.
REPEATABLE = "--sweep", "--wrapper"


def parse_run(argv: Sequence[str], prog: str = "train.py") -> "RunConfig":
    """The settings that the flags of `train` ask for; `--algo` and `--env` choose the defaults of the others.

    Raises:
      BadInput: a flag or a value that cannot be.
      SystemExit: after `--help`.
    """
    from jaxrl.cli.flags import run_of, train_flags
    from jaxrl.runs.algorithms import find
    from jaxrl.runs.config import default_run
    from jaxrl.runs.sweep import load_study

    argv = gathered(argv)
    first, _ = _some_flags(argv, **{"--algo": None, "--env": "CartPole-v1", "--resume": None})
    if first.algo is not None and ":" in first.algo:
        with no_exit_of_others():
            find(first.algo)
    if first.resume is not None and not {"-h", "--help"} & set(argv):
        return _resumed(load_study(first.resume, first.algo), argv)
    default = default_run(first.algo or "ppo", first.env)
    flags = train_flags(default)
    _answer_other_words(argv, {*flag_kinds(type(flags))})
    return run_of(parse(type(flags), argv, prog, flags), default)


def _answer_other_words(argv: Sequence[str], settings: set[str]) -> None:
    """Raises BadInput for a flag of other libraries, with ours."""
    for word in argv:
        name = setting_named(word)
        answer = name and ours_for(name, settings, lambda setting: f"--{setting.replace('_', '-')}")
        if answer:
            raise BadInput(f"{word.partition('=')[0]} is a word of other libraries, {answer}")


def _resumed(run: "RunConfig", argv: Sequence[str]) -> "RunConfig":
    """A resumed run keeps its settings; only its end may move, where nothing is annealed towards it, and where on the
    device it runs."""
    argv = understood(argv, {"distributed": bool})
    named = dict.fromkeys(("--resume", "--env", "--algo", "--networks"))
    parser = _lenient_parser(**named, **dict.fromkeys(f"--{name.replace('_', '-')}" for name in MAY_MOVE))
    parser.add_argument("--wrapper", nargs="*", default=[])
    parser.add_argument("--distributed", action=argparse.BooleanOptionalAction, default=False)
    given, others = _leniently(parser, argv)
    _check_named(run, given.env, tuple(given.wrapper), given.networks)
    if others:
        raise BadInput(f"{others[0]} cannot be given with --resume: the run keeps its settings, all but --total-steps")
    moved = {name: getattr(given, name) for name in MAY_MOVE if getattr(given, name) is not None}
    for name, word in moved.items():
        try:
            is_none = name == "updates_per_call" and word.lower() == "none"
            moved[name] = None if is_none else int(whole(word))
        except ValueError as error:
            raise BadInput(f"--{name.replace('_', '-')} {word} is no whole number") from error
    over_all_steps = run.anneals and getattr(run.loop, "anneal_steps", None) is None
    if moved.get("total_steps", run.total_steps) != run.total_steps and over_all_steps:
        raise BadInput("--total-steps cannot change in a run that anneals over it: only one with --anneal-steps can")
    if given.distributed:
        moved = {"num_devices": 1} | moved | {"distributed": True}
    return dataclasses.replace(run, **moved)


def _check_named(run: "RunConfig", env: str | None, wrapper: tuple[str, ...], networks: str | None) -> None:
    """A name in a file is code to be imported: only whoever gives the command may ask for that."""
    from jaxrl.runs.on_device import is_on_device

    if env is not None and env != run.env:
        raise BadInput(f"--env is {env}, but the run is one on {run.env}: leave it off, or begin a run of its own")
    if networks != run.networks:
        remedy = "leave --networks off" if run.networks is None else f"say --networks {run.networks}, if that is right"
        raise BadInput(f"the run has {run.networks or 'the built-in'} networks: {remedy}")
    imports = not is_on_device(run) and any(isinstance(name, str) and ":" in name for name in (run.env, run.eval_env))
    if (imports and env is None) or wrapper != run.wrapper:
        named = " ".join([f"--env {run.env}", *(["--wrapper"] if run.wrapper else []), *map(str, run.wrapper)])
        raise BadInput(f"the run's environment imports modules of yours: say {named} too, if that is right")


def with_threads(argv: Sequence[str]) -> list[str]:
    """Takes `--num-threads` out of the flags, and has XLA use so many threads: it reads that when JAX first computes.
    Where the variable is set already, it stays."""
    if {"-h", "--help"} & set(argv):
        return list(argv)
    given, others = _some_flags(argv, **{"--num-threads": None})
    number = given.num_threads
    if number is not None and number.lower() != "none":
        if not number.isdecimal() or int(number) < 1:
            raise BadInput(f"--num-threads is {number}: it must be a whole number from 1 on, or none for all cores")
        os.environ.setdefault("NPROC", number)
    return others


def with_loggers(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Takes `--logger` out of the flags, and gives the names that it has: no setting of a run, but of this command."""
    if {"-h", "--help"} & set(argv):
        return list(argv), []
    parser = _lenient_parser()
    parser.add_argument("--logger", nargs="*", action="extend", default=[])
    given, others = _leniently(parser, argv)
    return others, [name for name in given.logger if name.lower() != "none"]


def with_value(argv: Sequence[str], flag: str, value: str) -> list[str]:
    """The words with a value for a flag that stands without one: last, or before another flag."""
    words = list(argv)
    for at in [at for at, word in enumerate(words) if word == flag]:
        if at + 1 == len(words) or words[at + 1].startswith("--"):
            words[at] = f"{flag}={value}"
    return words


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


def parse(kind: type[T], argv: Sequence[str], prog: str, default: Any = None) -> T:
    """Tyro's parser, with values as people write them, its boxed complaints turned into one line."""
    import tyro

    words = understood(argv, flag_kinds(kind))
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
        unknown = texts[0].removeprefix("Unrecognized options: ").split()[0]
        for switch, word in itertools.pairwise(words):  # A switch may stand before a folder too.
            if word == unknown and flag_kinds(kind).get(setting_named(switch) or "") is bool:
                raise BadInput(no_switch(switch, word)) from None
        raise BadInput(f"{texts[0].rstrip('.')}{hint}; see {prog} --help") from None


def gathered(argv: Sequence[str]) -> list[str]:
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

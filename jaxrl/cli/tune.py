"""Searches for good settings of an algorithm on a task.

    jaxrl tune --env CartPole-v1 --trials 20 --cores 2
    jaxrl tune --algo sac --env Pendulum-v1 --total-steps 20k --space space.toml --folder runs/tune/mine

Beside the flags below it takes those of `jaxrl train`. They hold for every trial, and are where the search starts: the
first trial has the settings that they give, as far as the space holds them; the later ones have other values of those
that are searched. Each algorithm has a space of its own; a file with `--space` says another, in a table [space] of
NAME = {low = ..., high = ..., log = true} and NAME = {choices = [...]}. A trial is a run, and its value is the mean
return of its last evaluation. One that is below the median of the others at the same step is pruned. The same command
goes on where a search was stopped or killed.

At the end stand the best settings as a command, and as a study file that judges them, beside the start, on other seeds.
"""

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxrl.cli.arguments import parse_run
from jaxrl.cli.values import setting_named, whole
from jaxrl.errors import BadInput
from jaxrl.output import say
from jaxrl.runs.algorithms import settings_of
from jaxrl.studies.on_ray import Cluster
from jaxrl.studies.script import Mistake, Parser
from jaxrl.studies.study import alone
from jaxrl.studies.study_file import OWN
from jaxrl.studies.tune import Search, Start, check_start, load_optuna, run_search, start_process, write_best
from jaxrl.studies.tune_space import load_space

JUDGES = 5  # Seeds that the found settings are judged on.


def tune(argv: Sequence[str], prog: str) -> None:
    """The command `jaxrl tune`; BadInput where it cannot."""
    parser = Parser(description=__doc__, prog=prog, allow_abbrev=False)
    parser.add_argument("--trials", type=_number, default=20, help="how many, those of an earlier start included (20)")
    parser.add_argument("--cores", type=_number, help="how many trials run at a time; as many as cores, unless given")
    parser.add_argument(
        "--space", type=Path, metavar="FILE.toml", help="what is searched; by default the algorithm's own"
    )
    parser.add_argument("--seed", type=_number, default=0, help="of every trial and of the search (0)")
    parser.add_argument("--sampler", choices=("tpe", "random"), default="tpe", help="how values are proposed (tpe)")
    parser.add_argument("--ray", metavar="ADDRESS", help="run trials on the Ray cluster there, a core for each")
    parser.add_argument("--folder", type=Path, help="of the search; by default runs/tune/ALGO-ENV")
    given, flags = parser.parse_known_args(argv)
    try:
        search = _search(given, flags, prog)
        seeds = range(search.seed + 1, search.seed + 1 + JUDGES)
        load_optuna()
        if not search.database.exists():  # Else every trial would fail by the same mistake.
            check_start(search)
        with alone(search.folder), contextlib.ExitStack() as opened:
            start: Start = start_process
            if given.ray is not None:
                cluster = opened.enter_context(Cluster(given.ray, search.folder / "lock"))
                search = search._replace(at_once=given.cores or cluster.num_cores)
                start = cluster.start
            found = run_search(search, start)
            path, command = write_best(search, found, seeds)
    except Mistake as error:
        raise BadInput(str(error)) from error
    say(
        f"best of {len(found.trials)} trials: {found.best_value:,.1f}, {found.best_trial.user_attrs['named']}",
        sys.stdout,
    )
    say(shlex.join(command), sys.stdout)
    judged = f"seeds {seeds[0]} to {seeds[-1]} judge it beside the start: jaxrl study {path}"
    say(f"found on seed {search.seed} alone; {judged}", sys.stdout)


def _number(word: str) -> int:
    """A whole number as people write it: 20, 1e3, 100k."""
    try:
        return int(whole(word))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{word} is no whole number") from error


def _search(given: argparse.Namespace, flags: Sequence[str], prog: str) -> Search:
    """The search that the flags ask for, checked."""
    for name in ("trials", "cores"):
        number = getattr(given, name)
        if number is not None and number < 1:
            raise BadInput(f"--{name} is {number}: it must be at least 1")
    if not 0 <= given.seed < 2**32:
        raise BadInput(f"--seed is {given.seed}: that of a search must be from 0 to {2**32 - 1:,}")
    for word in flags:
        if word.split("=")[0] in OWN and word.split("=")[0] != "--env":
            raise BadInput(f"{word} is not for a search, which gives it to each trial: leave it off")
    run = parse_run([*flags, "--seed", str(given.seed)], prog)
    if run.eval_every is None:
        raise BadInput("--eval-every none leaves a search nothing to judge by: leave it off")
    loop, agent = settings_of(run.row)
    space = load_space(given.space, run.row.name, loop | agent)
    start = {name: run.setting(name) for name, axis in space.items() if axis.holds(run.setting(name))}
    folder = given.folder or Path("runs/tune") / f"{run.row.name}-{run.env_name.replace('/', '-').replace(':', '-')}"
    folder = folder if given.ray is None else folder.resolve()  # A node has a working folder of its own.
    if any(path.exists() and not path.is_dir() for path in (folder, *folder.parents)):
        raise BadInput(f"--folder {folder} cannot be made: a file is in its place")
    groups = _groups(flags)
    fixed = tuple(word for name, words in groups if name not in {*space, "env"} for word in words)
    moved = tuple(word for name, words in groups if name in space for word in words)
    at_once = given.cores or os.cpu_count() or 1
    return Search(
        run.algo, str(run.env), fixed, moved, start, space, given.seed, given.trials, at_once, folder, given.sampler
    )


def _groups(flags: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Each flag with its values, and the name of its setting."""
    groups: list[tuple[str, list[str]]] = []
    for word in flags:
        name = setting_named(word)
        if name is not None:
            groups.append((name, []))
        groups[-1][1].append(word)
    return groups

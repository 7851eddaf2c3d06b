"""Runs a whole study, tasks x variants x seeds, several runs at once, and ends with a table and figures.

    jaxrl study experiments/studies/cartpole.toml --cores 2

A run that is done is skipped, and one that was stopped or killed goes on from its last checkpoint: give the same
command again.
With `--nice` the runs take what others leave over. They pause while there is a file `pause` in the study's folder of
runs, or from SIGUSR1 to SIGUSR2, and the study says what is left and when it will be done.

The file says what to run, in flags of `jaxrl train`:

    name = "cartpole"                      # its runs go to runs/studies/cartpole/TASK/VARIANT/seed-K
    results = "experiments/results/cartpole"   # .csv with every evaluation, .json with where it comes from
    figure = "plots/cartpole"
    seeds = [0, 1, 2]
    flags = "--total-steps 100000"         # of every run
    shown = ["clip 0.2"]                   # variants in the figure; all, unless given
    cores = 1                              # of a run; so many fit into --cores, and Ray is asked for them
    gpus = 0                               # of a run, asked of Ray; may be a fraction

    [tasks]
    "CartPole-v1" = ""                     # flags of this task's runs

    [variants]
    "clip 0.2" = "--algo ppo"
    "adaptive KL 0.01" = "--algo ppo_kl --kl-target 0.01"
"""

import contextlib
import csv
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxrl.studies import on_machine, on_ray, tables
from jaxrl.studies.script import Mistake, Parser, columns, numbers
from jaxrl.studies.study_file import check, load, parts_of
from jaxrl.studies.study_run import JAXRL, Part
from jaxrl.studies.yielding import Yielding

ORIGIN = "commit", "machine", "versions", "device"  # Of a run, in its config.json.
COLUMNS = "env", "variant", "seed", "step", "mean_return", "std_return", "episodes"


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Holds a study's runs for this process; the lock goes when it does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
    except BlockingIOError as error:
        raise Mistake(f"{folder} is in use: another process runs the study") from error


def collect(parts: Sequence[Part], so_far: bool = False) -> list[dict[str, Any]]:
    """Every evaluation of the runs that are done, or so far also of those that are not."""
    rows: list[dict[str, Any]] = []
    for part in parts:
        path = part.folder / "evaluations.csv"
        if part.done or (so_far and path.exists()):
            own, found = {"env": part.task, "variant": part.variant, "seed": part.seed}, columns(path, COLUMNS[3:])
            exact = {name: [f"{number:.6g}" for number in numbers(path, found, name)] for name in COLUMNS[4:6]}
            rows += [
                own | {name: row[name] for name in COLUMNS[3:]} | {name: column[at] for name, column in exact.items()}
                for at, row in enumerate(found)
            ]
    order = {(part.task, part.variant): at for at, part in enumerate(parts[::-1])}
    return sorted(rows, key=lambda row: (-order[row["env"], row["variant"]], row["seed"], int(row["step"])))


def origins(parts: Sequence[Part], rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Where the evaluations that `collect` took come from: each commit, machine and set of versions once, and how many
    runs are of it."""
    taken = {(row["env"], row["variant"], row["seed"]) for row in rows}
    found: Counter[str] = Counter()
    for part in [part for part in parts if (part.task, part.variant, part.seed) in taken]:
        with contextlib.suppress(OSError, ValueError):  # Its folder is damaged.
            about = json.loads((part.folder / "config.json").read_text())
            found[json.dumps({name: about.get(name) for name in ORIGIN})] += 1
    return [{"runs": count} | json.loads(origin) for origin, count in found.items()]


def write(rows: Sequence[dict[str, Any]], study: dict[str, Any], origins: Sequence[dict[str, Any]]) -> None:
    """The results as a table, and beside it what they come from."""
    results = Path(study["results"])
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.with_name(results.name + ".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    about = {name: study[name] for name in ("name", "flags", "tasks", "variants", "seeds")} | {"origins": origins}
    results.with_name(results.name + ".json").write_text(json.dumps(about, indent=1) + "\n")


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """The command `jaxrl study`. Returns the exit code: 0 done, 2 bad input or a run that failed, 130 after Ctrl-C."""
    try:
        return _main(argv, prog)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130


def _main(argv: Sequence[str] | None, prog: str | None) -> int:
    parser = Parser(description=__doc__, prog=prog)
    parser.add_argument("study", type=Path, metavar="STUDY.toml")
    parser.add_argument("--cores", type=int, help="how many cores the runs may take together; all, unless given")
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"), help="folder of the studies' runs")
    parser.add_argument("--ray", metavar="ADDRESS", help="run them on the Ray cluster at this address instead of here")
    parser.add_argument("--nice", action="store_true", help="yield to other work: see above")
    parser.add_argument("--so-far", action="store_true", help="run nothing: table and figure of what there is")
    given = parser.parse_args(argv)
    wrong: list[Mistake] = []
    try:
        _check_flags(given.cores, given.ray, given.so_far, given.nice)
        study = load(given.study)
        parts = parts_of(study, given.runs.resolve())
        check(parts)
        if not given.so_far:
            cores = given.cores or os.cpu_count() or 1
            if given.ray is None and given.cores is not None and cores < study["cores"]:
                raise Mistake(f"--cores is {cores}, but a run of this study takes {study['cores']:g}")
            for kind in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(kind) is not signal.SIG_IGN:  # Under nohup it is not to be heard.
                    signal.signal(kind, signal.default_int_handler)
            with alone(folder := given.runs.resolve() / study["name"]):
                waiting = [part for part in parts if not part.done]
                print(f"{len(parts)} runs, {len(parts) - len(waiting)} done", flush=True)
                if given.ray is not None:
                    wrong = on_ray.run_all(waiting, folder / "lock", given.ray, study["cores"], study["gpus"])
                else:
                    yielding = Yielding(folder, waiting) if given.nice else None
                    wrong = on_machine.run_all(waiting, max(1, int(cores / study["cores"])), yielding)
        rows = collect(parts, given.so_far)
        if rows:
            write(rows, study, origins(parts, rows))
        elif not wrong:
            raise Mistake("none of its runs has been evaluated yet")
    except Mistake as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"{error.filename} cannot be used: {error.strerror}")
    code = _show(study, {row["variant"] for row in rows}) if rows else 0
    if wrong:
        others = f"; {len(wrong) - 1} more runs failed" if len(wrong) > 1 else ""
        parser.error(f"{wrong[0]}{others}")
    return code


def _check_flags(cores: int | None, ray: str | None, so_far: bool, nice: bool) -> None:
    if cores is not None and cores < 1:
        raise Mistake(f"--cores is {cores}: it must be at least 1")
    if ray is not None and cores is not None:
        raise Mistake("--cores is for this machine and --ray for others: give one of the two")
    if so_far and (ray is not None or cores is not None):
        raise Mistake("--so-far runs nothing: leave --cores and --ray off")
    if nice and (ray is not None or so_far):
        raise Mistake("--nice is for runs on this machine: leave --ray and --so-far off")


def _show(study: dict[str, Any], variants: set[str]) -> int:
    """Prints where the runs end, and draws them."""
    print(tables.ends(Path(f"{study['results']}.csv")), end="", flush=True)
    plot = [*JAXRL, "plot", f"{study['results']}.csv", "--out", study["figure"]]
    shown = [variant for variant in study["shown"] if variant in variants]
    return subprocess.run([*plot, *(["--only", *shown] if shown else [])], check=False).returncode

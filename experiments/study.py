"""Runs a whole study, tasks x variants x seeds, several runs at once, and ends with a table and figures.

    python experiments/study.py experiments/studies/cartpole.toml --cores 2

What is done is skipped, and what was stopped or killed goes on from its last checkpoint: give the same command again.
The file says what to run, in flags of train.py:

    name = "cartpole"                      # its runs go to runs/studies/cartpole/TASK/VARIANT/seed-K
    results = "experiments/results/cartpole"   # .csv with every evaluation, .json with versions and machine
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
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import on_ray
import tables
from benchmark import machine
from parser import Parser
from parts import Mistake, Part

HERE = Path(__file__).resolve().parent
COLUMNS = "env", "variant", "seed", "step", "mean_return", "std_return", "episodes"
KINDS = {"name": str, "results": str, "figure": str, "seeds": list, "flags": str, "tasks": dict, "variants": dict}
KINDS |= {"shown": list}
NEEDS = {"cores": 1, "gpus": 0}  # What a run takes, unless the file says.
OWN = "--env", "--seed", "--num-seeds", "--sweep", "--run-dir", "--resume"
POLL_SECONDS = 0.2


def load(path: Path) -> dict[str, Any]:
    """A study's file, checked."""
    try:
        study = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Mistake(f"{path} cannot be read: {error}") from error
    if odd := study.keys() - KINDS.keys() - NEEDS.keys():
        raise Mistake(f"{path} has {min(odd)!r}: it may have {', '.join([*KINDS, *NEEDS])}")
    for name, kind in KINDS.items():
        if not isinstance(study.setdefault(name, kind()), kind):
            raise Mistake(f"{path}: {name} is {study[name]!r}, it must be a {kind.__name__}")
        if name not in ("flags", "results", "figure", "shown") and not study[name]:
            raise Mistake(f"{path} says no {name}")
    for name, least in NEEDS.items():
        amount = study.setdefault(name, least)
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not least <= amount < math.inf:
            raise Mistake(f"{path}: {name} is {amount!r}, it must be a number, at least {least}")
    if not all(isinstance(seed, int) and seed >= 0 for seed in study["seeds"]):
        raise Mistake(f"{path}: seeds are {study['seeds']}, they must be whole numbers from 0 on")
    if not all(isinstance(flags, str) for flags in [*study["tasks"].values(), *study["variants"].values()]):
        raise Mistake(f"{path}: tasks and variants must each be a name = 'flags'")
    for name in study["shown"]:
        if name not in study["variants"]:
            raise Mistake(f"{path}: shown has {name!r}, which is no variant")
    study["results"] = study["results"] or f"runs/studies/{study['name']}/results"
    study["figure"] = study["figure"] or f"runs/studies/{study['name']}/returns"
    return study


def parts_of(study: dict[str, Any], runs: Path) -> list[Part]:
    """Its runs, the seeds of a variant apart, so that a study that is stopped early has some of everything."""
    found = []
    for seed in study["seeds"]:
        for task, own in study["tasks"].items():
            for variant, flags in study["variants"].items():
                words = _words(study["flags"], own, flags)
                folder = runs / study["name"] / task / re.sub(r"[^\w.-]+", "-", variant) / f"seed-{seed}"
                found.append(Part(task, variant, seed, words, folder))
    return found


def _words(*flags: str) -> tuple[str, ...]:
    try:
        words = tuple(word for each in flags for word in shlex.split(each))
    except ValueError as error:
        raise Mistake(f"the flags {flags} cannot be read: {error}") from error
    for word in words:
        if word.split("=")[0] in OWN:
            raise Mistake(f"{word} is the study's own to give: leave it out of the flags")
    return words


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


def check(parts: Sequence[Part]) -> None:
    """Refuses parts that would share a folder, and those that have been begun with other flags."""
    seen: dict[Path, Part] = {}
    for part in parts:
        other = seen.setdefault(part.folder, part)
        if other is not part:
            raise Mistake(
                f"{other.variant!r} and {part.variant!r}, seed {part.seed}, have one folder: rename one of them"
            )
        flags, now = part.beside("flags"), shlex.join(part.flags)
        if flags.exists() and (part.done or part.saved) and flags.read_text() != now:
            raise Mistake(
                f"{part.folder} was begun with {flags.read_text()}, not {now}: remove it, or rename the variant"
            )


def run_all(waiting: Sequence[Part], at_once: int) -> None:
    """Runs what waits, so many at once. When it is interrupted, its runs save what they have."""
    queue, going = list(waiting), dict[subprocess.Popen[bytes], Part]()
    try:
        while queue or going:
            while queue and len(going) < at_once:
                part = queue.pop(0)
                going[_start(part)] = part
            for process, part in list(going.items()):
                if process.poll() is not None:
                    del going[process]
                    part.end(process.returncode)
            time.sleep(POLL_SECONDS)
    finally:
        for process in going:
            process.send_signal(signal.SIGTERM)
        for process in going:
            process.wait()


def _start(part: Part) -> subprocess.Popen[bytes]:
    try:
        command = [sys.executable, str(HERE / "train.py"), *part.begin()]
    except BlockingIOError as error:
        raise Mistake(f"{part.folder} is in use: a run of an earlier start of the study still trains there") from error
    with part.beside("log").open("ab") as log:
        # A group of its own: Ctrl-C reaches it through us, once.
        return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, process_group=0)


def collect(parts: Sequence[Part], so_far: bool = False) -> list[dict[str, Any]]:
    """Every evaluation of the runs that are done, or so far also of those that are not."""
    rows: list[dict[str, Any]] = []
    for part in parts:
        if part.done or (so_far and (part.folder / "evaluations.csv").exists()):
            with (part.folder / "evaluations.csv").open() as file:
                own = {"env": part.task, "variant": part.variant, "seed": part.seed}
                rows += [own | {name: row[name] for name in COLUMNS[3:]} for row in csv.DictReader(file)]
    order = {(part.task, part.variant): at for at, part in enumerate(parts[::-1])}
    return sorted(rows, key=lambda row: (-order[row["env"], row["variant"]], row["seed"], int(row["step"])))


def write(rows: Sequence[dict[str, Any]], study: dict[str, Any]) -> None:
    """The results as a table, and beside it what they come from."""
    results = Path(study["results"])
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.with_name(results.name + ".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            row | {name: f"{float(row[name]):.6g}" for name in ("mean_return", "std_return")} for row in rows
        )
    about = {name: study[name] for name in ("name", "flags", "tasks", "variants", "seeds")} | {"machine": machine()}
    results.with_name(results.name + ".json").write_text(json.dumps(about, indent=1) + "\n")


def main() -> int:
    """Reads the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("study", type=Path, metavar="STUDY.toml")
    parser.add_argument("--cores", type=int, help="how many cores the runs may take together; all, unless given")
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"), help="folder of the studies' runs")
    parser.add_argument("--ray", metavar="ADDRESS", help="run them on the Ray cluster at this address instead of here")
    parser.add_argument("--so-far", action="store_true", help="run nothing: table and figure of what there is")
    given = parser.parse_args()
    try:
        if given.cores is not None and given.cores < 1:
            raise Mistake(f"--cores is {given.cores}: it must be at least 1")
        if given.ray is not None and given.cores is not None:
            raise Mistake("--cores is for this machine and --ray for others: give one of the two")
        study = load(given.study)
        parts = parts_of(study, given.runs.resolve())
        check(parts)
        if not given.so_far:
            for kind in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(kind, signal.default_int_handler)
            with alone(given.runs / study["name"]):
                waiting = [part for part in parts if not part.done]
                print(f"{len(parts)} runs, {len(parts) - len(waiting)} done", flush=True)
                if given.ray is not None:
                    on_ray.run_all(waiting, given.ray, study["cores"], study["gpus"])
                else:
                    cores = given.cores or os.cpu_count() or 1
                    run_all(waiting, max(1, int(cores / study["cores"])))
        if not (rows := collect(parts, given.so_far)):
            raise Mistake("none of its runs has been evaluated yet")
        write(rows, study)
    except Mistake as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"{error.filename} cannot be used: {error.strerror}")
    print(tables.ends(Path(f"{study['results']}.csv")), end="")
    plot = [sys.executable, str(HERE / "plot.py"), f"{study['results']}.csv", "--out", study["figure"]]
    plot += ["--only", *study["shown"]] if study["shown"] else []
    return subprocess.run(plot, check=False).returncode


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)

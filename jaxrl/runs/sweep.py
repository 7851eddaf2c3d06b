"""Several runs as one study: the runs that `num_seeds` and `sweep` stand for, their folders, and the table of what came
of them."""

import contextlib
import csv
import dataclasses
import io
import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

from jaxrl.algos.algorithm import Algorithm
from jaxrl.errors import BadInput
from jaxrl.loggers.logger import Evaluation
from jaxrl.runs.config import RunConfig
from jaxrl.runs.folder import claim_next_folder
from jaxrl.runs.record import load_run, run_to_json
from jaxrl.storage.files import write_atomically


def is_study(run: RunConfig) -> bool:
    """True if `run` stands for several."""
    return run.num_seeds > 1 or bool(run.sweep)


def runs_of(run: RunConfig, here: Path = Path()) -> tuple[Path, list[RunConfig]]:
    """The folder of the study that `run` stands for, and its runs, each with a folder in there. A study without a
    `run_dir` gets a new folder.

    Args:
      run: the settings.
      here: the folder that relative paths start from.

    Returns:
      The study's folder, relative to `here` where it is there, and the runs.

    Raises:
      BadInput: a sweep that cannot be; the folder has something in it already, or to resume from, not the runs of one
        study.
    """
    if run.resume is not None:
        return Path(run.resume), _to_resume(Path(run.resume), run.total_steps)
    names, settings = _grid(run)
    seeds = range(run.seed, run.seed + run.num_seeds)
    group, runs = _free_folder(run, names, here), []
    for numbers, seed in itertools.product(settings, seeds):
        parts = [f"{name}={number!r}" for name, number in numbers.items()]
        folder = group.joinpath(*parts, *([f"seed-{seed}"] if run.num_seeds > 1 else []))
        one = dataclasses.replace(run, seed=seed, num_seeds=1, sweep=(), run_dir=str(folder))
        runs.append(one.with_settings(**numbers))
    return group, runs


@contextlib.contextmanager
def claimed(run: RunConfig, here: Path) -> Iterator[tuple[Path, list[RunConfig]]]:
    """`runs_of`, for the time of training them. A study that is refused before it has begun leaves no new folder."""
    had_folders = (here / "runs").exists()
    group, runs = runs_of(run, here)
    try:
        yield group, runs
    except BaseException:
        if run.run_dir is None and run.resume is None:
            with contextlib.suppress(OSError):  # Where there is something in it, it stays.
                (here / group).rmdir()
                if not had_folders:
                    (here / "runs").rmdir()
        raise


def load_study(folder: str | Path, algorithm: Algorithm | str | None = None) -> RunConfig:
    """The settings of the run in `folder`, or of the study there, set to resume it; BadInput where there is neither."""
    if (Path(folder) / "config.json").exists() or not (members := _members(Path(folder))):
        return load_run(folder, algorithm)
    seeds = {parts["seed"] for parts in members.values() if "seed" in parts}
    values: dict[str, list[str]] = {}
    for parts in members.values():
        for name in parts.keys() - {"seed"}:
            values.setdefault(name, []).append(parts[name])
    sweep = tuple(f"{name}={','.join(dict.fromkeys(found))}" for name, found in values.items())
    first, *others = [load_run(member, algorithm) for member in members]
    if not others and not sweep:
        return first
    total_steps = max(run.total_steps for run in (first, *others))  # One of them may have been taken further.
    count = max(1, len(seeds))
    return dataclasses.replace(first, num_seeds=count, sweep=sweep, total_steps=total_steps, resume=str(folder))


def sweepable(run: RunConfig) -> list[str]:
    """The settings of `run` that can be swept: the numbers that change nothing of the compiled program."""
    return sorted(_numbers_of(run.agent, True) + _numbers_of(run.loop, False))


def _numbers_of(settings: Any, unless_said: bool) -> list[str]:
    """The fields that can be swept: those that say so, or in a pytree those that are leaves. The others are static."""
    return [
        field.name
        for field in dataclasses.fields(settings)
        if field.metadata.get("flag", True)
        and field.metadata.get("sweepable", field.metadata.get("pytree_node", unless_said))
        and _is_number(get_type_hints(type(settings))[field.name])
    ]


def _is_number(kind: Any) -> bool:
    return kind is float or float in get_args(kind)


def setting_of(study: RunConfig, run: RunConfig) -> dict[str, float]:
    """The value that `run` has for each of the settings that are swept in `study`."""
    names = dict.fromkeys(_name_of(text) for text in study.sweep)
    return {name: run.setting(name) for name in names}


def _name_of(sweep: str) -> str:
    return sweep.partition("=")[0].replace("-", "_")


def _grid(run: RunConfig) -> tuple[list[str], list[dict[str, float]]]:
    """The names that are swept, and the numbers of each combination of their values."""
    axes: dict[str, list[float]] = {}
    for text in run.sweep:
        name, values = _name_of(text), text.partition("=")[2]
        if name not in sweepable(run):
            raise BadInput(
                f"sweep of {name!r}: {run.row.name} can sweep {', '.join(sweepable(run))}; whatever shapes the program "
                "needs runs of its own"
            )
        axes[name] = axes.get(name, []) + [_number(name, value) for value in values.split(",")]
        if len(set(axes[name])) < len(axes[name]):
            raise BadInput(f"sweep of {name}: a value is given twice in {text!r}")
    settings = [dict(zip(axes, numbers, strict=True)) for numbers in itertools.product(*axes.values())]
    most = RunConfig.RANGES["num_seeds"][1]
    if len(settings) * run.num_seeds > most:
        count = f"{len(settings)} settings x {run.num_seeds} seeds"
        raise BadInput(f"sweep has {count}: it must be at most {most:,} runs")
    return list(axes), settings


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BadInput(f"sweep of {name}: {text!r} is no finite number; write --sweep {name}=0.1,0.2")
    return number


def _free_folder(run: RunConfig, names: Sequence[str], here: Path) -> Path:
    """The folder for all, which their own will be made in."""
    if run.run_dir is not None:
        if Path(run.run_dir).is_dir() and any(Path(run.run_dir).iterdir()):
            raise BadInput(f"run_dir {run.run_dir} is not empty: name a new folder, or continue its runs with resume")
        return Path(run.run_dir)
    seeds = f"seed{run.seed}" if run.num_seeds == 1 else f"seeds{run.seed}-{run.seed + run.num_seeds - 1}"
    return claim_next_folder("-".join([run.row.name, run.env_name, seeds, *names]), here)


def _members(group: Path) -> dict[Path, dict[str, str]]:
    """The folders of the runs in a study's, and what their paths say of each: `gamma=0.9/seed-3`."""
    found: dict[Path, dict[str, str]] = {}
    for folder, name, value in sorted(_parts(group), key=lambda part: (part[1], float(part[2]))):
        deeper = {folder: {}} if (folder / "config.json").exists() else _members(folder)
        found |= {member: {name: value} | parts for member, parts in deeper.items()}
    return found


def _parts(group: Path) -> Iterator[tuple[Path, str, str]]:
    for folder in group.iterdir() if group.is_dir() else ():
        part = re.fullmatch(r"(seed)-(\d+)|([a-z_]+)=([-+.\de]+)", folder.name)
        if part and folder.is_dir():
            name, value = (text for text in part.groups() if text is not None)
            try:
                float(value)
            except ValueError:
                continue
            yield folder, name, value


def _to_resume(group: Path, total_steps: int) -> list[RunConfig]:
    members = _members(group)
    runs = [dataclasses.replace(load_run(folder), total_steps=total_steps) for folder in members]
    varied = {"resume", "run_dir"}.union(*members.values())
    if len({json.dumps(_but_for(run_to_json(run), varied)) for run in runs}) != 1:
        raise BadInput(f"the runs in {group} differ in more than their folders' names say: resume each by itself")
    return runs


def _but_for(record: dict[str, Any], names: set[str]) -> dict[str, Any]:
    agent = {name: value for name, value in record["agent"].items() if name not in names}
    return {name: value for name, value in record.items() if name not in names} | {"agent": agent}


def write_results(group: Path, run: RunConfig, results: Sequence[tuple[RunConfig, Sequence[Evaluation]]]) -> None:
    """Writes `results.csv` into the folder of a study.

    Args:
      group: the folder.
      run: the study.
      results: of each of its runs the settings and the evaluations; the last of these makes its row. Where evaluation
        is off, a row has the settings alone.
    """
    rows: list[dict[str, Any]] = []
    for one, evaluations in results:
        if run.eval_every is None:
            rows.append({**setting_of(run, one), "seed": one.seed})
        for last in evaluations[-1:]:
            numbers = {name: value for name, value in last._asdict().items() if name != "wall_time"}
            rows.append(setting_of(run, one) | {"seed": one.seed} | numbers)
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, rows[0] if rows else ["seed"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(group / "results.csv", lambda file: file.write(table.getvalue().encode()))

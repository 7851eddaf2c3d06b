"""Where curves come from: run folders, and tables of evaluations."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrl.studies.script import Mistake, NothingYet, columns, numbers

# Of a run's settings those that make no other variant of it.
NO_VARIANT = {"algo", "env", "seed", "agent", "num_seeds", "sweep", "run_dir", "resume", "render", "env_timeout"}
NO_VARIANT |= {"total_steps", "log_every", "checkpoint_every", "eval_every", "eval_episodes", "stop_return"}
NO_VARIANT |= {"eval_max_steps", "eval_backend"}


class Curve(NamedTuple):
    """One seed's evaluations: of a task, by an algorithm with settings."""

    env: str
    algo: str
    settings: dict[str, Any]
    seed: str
    steps: np.ndarray
    returns: np.ndarray


def read(source: Path) -> list[Curve]:
    """The curves in a run's folder, in a folder of such, or in a table."""
    if source.is_dir():
        found = sorted(path.parent for path in source.rglob("evaluations.csv"))
        if not found:
            raise NothingYet(f"{source} holds no run: there is no evaluations.csv in it")
        return [_of_run(folder) for folder in found]
    rows = columns(source, ("step", "mean_return"))
    if not rows:
        return []  # None of its runs has been evaluated yet.
    if {"env", "variant", "seed"} <= rows[0].keys():
        return _of_study(source, rows)
    name = re.fullmatch(r"(.+)-seed(\d+)", source.stem)
    if name is None:
        raise Mistake(f"{source} says neither by columns nor by its name what it is of: name it ENV-seedK.csv")
    steps, returns = (numbers(source, rows, column) for column in ("step", "mean_return"))
    return [Curve(name[1], source.parent.name, {}, name[2], steps, returns)]


def _of_run(folder: Path) -> Curve:
    rows = columns(folder / "evaluations.csv", ("step", "mean_return"))
    try:
        run = json.loads((folder / "config.json").read_text())["run"]
        algo, env, seed = str(run["algo"]), str(run["env"]), str(run["seed"])
        settings = run | run["agent"]
        anneals = any(settings.get(name) for name in ("anneal_learning_rate", "anneal_clip"))
        hidden = NO_VARIANT - ({"total_steps"} if anneals and settings.get("anneal_steps") is None else set())
        settings = {name: value for name, value in settings.items() if name not in hidden}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Mistake(f"{folder / 'config.json'} cannot be read: {error}") from error
    steps, returns = (numbers(folder / "evaluations.csv", rows, name) for name in ("step", "mean_return"))
    return Curve(env, algo, settings, seed, steps, returns)


def _of_study(path: Path, rows: Sequence[dict[str, str]]) -> list[Curve]:
    parts = defaultdict(list)
    for row in rows:
        parts[row["env"], row["variant"], row["seed"]].append(row)
    return [
        Curve(env, variant, {}, seed, numbers(path, each, "step"), numbers(path, each, "mean_return"))
        for (env, variant, seed), each in parts.items()
    ]


def references(path: Path, envs: Iterable[str]) -> dict[str, list[tuple[str, np.ndarray, np.ndarray]]]:
    """Of each task that is drawn the reference's curves: a name, steps and returns."""
    rows, found = columns(path, ("task", "step", "mean_return")), defaultdict(list)
    tasks = {re.sub(r"-v\d+$", "", env): env for env in envs}
    parts: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        if row["task"] in tasks:
            name = " ".join(filter(None, (row.get("source"), row.get("variant"), row.get("env_version"))))
            parts[tasks[row["task"]], name or path.stem].append(row)
    if not parts:
        raise Mistake(f"{path} has no curve of {', '.join(tasks)}")
    for (env, name), each in parts.items():
        found[env].append((name, numbers(path, each, "step"), numbers(path, each, "mean_return")))
    return found

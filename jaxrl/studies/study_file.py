"""A study's file: what it may say, and the runs that it asks for."""

import math
import re
import shlex
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxrl.studies.script import Mistake
from jaxrl.studies.study_run import Part

KINDS = {"name": str, "results": str, "figure": str, "seeds": list, "flags": str, "tasks": dict, "variants": dict}
KINDS |= {"shown": list}
NEEDS = {"cores": 1, "gpus": 0}  # What a run takes, unless the file says.
OWN = "--env", "--seed", "--num-seeds", "--sweep", "--run-dir", "--resume"


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
    study["results"] = study["results"] or f"runs/studies/{study['name']}/results"
    study["figure"] = study["figure"] or f"runs/studies/{study['name']}/returns"
    _check_values(study, path)
    return study


def _check_values(study: dict[str, Any], path: Path) -> None:
    for name, least in NEEDS.items():
        amount = study.setdefault(name, least)
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not least <= amount < math.inf:
            raise Mistake(f"{path}: {name} is {amount!r}, it must be a number, at least {least}")
        if amount > 1 and amount != int(amount):
            raise Mistake(f"{path}: {name} is {amount!r}, more than 1 must be a whole number")
    if not all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in study["seeds"]):
        raise Mistake(f"{path}: seeds are {study['seeds']}, they must be whole numbers from 0 on")
    if not all(isinstance(flags, str) for flags in [*study["tasks"].values(), *study["variants"].values()]):
        raise Mistake(f"{path}: tasks and variants must each be a name = 'flags'")
    for name in study["shown"]:
        if name not in list(study["variants"]):
            raise Mistake(f"{path}: shown has {name!r}, which is no variant")
    for name in ("results", "figure"):
        if not Path(study[name]).name:
            raise Mistake(f"{path}: {name} is {study[name]!r}, it must be a path without an ending")


def parts_of(study: dict[str, Any], runs: Path) -> list[Part]:
    """Its runs, the seeds of a variant apart, so that a study that is stopped early has some of everything."""
    found = []
    for seed in study["seeds"]:
        for task, own in study["tasks"].items():
            for variant, flags in study["variants"].items():
                words = _words(study["flags"], own, flags)
                folder = runs / study["name"] / _folder(task) / _folder(variant) / f"seed-{seed}"
                found.append(Part(task, variant, seed, words, folder))
    return found


def _folder(name: str) -> str:
    folder = re.sub(r"[^\w.-]+", "-", name)
    if not folder.strip("."):
        raise Mistake(f"{name!r} is no name for a task or variant, whose folder it becomes")
    return folder


def _words(*flags: str) -> tuple[str, ...]:
    try:
        words = tuple(word for each in flags for word in shlex.split(each))
    except ValueError as error:
        raise Mistake(f"the flags {flags} cannot be read: {error}") from error
    for word in words:
        if word.split("=")[0] in OWN:
            raise Mistake(f"{word} is the study's own to give: leave it out of the flags")
        if word in ("-h", "--help"):
            raise Mistake(f"{word} trains nothing: leave it out of the flags")
    return words


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

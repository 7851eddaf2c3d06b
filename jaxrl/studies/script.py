"""A parser of flags for scripts, and a reader of tables. Their complaints are one line, as those of `jaxrl train`."""

import argparse
import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np


class Mistake(Exception):
    """Something is wrong with what was given, in one line."""


class NothingYet(Mistake):
    """There is nothing to draw: it may come, where a run has just begun."""


class Parser(argparse.ArgumentParser):
    """Shows a script's own description in `--help`. A mistake ends the script with exit code 2, in one line that begins
    with `prog`: the file's name, unless it is given."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """Says what is wrong."""
        self.exit(2, f"{self.prog}: {message}; see --help\n")


def columns(path: Path, names: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a table that must have the columns `names`; a last row that is still being written is left out."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # A spreadsheet puts a byte-order mark first.
            reader = csv.DictReader(file)
            missing = [name for name in names if name not in (reader.fieldnames or ())]
            rows = [row for row in reader if None not in row.values() and None not in row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Mistake(f"{path} cannot be read: {error}") from error
    if missing:
        raise Mistake(f"{path} has no column {' and no column '.join(missing)}: it must have {', '.join(names)}")
    return rows


def numbers(path: Path, rows: Iterable[dict[str, str]], name: str, gaps: bool = False) -> np.ndarray:
    """A column; with `gaps`, numbers in it that are not finite are NaN instead of a mistake."""
    try:
        found = np.array([float(row[name]) for row in rows])
    except ValueError as error:
        raise Mistake(f"{path}: the column {name} holds what is no number: {error}") from error
    if gaps:
        return np.where(np.isfinite(found), found, np.nan)
    if not np.isfinite(found).all():
        raise Mistake(f"{path}: the column {name} holds what is not finite")
    return found

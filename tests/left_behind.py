"""What runs leave behind, as tests compare it."""

import csv
from pathlib import Path


def tables(folder):
    """The CSV files, without the time that things took."""
    found = {}
    for name in ("episodes", "evaluations", "metrics"):
        with (Path(folder) / f"{name}.csv").open() as file:
            found[name] = [row[:-1] for row in csv.reader(file)]
    return found

"""Tables in Markdown: where a study's runs end, and figures under titles."""

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def ends(study: Path) -> str:
    """The mean over seeds of the last evaluations, of each task and variant, and the least step that these are of."""
    found: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
    for (task, variant, _), last in last_evaluations(study).items():
        found[task, variant].append(last)
    rows = []
    for (task, variant), runs in found.items():
        each = np.array([mean for _, mean in runs])
        figures = (f"{figure:,.1f}" for figure in (each.mean(), each.std(), each.min(), each.max()))
        rows.append([task, variant, str(len(each)), f"{min(step for step, _ in runs):,}", *figures])
    return markdown_table(["task", "variant", "seeds", "steps", "mean", "std", "lowest", "highest"], rows)


def markdown(tables: dict[str, dict[str, dict[str, float]]]) -> str:
    """Tables as Markdown, each under its title."""
    return "\n".join(f"{title}:\n\n{figures_table(rows)}\n" for title, rows in tables.items())


def figures_table(rows: dict[str, dict[str, float]]) -> str:
    """Rows of figures, each by its column's name."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    shown = [
        [name, *(_shown(row[column]) if column in row else "" for column in columns)] for name, row in rows.items()
    ]
    return markdown_table(["", *columns], shown)


def _shown(figure: float) -> str:
    """A figure with three digits or more."""
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    shown = [[cell.replace("|", "\\|") for cell in line] for line in [head, *rows]]
    first, *others = (f"| {' | '.join(line)} |\n" for line in shown)
    return "".join([first, "|---" * len(head) + "|\n", *others])


def last_evaluations(path: Path) -> dict[tuple[str, str, str], tuple[int, float]]:
    """The step and return of each run's last evaluation."""
    last: dict[tuple[str, str, str], tuple[int, float]] = {}
    for row in read_rows(path):
        key, step = (row["env"], row["variant"], row["seed"]), int(row["step"])
        if key not in last or step > last[key][0]:
            last[key] = step, float(row["mean_return"])
    return last


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))

"""Figures of lines, of their ends, and of what one run logged; each is written as PNG, SVG and CSV."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from jaxrl.storage.files import write_atomically
from jaxrl.studies.lines import Line
from jaxrl.studies.script import NothingYet, columns, numbers

matplotlib.rcParams["text.parse_math"] = False  # A name with dollars in it is drawn as it is written.

# Okabe and Ito's colours, which the colour-blind can tell apart; the dashes and marks are for print.
COLOURS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999"
MARKS = "o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h"  # Of another number: a pair comes back late.


def draw_curves(drawn: Sequence[Line], dashed: dict[str, list[tuple[str, np.ndarray, np.ndarray]]], what: str) -> Any:
    """The figure of returns against steps."""
    envs = sorted({line.env for line in drawn})
    styles = {label: at for at, label in enumerate(dict.fromkeys(line.label for line in drawn))}
    figure, panels = panels_for(len(envs))
    named: list[list[tuple[str, Any]]] = [[] for _ in envs]  # Of each panel, what is drawn under which name.
    for env, panel, names in zip(envs, panels, named, strict=True):
        for line in (line for line in drawn if line.env == env):
            colour, mark = COLOURS[styles[line.label] % len(COLOURS)], MARKS[styles[line.label] % len(MARKS)]
            seeds = f"{line.seeds} seed{'s' if line.seeds > 1 else ''}"
            every = max(1, len(line.steps) // 8)
            [curve] = panel.plot(
                line.steps,
                line.mean,
                color=colour,
                marker=mark,
                markevery=every,
                ms=4,
                lw=1.5,
            )
            names.append((f"{line.label} ({seeds})", curve))
            panel.fill_between(line.steps, line.low, line.high, color=colour, alpha=0.2, lw=0)
            for steps, returns in line.beyond:
                panel.plot(steps, returns, color=colour, lw=0.6)
        for shade, (name, steps, returns) in enumerate(dashed.get(env, ())):
            grey = str(0.25 + 0.15 * (shade % 4))
            style = ("--", "-.", ":")[shade % 3]
            [curve] = panel.plot(steps, returns, color=grey, ls=style, lw=1.2, zorder=1)
            names.append((name, curve))
        panel.set(title=env, xlabel="environment steps", ylabel=f"return, {what}")
        panel.ticklabel_format(axis="x", style="sci", scilimits=(0, 5))
    _explain(figure, panels, named)
    return figure


def _explain(figure: Any, panels: Sequence[Any], named: Sequence[Sequence[tuple[str, Any]]]) -> None:
    """One legend where all panels would have the same, else one in each."""
    first, *others = ([name for name, _ in names] for names in named)
    if others and all(names == first for names in others):
        _legend(figure, named[0], fontsize=8, loc="outside lower center", ncols=min(len(first), 6))
    else:
        for panel, names in zip(panels, named, strict=True):
            _legend(panel, names, fontsize=7)


def _legend(where: Any, names: Sequence[tuple[str, Any]], **style: Any) -> None:
    """A legend of the names as they are written: matplotlib itself may leave out one that begins with `_`."""
    legend = where.legend([curve for _, curve in names], ["name"] * len(names), frameon=False, **style)
    for text, (name, _) in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)


def draw_ends(drawn: Sequence[Line], what: str) -> Any:
    """The figure of where the lines end."""
    envs = sorted({line.env for line in drawn})
    figure, panels = panels_for(len(envs))
    styles = {label: at for at, label in enumerate(dict.fromkeys(line.label for line in drawn))}
    for env, panel in zip(envs, panels, strict=False):
        shown = [line for line in drawn if line.env == env]
        ends = np.array([line.mean[-1] for line in shown])
        errors = np.abs(np.array([[line.low[-1], line.high[-1]] for line in shown]).T - ends)
        bars = panel.bar(
            range(len(shown)),
            ends,
            yerr=errors,
            capsize=3,
            color=[COLOURS[styles[line.label] % len(COLOURS)] for line in shown],
        )
        panel.bar_label(bars, [f"{end:,.0f}" for end in ends], fontsize=7, padding=2)
        names = [f"{line.label}\n{line.steps[-1]:,.0f} steps" for line in shown]
        panel.set_xticks(range(len(shown)), names, rotation=30, ha="right", fontsize=7)
        panel.set(title=env, ylabel=f"last return, {what}")
    return figure


def draw_diagnostics(folder: Path) -> tuple[Any, list[dict[str, Any]]]:
    """The sheet of what one run logged: returns, every column of metrics.csv, and its speed."""
    path = folder / "metrics.csv"
    rows = columns(path, ("step", "wall_time"))
    if len(rows) < 2:
        raise NothingYet(f"{path} has {len(rows)} rows: there is nothing to draw yet")
    steps, wall = numbers(path, rows, "step"), numbers(path, rows, "wall_time")
    # The explained variance of returns that are all the same is none, for one.
    sheet = {name: numbers(path, rows, name, gaps=True) for name in rows[0] if name not in ("step", "wall_time")}
    episodes, evaluations = folder / "episodes.csv", folder / "evaluations.csv"
    figure, panels = panels_for(len(sheet) + 2, small=True)
    for path, column, style in (
        (episodes, "episode_return", {"ls": "", "marker": ".", "ms": 2, "color": "0.6"}),
        (evaluations, "mean_return", {"marker": "o", "ms": 3, "color": COLOURS[0]}),
    ):
        if path.is_file():
            each = columns(path, ("step", column))
            panels[0].plot(
                numbers(path, each, "step"), numbers(path, each, column, gaps=True), label=path.stem, **style
            )
    panels[0].set_title("return")
    if panels[0].lines:
        panels[0].legend(fontsize=6, frameon=False)
    sheet["steps per second"] = np.diff(steps, prepend=np.nan) / np.maximum(np.diff(wall, prepend=np.nan), 1e-9)
    for panel, (name, values) in zip(panels[1:], sheet.items(), strict=False):
        alone = "." if np.isnan(values).any() else None  # A number between two gaps has no line.
        panel.plot(steps, values, color=COLOURS[0], lw=1, marker=alone, ms=3)
        panel.set_title(name.replace("_", " "))
    for panel in panels:
        panel.ticklabel_format(axis="x", style="sci", scilimits=(0, 5))
    data = [
        {"step": int(step)} | {name: float(values[at]) for name, values in sheet.items()}
        for at, step in enumerate(steps)
    ]
    return figure, data


def panels_for(count: int, small: bool = False) -> tuple[Any, list[Any]]:
    """A figure of that many panels, at most three in a row, or four small ones."""
    across = min(count, 4 if small else 2 if count == 4 else 3)
    down = -(-count // across)
    width, height = (3.0, 2.2) if small else (4.6, 3.6)
    figure, grid = plt.subplots(
        down, across, figsize=(width * across, height * down), squeeze=False, layout="constrained"
    )
    panels = list(grid.ravel())
    for panel in panels[count:]:
        panel.remove()
    for panel in panels[:count]:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.3, lw=0.5)
        panel.tick_params(labelsize=8)
    return figure, panels[:count]


def save(figure: Any, data: Sequence[dict[str, Any]], out: Path) -> None:
    """Writes OUT.png, OUT.svg and OUT.csv, the same bytes for the same data. Each is there as a whole at any moment: a
    viewer may show it while it is drawn again."""
    out.parent.mkdir(parents=True, exist_ok=True)
    matplotlib.rcParams["svg.hashsalt"] = "jaxrl"
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, data[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(data)
    for ending, write in {
        "png": lambda file: figure.savefig(file, format="png", dpi=130, metadata={"Software": None}),
        "svg": lambda file: figure.savefig(file, format="svg", metadata={"Date": None}),
        "csv": lambda file: file.write(table.getvalue().encode()),
    }.items():
        write_atomically(out.with_name(f"{out.name}.{ending}"), write)
    plt.close(figure)

"""Draws returns against environment steps, from run folders or from committed tables, and says where they end.

    jaxrl plot runs/ppo-CartPole-v1-seeds0-4 runs/ppo_kl-CartPole-v1-seeds0-4 --out plots/cartpole
    jaxrl plot experiments/results/ddpg/*.csv --reference REFERENCE.csv --out plots/ddpg
    jaxrl plot experiments/results/paper.csv --only "clip 0.2" neither --out plots/paper
    jaxrl plot runs/ppo-HalfCheetah-v5-seed0 --diagnostics --out plots/halfcheetah-diagnostics

Every source is the folder of a run (also one that is not over), a folder of such folders, or a table: evaluations of
one seed, named ENV-seedK.csv, or of a whole study, with the columns env, variant, seed, step and mean_return. There is
a panel for each task, and in it a line for each algorithm and setting: the mean over its seeds (with `--iqm` their
interquartile mean), and a band that holds it with 95 % confidence, by bootstrap over the seeds, as far as all of them
have come; thin lines show the seeds that have come further. Curves of a reference
file (columns task, step, mean_return, and where it has them source and variant) are dashed. `--ends` draws the last
values as bars instead, `--diagnostics` what one run logged. Each figure is written as PNG and SVG, its data as CSV.
"""

import csv
import functools
import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

from jaxrl.studies.script import Mistake, Parser, columns, numbers

matplotlib.rcParams["text.parse_math"] = False  # A name with dollars in it is drawn as it is written.

# Okabe and Ito's colours, which the colour-blind can tell apart; the dashes and marks are for print.
COLOURS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999"
MARKS = "o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h"  # Of another number: a pair comes back late.
SAMPLES = 2_000
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


class Line(NamedTuple):
    """What is drawn of several seeds: at each step their mean and the band around it."""

    env: str
    label: str
    seeds: int
    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    beyond: list[tuple[np.ndarray, np.ndarray]]  # Steps and returns of each seed that has come further.


def read(source: Path) -> list[Curve]:
    """The curves in a run's folder, in a folder of such, or in a table."""
    if source.is_dir():
        found = sorted(path.parent for path in source.rglob("evaluations.csv"))
        if not found:
            raise Mistake(f"{source} holds no run: there is no evaluations.csv in it")
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


def lines(curves: Sequence[Curve], iqm: bool) -> list[Line]:
    """A line for each task, algorithm and setting."""
    groups: dict[tuple[str, str], list[Curve]] = defaultdict(list)
    for curve, label in zip(curves, labels(curves), strict=True):
        if len(curve.steps):
            if any(curve.seed == other.seed for other in groups[curve.env, label]):
                raise Mistake(f"seed {curve.seed} of {label} on {curve.env} is given twice")
            groups[curve.env, label].append(curve)
    return [aggregate(env, label, group, iqm) for (env, label), group in sorted(groups.items())]


def chosen(drawn: Sequence[Line], only: Sequence[str] | None) -> list[Line]:
    """The lines called for, in that order; all, where none are."""
    if only is None:
        return list(drawn)
    known = list(dict.fromkeys(line.label for line in drawn))
    if odd := [label for label in only if label not in known]:
        raise Mistake(f"there is no line {odd[0]!r}: there are {', '.join(known)}")
    return [line for label in dict.fromkeys(only) for line in drawn if line.label == label]


def labels(curves: Sequence[Curve]) -> list[str]:
    """What each curve is called: its algorithm, and those of its settings that are not the same in all curves of it."""
    seen: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for curve in curves:
        for name, value in curve.settings.items():
            seen[curve.env, curve.algo, name].add(str(value))
    return [
        ", ".join(
            [curve.algo]
            + [
                f"{name} {value}"
                for name, value in curve.settings.items()
                if len(seen[curve.env, curve.algo, name]) > 1
            ]
        )
        for curve in curves
    ]


def aggregate(env: str, label: str, curves: Sequence[Curve], iqm: bool) -> Line:
    """Seeds as one line, at the steps of the seed that has the fewest, as far as all have come. The others are
    interpolated: PPO's evaluations are at the ends of rollouts, which are not always at the same steps."""
    begin, end = max(curve.steps[0] for curve in curves), min(curve.steps[-1] for curve in curves)
    if begin > end:
        raise Mistake(f"the seeds of {label} on {env} have no step in common: one begins at {begin:,.0f}")
    if iqm and len(curves) < 4:
        raise Mistake(f"{label} on {env} has {len(curves)} seeds, an interquartile mean needs 4: leave --iqm off")
    steps = min((curve.steps for curve in curves), key=len)
    steps = np.append(steps[(begin <= steps) & (steps < end)], end)
    returns = np.array([np.interp(steps, curve.steps, curve.returns) for curve in curves])
    middle = middle_of(iqm)
    mean = middle(returns, axis=0)
    low, high = interval(returns, middle)
    further = [curve for curve in curves if (curve.steps > end).sum() > 1]  # One alone is the end of a last rollout.
    beyond = [(curve.steps[curve.steps >= end], curve.returns[curve.steps >= end]) for curve in further]
    return Line(env, label, len(curves), steps, mean, low, high, beyond)


def middle_of(iqm: bool) -> Callable[..., np.ndarray]:
    """The mean, or the mean of the middle half."""
    return functools.partial(stats.trim_mean, proportiontocut=0.25) if iqm else np.mean


def interval(returns: np.ndarray, middle: Callable[..., np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Bounds, by percentile bootstrap over the first axis, of what is in the middle with 95 % confidence; with one seed
    there is nothing to draw from, and they are the values themselves."""
    if len(returns) == 1:
        return returns[0], returns[0]
    found = stats.bootstrap(
        (returns,), middle, axis=0, n_resamples=SAMPLES, method="percentile",
        vectorized=True, rng=np.random.default_rng(0),
    )  # fmt: skip
    return found.confidence_interval.low, found.confidence_interval.high


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
        raise Mistake(f"{path} has {len(rows)} rows: there is nothing to draw yet")
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


def rows_of(drawn: Sequence[Line]) -> list[dict[str, Any]]:
    """What is drawn, as rows."""
    return [
        {"env": line.env, "line": line.label, "seeds": seeds, "step": int(step)}
        | {"middle": round(float(middle), 3), "low": round(float(low), 3), "high": round(float(high), 3)}
        for line in drawn
        for seeds, points in [
            (line.seeds, (line.steps, line.mean, line.low, line.high)),
            *((1, (steps, returns, returns, returns)) for steps, returns in line.beyond),
        ]
        for step, middle, low, high in zip(*points, strict=True)
    ]


def save(figure: Any, data: Sequence[dict[str, Any]], out: Path) -> None:
    """Writes OUT.png, OUT.svg and OUT.csv, the same bytes for the same data."""
    out.parent.mkdir(parents=True, exist_ok=True)
    matplotlib.rcParams["svg.hashsalt"] = "jaxrl"
    figure.savefig(out.with_name(out.name + ".png"), dpi=130, metadata={"Software": None})
    figure.savefig(out.with_name(out.name + ".svg"), metadata={"Date": None})
    plt.close(figure)
    with out.with_name(out.name + ".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, data[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(data)


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """The command `jaxrl plot`. Returns the exit code; after bad input it raises SystemExit with code 2."""
    parser = Parser(description=__doc__, prog=prog)
    parser.add_argument("sources", type=Path, nargs="+", metavar="RUN_DIR", help="a run, a folder of runs, or a table")
    parser.add_argument("--reference", type=Path, help="table of curves to draw dashed")
    parser.add_argument("--out", type=Path, default=Path("plots/returns"), help="the figure's path")
    parser.add_argument(
        "--only", nargs="+", metavar="LINE", help="draw these of the lines, by their names in the legend"
    )
    parser.add_argument("--iqm", action="store_true", help="the interquartile mean over seeds instead of the mean")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--ends", action="store_true", help="bars of the last values")
    kind.add_argument("--diagnostics", action="store_true", help="what one run logged")
    given = parser.parse_args(argv)
    if not given.out.name:
        parser.error(f"--out {given.out} has no name: it is the figure's path, without an ending")
    if given.out.suffix.lower() in (".png", ".svg", ".csv"):
        given.out = given.out.with_suffix("")  # All three are written.
    what = f"{'IQM' if given.iqm else 'mean'} and 95 % interval"
    try:
        table = given.out.with_name(given.out.name + ".csv")
        if any(table.resolve() == source.resolve() for source in (*given.sources, given.reference or given.out)):
            raise Mistake(f"--out {given.out} would write over {table}, which is read: give the figure another name")
        if given.diagnostics:
            if len(given.sources) != 1 or given.reference is not None or given.only is not None or given.iqm:
                raise Mistake("--diagnostics is of one run alone: name its folder, and no --reference, --only or --iqm")
            figure, data = draw_diagnostics(given.sources[0])
        else:
            if given.ends and given.reference is not None:
                raise Mistake("--reference is for curves: leave it off with --ends")
            drawn = lines([curve for source in given.sources for curve in read(source)], given.iqm)
            if not drawn:
                raise Mistake("none of these runs has been evaluated yet")
            drawn = chosen(drawn, given.only)
            dashed = {} if given.reference is None else references(given.reference, {line.env for line in drawn})
            figure, data = draw_ends(drawn, what) if given.ends else draw_curves(drawn, dashed, what), rows_of(drawn)
        save(figure, data, given.out)
    except Mistake as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"{given.out} cannot be written: {error.strerror}")
    print(f"{given.out}.png, {given.out}.svg, {given.out}.csv", file=sys.stdout)
    return 0

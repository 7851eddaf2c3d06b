"""Redraws the tables of the pages from committed data.

    python docs/tools/tables.py docs/results.md docs/benchmark.md

A table to redraw has above it a comment that names what it shows, with paths from the repository's root:

    <!-- table: ends experiments/results/cartpole.csv -->            last evaluations of a study, each task and variant
    <!-- table: scores STUDY.csv RANDOM.csv PAPER.csv -->            the same on one scale, beside a paper's
    <!-- table: published STUDY.csv PUBLISHED.csv -->                the same beside published returns
    <!-- table: differences STUDY.csv OTHER.csv ... -->              the same less others' ends, with Welch's intervals
    <!-- table: figures BENCHMARK.json TITLE -->                     what benchmark.py has measured
    <!-- table: rows TABLE.csv -->                                   a table as it is
"""

import csv
import json
import re
import shlex
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrl.studies.script import Parser
from jaxrl.studies.tables import ends, figures_table, last_evaluations, markdown_table, read_rows

ROOT = Path(__file__).resolve().parents[2]
MARKED = re.compile(r"(?m)^(<!-- table: (.+) -->\n\n?)((?:\|.*(?:\n|\Z))*)")

LATE = 0.9  # Of a run's steps: from there on it is at its end, where one evaluation alone says little.
WHOLE = 0.95  # Of the longest run's steps: an end that is not that of a run under way.

Ends = dict[str, dict[str, dict[str, float]]]  # Task, variant, seed: the last evaluation's mean.


def ends_of(path: Path) -> Ends:
    """Where a study's runs end; those that are still under way are left out."""
    last, ends = last_evaluations(path), defaultdict[str, Any](lambda: defaultdict(dict))
    longest = max(step for step, _ in last.values())
    for (task, variant, seed), (step, mean) in last.items():
        if step > WHOLE * longest:
            ends[task][variant][seed] = mean
    return ends


def scores(study: Path, random: Path, paper: Path) -> str:
    """Normalised scores: on each task 0 is the return of uniformly random actions and 1 the best variant's mean; of a
    variant the mean over all its runs, with a 95 % bootstrap interval (over the seeds of each task), and the tasks."""
    found = ends_of(study)
    zero = {row["env"]: float(row["mean_return"]) for row in read_rows(random)}
    published = {row["variant"]: row["score"] for row in read_rows(paper)}
    scored: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for task, variants in found.items():
        best = max(np.mean(list(seeds.values())) for seeds in variants.values())
        if best <= zero[task]:
            raise ValueError(f"on {task} no variant is better than random actions")
        for variant, seeds in variants.items():
            scored[variant][task] = (np.array(list(seeds.values())) - zero[task]) / (best - zero[task])
    rows = []
    for variant, tasks in scored.items():
        each = [f"{tasks[task].mean():.2f}" if task in tasks else "" for task in found]
        own = ["", ""]  # Of a variant that lacks a task there is no score.
        if len(tasks) == len(found):
            low, high = _spread(list(tasks.values()))
            own = [f"{np.mean([task.mean() for task in tasks.values()]):.2f}", f"{low:.2f} to {high:.2f}"]
        runs = str(sum(map(len, tasks.values())))
        rows.append([variant, published.get(variant, ""), *own, runs, *each])
    names = [_bare(task) for task in found]
    return markdown_table(["objective", "the paper's score", "score", "95 % interval", "runs", *names], rows)


def _spread(tasks: Sequence[np.ndarray]) -> tuple[float, float]:
    """Percentile bootstrap of the mean over tasks of the means over seeds, the seeds of each task drawn anew."""
    rng = np.random.default_rng(0)
    drawn = [rng.choice(task, (10_000, len(task))).mean(axis=1) for task in tasks]
    low, high = np.percentile(np.mean(drawn, axis=0), [2.5, 97.5])
    return float(low), float(high)


def published(study: Path, others: Path) -> str:
    """The mean over seeds of the last evaluations with a 95 % bootstrap interval, and what others have published."""
    from jaxrl.studies.lines import interval  # Brings SciPy, which a mistake need not wait for.

    found = ends_of(study)
    rows = []
    for task, variants in found.items():
        for variant, seeds in variants.items():
            each = np.array(list(seeds.values()))
            runs = ", ".join(f"{figure:,.0f}" for figure in sorted(each))
            low, high = interval(each, np.mean)
            of = f"jaxrl, {variant}, {len(each)} seeds"
            rows.append([task, of, f"{each.mean():,.0f}", f"{low:,.0f} to {high:,.0f}; {runs}"])
        for row in read_rows(others):
            if row["task"] == _bare(task):
                spread = f"+- {float(row['std']):,.0f} over seeds; " if row["std"] else ""
                of = f"{row['source']}, {row['version']}, {row['num_seeds']} seeds"
                rows.append([task, of, f"{float(row['mean']):,.0f}", f"{spread}{row['protocol']}"])
    return markdown_table(["task", "of", "mean", "95 % interval, each seed; or as published"], rows)


class Sample(NamedTuple):
    """Mean, standard deviation (the sample's, with n - 1) and number of runs."""

    mean: float
    std: float
    size: int


def differences(study: Path, *others: Path) -> str:
    """The mean over seeds of what runs end with less that of others, with Welch's 95 % interval of the difference. A
    run ends with the mean of its evaluations in its last tenth. A single run is given the others' spread.

    Args:
      study: ours.
      others: of each, evaluations of another program, whose variants are named "PROGRAM variant"; or published ends,
        with the standard deviation over all of the seeds, divided by n.
    """
    ours, found = _samples(study), []
    for path in others:
        for task, variant, of, theirs in _others(path):
            for (name, own), sample in ours.items():
                if _bare(name) == task and own == variant:
                    low, high = welch(sample, theirs)
                    means = (f"{figure:,.0f}" for figure in (sample.mean, theirs.mean, sample.mean - theirs.mean))
                    spread = f"{low:,.0f} to {high:,.0f}" if np.isfinite(low) else "none of one seed each"
                    found.append([name, variant, str(sample.size), of, str(theirs.size), *means, spread])
    head = ["task", "variant", "seeds", "beside", "seeds of it", "ours", "theirs", "difference", "95 % interval"]
    return markdown_table(head, found)


def welch(a: Sample, b: Sample) -> tuple[float, float]:
    """The 95 % interval of the difference of two means, `a - b`, of unequal variances. A single run is given the spread
    of the others; where both are single, NaN.

    Source: Welch 1947, "The generalization of Student's problem when several different population variances are
    involved".
    """
    from scipy.stats import t  # It takes a while, which a mistake need not wait for.

    if max(a.size, b.size) < 2:
        return np.nan, np.nan
    of_a, of_b = (one.std**2 / one.size for one in (a, b))
    if min(a.size, b.size) < 2:
        single, several = sorted((a, b), key=lambda one: one.size)
        freedom, variance = several.size - 1.0, several.std**2 * (1 / single.size + 1 / several.size)
    else:
        variance = of_a + of_b
        freedom = variance**2 / (of_a**2 / (a.size - 1) + of_b**2 / (b.size - 1)) if variance else 1.0
    reach = t.ppf(0.975, freedom) * variance**0.5
    return a.mean - b.mean - reach, a.mean - b.mean + reach


def _samples(study: Path) -> dict[tuple[str, str], Sample]:
    """By task and variant, what the runs that are at their end have there."""
    last, late = last_evaluations(study), defaultdict[tuple[str, str, str], list[float]](list)
    longest = max(step for step, _ in last.values())
    for row in read_rows(study):
        key = row["env"], row["variant"], row["seed"]
        if last[key][0] > WHOLE * longest and int(row["step"]) >= LATE * last[key][0]:
            late[key].append(float(row["mean_return"]))
    runs = defaultdict[tuple[str, str], list[float]](list)
    for (task, variant, _), returns in late.items():
        runs[task, variant].append(float(np.mean(returns)))
    return {
        key: Sample(float(np.mean(x)), float(np.std(x, ddof=1)) if len(x) > 1 else np.nan, len(x))
        for key, x in runs.items()
    }


def _others(path: Path) -> list[tuple[str, str, str, Sample]]:
    """Task (without its version), our variant, whose it is, and the sample."""
    rows = read_rows(path)
    if "source" not in rows[0]:
        samples = ((task, *name.rpartition(" "), sample) for (task, name), sample in _samples(path).items())
        return [(_bare(task), variant, program, sample) for task, program, _, variant, sample in samples]
    found = []
    for row in rows:
        size = int(row["num_seeds"])
        sample = Sample(float(row["mean"]), float(row["std"]) * (size / (size - 1)) ** 0.5, size)
        found.append((row["task"], row["variant"], f"{row['source']}, {int(row['step']):,} steps", sample))
    return found


def _bare(task: str) -> str:
    """A task's name without its version."""
    return re.sub(r"-v\d+$", "", task)


def figures(results: Path, *title: str) -> str:
    """One table of what benchmark.py has measured."""
    rows: dict[str, dict[str, float]] = json.loads(results.read_text())["tables"][" ".join(title)]
    return figures_table(rows)


def rows(table: Path) -> str:
    """A table as it is."""
    with table.open(newline="") as file:
        head, *others = csv.reader(file)
    return markdown_table(head, others)


KINDS: dict[str, Callable[..., str]] = {
    "ends": ends,
    "scores": scores,
    "published": published,
    "differences": differences,
    "figures": figures,
    "rows": rows,
}


def redrawn(page: str) -> str:
    """A page with its marked tables drawn anew."""

    def table(found: re.Match[str]) -> str:
        kind, *words = shlex.split(found[2])
        files = [ROOT / word if word.endswith((".csv", ".json")) else word for word in words]
        after = "" if found[3] else "\n"  # Where there was no table yet, its place was an empty line.
        return found[1].rstrip("\n") + "\n\n" + KINDS[kind](*files) + after

    return MARKED.sub(table, page).rstrip("\n") + "\n"


def main() -> int:
    """Reads the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("pages", type=Path, nargs="+", metavar="PAGE.md")
    for page in parser.parse_args().pages:
        try:
            before = page.read_text()
            page.write_text(after := redrawn(before))
        except (OSError, LookupError, TypeError, ValueError, AttributeError) as error:
            parser.error(f"{page} cannot be redrawn: {type(error).__name__}: {error}")
        print(f"{page}: {len(MARKED.findall(after))} tables, {'changed' if after != before else 'as they were'}")
    return 0


if __name__ == "__main__":
    sys.path = [folder for folder in sys.path if folder != str(Path(__file__).resolve().parent)]  # As train.py does.
    sys.exit(main())

"""Several seeds as one line, and the band around it."""

import functools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from jaxrl.studies.curves import Curve
from jaxrl.studies.script import Mistake

SAMPLES = 2_000  # Of a bootstrap.


class Line(NamedTuple):
    """The curve of several seeds: at each step their mean and the band around it."""

    env: str
    label: str
    seeds: int
    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    beyond: list[tuple[np.ndarray, np.ndarray]]  # Steps and returns of each seed that has come further.


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
    """The name of each curve: its algorithm, and those of its settings that are not the same in all curves of it."""
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


def rows_of(drawn: Sequence[Line]) -> list[dict[str, Any]]:
    """The figure's data, as rows."""
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

"""Metrics of updates, from the device to rows of a table, without waiting for the device."""

import math
import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np


class Row(NamedTuple):
    """The mean of the metrics over some updates.

    Attributes:
      step: the step at which the row was due.
      metrics: by name; of `skipped_updates` the sum; of those that are averaged over others, the mean over these.
      wall_time: seconds that the run had taken at that step.
    """

    step: int
    metrics: dict[str, float]
    wall_time: float


class _Update(NamedTuple):
    metrics: Any  # `(len(names),)`, or a row of these for each of several runs; on the device.
    place: int  # Of this run among these.


class MetricsBuffer:
    """The metrics of updates that no row holds yet. An update's numbers stay on the device until they are needed: to
    fetch them earlier would be to wait for the update.

    Args:
      names: of the metrics.
      pending: `(num_updates, len(names))`, what `pending` gave when the run was saved.
      averaged_over: `{"actor_loss": "actor_steps"}`: the mean of the first is taken over the updates that the second,
        0 or 1, counts. In the others it must be 0.
    """

    def __init__(
        self,
        names: Sequence[str],
        pending: Sequence[Sequence[float]] = (),
        averaged_over: Mapping[str, str] = types.MappingProxyType({}),
    ) -> None:
        self._names, self._averaged_over = names, averaged_over
        self._pending = [_Update(np.array(row, np.float32), 0) for row in pending]
        self._due: list[tuple[int, float, list[_Update]]] = []

    def add(self, metrics: Any, place: int = 0) -> None:
        """Takes the metrics of an update, as soon as it is under way.

        Args:
          metrics: `(len(names),)`, or a row of these for each of several runs that are updated together. It may still
            be on the device, and is one array, because each that is fetched costs as much as the rest of a step.
          place: the row of this run.
        """
        self._pending.append(_Update(metrics, place))

    def __len__(self) -> int:
        """The number of updates that no row was asked for yet."""
        return len(self._pending)

    def close_row(self, step: int, wall_time: float) -> None:
        """Makes a row, due at `step`, of all updates since the last row, where there were any. `rows`
        gives it."""
        if self._pending:
            self._due.append((step, wall_time, self._pending))
        self._pending = []

    @np.errstate(all="ignore")
    def rows(self) -> list[Row]:
        """Fetches and gives the rows that were closed since the last call."""
        due, self._due = self._due, []
        return [Row(step, self._mean(fetch(updates)), wall_time) for step, wall_time, updates in due]

    def pending(self) -> list[list[float]]:
        """Fetches the metrics that no row holds yet, JSON-able: what a checkpoint keeps."""
        return fetch(self._pending).tolist()

    def _mean(self, rows: np.ndarray) -> dict[str, float]:
        finite = np.isfinite(rows)  # A skipped update's numbers must not hide those of the others.
        sums, counts = np.where(finite, rows, 0).sum(0), finite.sum(0)
        means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
        row = dict(zip(self._names, map(float, means), strict=True))
        if row.get("skipped_updates"):
            row["skipped_updates"] *= len(rows)
        total = dict(zip(self._names, sums, strict=True))
        for name, counted in self._averaged_over.items():
            row[name] = float(total[name] / total[counted]) if total[counted] else math.nan
        return row


def fetch(updates: Sequence[tuple[Any, int]]) -> np.ndarray:
    """`(num_updates, M)` float64: the metrics of one run, on the host, from pairs of an update's metrics and the run's
    place in them."""
    arrays = jax.device_get([metrics for metrics, _ in updates])
    rows = [np.asarray(array, np.float64) for array in arrays]
    return np.array([row[place] if row.ndim > 1 else row for row, (_, place) in zip(rows, updates, strict=True)])

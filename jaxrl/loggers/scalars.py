"""The values that a run logs as numbers by name, for services that draw curves from such."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxrl.envs.episodes import FinishedEpisode
from jaxrl.loggers.logger import Evaluation, Logger


class Scalars(Logger):
    """Makes numbers of what a run logs, by the names that TensorBoard has them under; a subclass writes them.

    The numbers of metrics and evaluations are those of `metrics.csv` and `evaluations.csv`. Of training episodes it is
    the mean over those that ended since the last call of `progress`.
    """

    def __init__(self) -> None:
        self._episodes: list[FinishedEpisode] = []

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Writes numbers that belong to one step."""
        raise NotImplementedError

    def episodes(self, step: int, finished: Sequence[FinishedEpisode], wall_time: float) -> None:
        """Takes episodes for the next call of `progress`."""
        self._episodes.extend(finished)

    def metrics(self, step: int, metrics: Mapping[str, float], wall_time: float) -> None:
        """Writes `update/...`."""
        self.write(step, {f"update/{name}": value for name, value in metrics.items()})

    @np.errstate(all="ignore")
    def progress(self, step: int, steps_per_second: float, wall_time: float) -> None:
        """Writes `rollout/...` and `time/...`."""
        numbers = {"time/steps_per_second": steps_per_second, "time/wall_time": wall_time}
        if self._episodes:
            for name in ("episode_return", "episode_length"):
                numbers[f"rollout/{name}"] = float(np.mean([getattr(each, name) for each in self._episodes]))
            self._episodes.clear()
        self.write(step, numbers)

    def evaluation(self, evaluation: Evaluation) -> None:
        """Writes `evaluation/...`."""
        names = "mean_return", "std_return", "min_return", "max_return"
        self.write(evaluation.step, {f"evaluation/{name}": getattr(evaluation, name) for name in names})

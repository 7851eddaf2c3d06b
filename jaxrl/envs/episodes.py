"""The episodes that are under way, and those that end. No JAX here."""

from typing import NamedTuple

import numpy as np

# Steps of an episode of an evaluation where the task has no limit of its own: ten times the longest limit of
# Gymnasium's own tasks, and still a matter of seconds where a step takes ten microseconds.
DEFAULT_MAX_STEPS = 20_000


class FinishedEpisode(NamedTuple):
    """One episode that ended on the last step: which environment's, the sum of its rewards, its number of steps."""

    env_index: int
    episode_return: float
    episode_length: int


class EpisodeCounter:
    """Adds up the episodes under way in N environments.

    Attributes:
      returns: `(N,)` float64, the sum of the rewards so far.
      lengths: `(N,)` int64, the number of steps so far.
    """

    def __init__(self, num_envs: int) -> None:
        self.returns = np.zeros(num_envs)
        self.lengths = np.zeros(num_envs, np.int64)

    def add(self, reward: np.ndarray, valid: np.ndarray | None) -> None:
        """Counts one step of each environment, or of those that are `valid`; elsewhere `reward` is 0."""
        self.returns += reward
        self.lengths += 1 if valid is None else valid

    def finish(self, ended: np.ndarray) -> list[FinishedEpisode]:
        """Returns the episodes of the mask `ended`, `(N,)`, and forgets them."""
        finished = [self._episode(int(index)) for index in np.flatnonzero(ended)]
        self.forget(ended)
        return finished

    def forget(self, mask: np.ndarray) -> None:
        """Drops the episodes under way in the environments of `mask`, `(N,)`."""
        self.returns[mask] = 0
        self.lengths[mask] = 0

    @property
    def running(self) -> list[FinishedEpisode]:
        """The episodes under way, one for each environment, as they stand."""
        return [self._episode(index) for index in range(len(self.returns))]

    def _episode(self, index: int) -> FinishedEpisode:
        return FinishedEpisode(index, float(self.returns[index]), int(self.lengths[index]))

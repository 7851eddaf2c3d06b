"""The protocol of loggers, and several loggers as one. Nothing here changes what is learned."""

import contextlib
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxrl.envs.episodes import FinishedEpisode
from jaxrl.envs.faults import Fault
from jaxrl.errors import BadInput


class Evaluation(NamedTuple):
    """One row of `evaluations.csv`: returns over whole episodes at a training step; `wall_time` in seconds."""

    step: int
    mean_return: float
    std_return: float
    min_return: float
    max_return: float
    episodes: int
    wall_time: float


class Logger:
    """Hears what happens in a run. Subclass it and write the methods that you need: the others do nothing. Any object
    that has all of these methods is a logger too.

    `step` is always the number of environment steps taken, over all environments. `wall_time` is the number of seconds
    that the run has taken, earlier parts of a resumed run included. All methods are called in the process and the
    thread that train. A run that resumes takes the steps after its last checkpoint again, and its loggers hear of them
    again.
    """

    def begin(self, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        """Called once, before all others, when the run's folder is there. A logger without this method is one too. A
        BadInput that it raises refuses the run; a new run's folder is removed again.

        Args:
          folder: the run's.
          settings: those of `config.json`, the algorithm's in `agent`.
          step: where the run begins: 0, or the step of the checkpoint that it resumes from.
        """

    def episodes(self, step: int, finished: Sequence[FinishedEpisode], wall_time: float) -> None:
        """Called after each step in which episodes ended.

        Args:
          step: environment steps taken, that step included.
          finished: the episodes: the environment's index, the undiscounted return in the environment's own units, and
            the length in steps.
          wall_time: seconds.
        """

    def metrics(self, step: int, metrics: Mapping[str, float], wall_time: float) -> None:
        """Called for each row of `metrics.csv`: once for every `log_every` steps, at the next update after them. By
        then the device has computed the numbers, and nobody waits for it.

        Args:
          step: the step at which the row was due.
          metrics: by name, the mean over the updates since the last row. NaN where no update gave a finite number;
            `skipped_updates` is the sum.
          wall_time: seconds until `step`.
        """

    def progress(self, step: int, steps_per_second: float, wall_time: float) -> None:
        """Called once for every `log_every` steps, also before the first update: the time to flush what was collected.

        Args:
          step: environment steps taken.
          steps_per_second: speed over the last calls.
          wall_time: seconds.
        """

    def evaluation(self, evaluation: Evaluation) -> None:
        """Called after each evaluation, before the callback of the same step."""

    def fault(self, step: int, fault: Fault, wall_time: float) -> None:
        """Called for each environment that was reset because of a fault (`on_fault="reset"`).

        Args:
          step: environment steps taken.
          fault: the environment's index, and what was wrong with it, in words.
          wall_time: seconds.
        """

    def say(self, line: str) -> None:
        """Called with each line, without its end, that the run says to its user."""

    def close(self) -> None:
        """Called once, at the end of a run that has begun, however it ends. It is called also after an error of the
        same logger."""


METHODS = "episodes", "metrics", "progress", "evaluation", "fault", "say", "close"


def check_loggers(loggers: Any) -> list[Logger]:
    """The loggers in a list; BadInput if one of them lacks a method."""
    if not isinstance(loggers, Sequence) or isinstance(loggers, str):
        raise BadInput(f"loggers is of type {type(loggers).__name__}: it must be a list of loggers")
    for logger in loggers:
        lacks = [name for name in METHODS if not callable(getattr(logger, name, None))]
        if lacks or isinstance(logger, type):
            wrong = "is a class, not an object" if isinstance(logger, type) else f"has no method {lacks[0]}"
            name = logger.__name__ if isinstance(logger, type) else type(logger).__name__
            raise BadInput(f"loggers holds {name}, which {wrong}: it must be a jaxrl.loggers.logger.Logger")
    return list(loggers)


class Loggers(Logger):
    """Several loggers as one.

    Args:
      own: the run's own files and display. Their errors are raised at once: without its files a run cannot go on.
      users: loggers of the user's. An error of theirs may come in the middle of a step, where nothing can be saved. So
        it is kept, and after it no logger of the user's is called, but to be closed.

    Attributes:
      raised: the error that is kept. The run raises it where it can be saved first.
    """

    def __init__(self, own: Sequence[Logger], users: Sequence[Logger] = ()) -> None:
        self._own, self._users = own, users
        self.raised: BaseException | None = None

    def _tell(self, method: str, *arguments: Any) -> None:
        for logger in self._own:
            getattr(logger, method)(*arguments)
        for logger in self._users:
            if self.raised is None:
                self._tell_user(logger, method, *arguments)

    def _tell_user(self, logger: Logger, method: str, *arguments: Any) -> None:
        try:
            getattr(logger, method)(*arguments)
        except BaseException as error:
            if self.raised is None:
                self.raised = error

    def begin(self, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        """Tells each logger that wants to hear it."""
        for logger in self._own:
            logger.begin(folder, settings, step)
        for logger in self._users:
            if self.raised is None and hasattr(logger, "begin"):
                try:
                    logger.begin(folder, settings, step)
                except BadInput:  # Nothing has been learned that should be saved.
                    raise
                except BaseException as error:
                    self.raised = error

    def episodes(self, step: int, finished: Sequence[FinishedEpisode], wall_time: float) -> None:
        """Tells each logger."""
        self._tell("episodes", step, finished, wall_time)

    def metrics(self, step: int, metrics: Mapping[str, float], wall_time: float) -> None:
        """Tells each logger."""
        self._tell("metrics", step, metrics, wall_time)

    def progress(self, step: int, steps_per_second: float, wall_time: float) -> None:
        """Tells each logger."""
        self._tell("progress", step, steps_per_second, wall_time)

    def evaluation(self, evaluation: Evaluation) -> None:
        """Tells each logger."""
        self._tell("evaluation", evaluation)

    def fault(self, step: int, fault: Fault, wall_time: float) -> None:
        """Tells each logger."""
        self._tell("fault", step, fault, wall_time)

    def say(self, line: str) -> None:
        """Tells each logger."""
        self._tell("say", line)

    def close(self) -> None:
        """Closes each logger, whatever becomes of the others."""
        with contextlib.ExitStack() as left:  # A full disk may refuse the rest of each.
            for logger in self._own:
                left.callback(logger.close)
            for logger in self._users:
                left.callback(self._tell_user, logger, "close")


class Clock:
    """How long a run has taken, and how fast it is.

    Args:
      step: where the run starts.
      wall_time: seconds that its earlier parts have taken.
    """

    def __init__(self, step: int = 0, wall_time: float = 0.0) -> None:
        now = time.perf_counter()
        self._began = now - wall_time
        self._marks: deque[tuple[float, int]] = deque([(now, step)], maxlen=20)

    @property
    def wall_time(self) -> float:
        """Seconds that the run has taken, earlier parts included."""
        return time.perf_counter() - self._began

    def steps_per_second(self, step: int) -> float:
        """The speed over the last twenty calls."""
        now = time.perf_counter()
        then, before = self._marks[0]
        self._marks.append((now, step))
        return (step - before) / max(now - then, 1e-9)

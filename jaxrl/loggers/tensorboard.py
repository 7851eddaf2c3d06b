"""A run's scalars for TensorBoard, as events in a file of its folder."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from jaxrl.envs.episodes import FinishedEpisode
from jaxrl.loggers.logger import Evaluation, Logger


class TensorBoard(Logger):
    """Writes a run's scalars for TensorBoard.

    They are written here and now: a thread that writes them, as tensorboardX's own front has one, can die of a full
    disk without anybody hearing of it, and is waited for then.

    Args:
      folder: the run's folder.
      resumed_at: the step that a run resumes from: TensorBoard forgets what was written after it. None for a run that
        begins.
      unlogged: `unlogged` of the run that was saved.

    Attributes:
      unlogged: episodes that ended since the last call of `progress`; it writes their mean.
    """

    def __init__(self, folder: Path, resumed_at: int | None = None, unlogged: Sequence[FinishedEpisode] = ()) -> None:
        self.unlogged = list(unlogged)
        # The name has the time in seconds: a run that is resumed within one must not write over the file before.
        number = len(list(folder.glob("events.*")))
        self._events = EventsWriter(str(folder / "events"), f".{number:06d}")
        if resumed_at is not None:
            self._write(step=resumed_at + 1, session_log=SessionLog(status=SessionLog.START))

    def add_scalar(self, name: str, value: Any, step: int) -> None:
        """Writes one number; NaN and infinities too: some numbers are NaN by their meaning."""
        # Not by tensorboardX's own `scalar`, which warns of NaN.
        self._write(step=step, summary=Summary(value=[Summary.Value(tag=name, simple_value=float(value))]))

    def _write(self, **content: Any) -> None:
        self._events.write_event(Event(wall_time=time.time(), **content))

    def flush(self) -> None:
        """Hands all events to the operating system."""
        self._events.flush()

    def episodes(self, step: int, finished: Sequence[FinishedEpisode], wall_time: float) -> None:
        """Takes episodes for the next call of `progress`."""
        self.unlogged.extend(finished)

    def metrics(self, step: int, metrics: Mapping[str, float], wall_time: float) -> None:
        """Writes `update/...`."""
        for name, value in metrics.items():
            self.add_scalar(f"update/{name}", value, step)

    @np.errstate(all="ignore")
    def progress(self, step: int, steps_per_second: float, wall_time: float) -> None:
        """Writes `rollout/...` and `time/...`, and flushes."""
        if self.unlogged:
            self.add_scalar("rollout/episode_return", np.mean([each.episode_return for each in self.unlogged]), step)
            self.add_scalar("rollout/episode_length", np.mean([each.episode_length for each in self.unlogged]), step)
            self.unlogged.clear()
        self.add_scalar("time/steps_per_second", steps_per_second, step)
        self.flush()

    def evaluation(self, evaluation: Evaluation) -> None:
        """Writes `evaluation/mean_return`."""
        self.add_scalar("evaluation/mean_return", evaluation.mean_return, evaluation.step)

    def close(self) -> None:
        """Closes the file."""
        self._events.close()

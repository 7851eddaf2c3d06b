"""What a run says while it goes: CSV files, TensorBoard events, a progress line. Nothing here influences the run."""

import contextlib
import csv
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO, cast

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from jaxrl.envs.episodes import FinishedEpisode
from jaxrl.envs.faults import Fault
from jaxrl.output import Output, say
from jaxrl.storage.files import sync, write_atomically

FAULT_COLUMNS = "step", "env_index", "fault", "wall_time"
EPISODE_COLUMNS = "step", "episode_return", "episode_length", "wall_time"
PLAIN_LINE_SECONDS = 10.0
REDRAW_SECONDS = 0.1


class Evaluation(NamedTuple):
    """One row of `evaluations.csv`: returns over whole episodes at a training step; `wall_time` in seconds."""

    step: int
    mean_return: float
    std_return: float
    min_return: float
    max_return: float
    episodes: int
    wall_time: float


class RunLog:
    """Writes a run's CSV files and TensorBoard events, and shows how far it is.

    Args:
      run_dir: the run's folder.
      metric_names: columns of metrics.csv.
      step: where the run starts.
      display: where to show how far it is.
      name: what the run is called there; empty where it is the only one.
      resumed: what `state` gave when the run was saved that this one goes on with; None for a run that begins.
    """

    def __init__(
        self,
        run_dir: Path,
        metric_names: Sequence[str],
        step: int,
        display: "Display",
        name: str = "",
        resumed: Mapping[str, Any] | None = None,
    ) -> None:
        beginning: dict[str, Any] = {"wall_time": 0.0, "rows": {}, "unlogged": []}
        state = beginning if resumed is None else resumed
        self._began = time.perf_counter() - state["wall_time"]
        self._pending = [FinishedEpisode(*each) for each in state["unlogged"]]
        self._recent: deque[float] = deque(maxlen=100)
        self._display, self._name = display, f"{name}: " if name else ""
        columns = {"episodes": EPISODE_COLUMNS, "evaluations": Evaluation._fields}
        columns |= {"metrics": ("step", *metric_names, "wall_time")}
        if state["rows"].get("faults"):
            columns["faults"] = FAULT_COLUMNS
        else:
            (run_dir / "faults.csv").unlink(missing_ok=True)
        self._run_dir = run_dir
        self._files = {
            name: _Table(run_dir / f"{name}.csv", titles, state["rows"].get(name, 0))
            for name, titles in columns.items()
        }
        self._board = _Board(run_dir, None if resumed is None else step + 1)

    @property
    def wall_time(self) -> float:
        """Seconds that the run has taken, earlier parts of a resumed one included."""
        return time.perf_counter() - self._began

    def state(self) -> dict[str, Any]:
        """What a later RunLog needs to go on from here, JSON-able, once all up to here is on the disk."""
        self._flush()
        for file in self._files.values():
            file.sync()
        rows = {name: file.rows for name, file in self._files.items()}
        return {"wall_time": self.wall_time, "rows": rows, "unlogged": self._pending}

    def _flush(self) -> None:
        for file in self._files.values():
            file.flush()
        self._board.flush()

    def episodes(self, step: int, finished: Sequence[FinishedEpisode]) -> None:
        """Takes episodes that ended at `step`."""
        now = f"{self.wall_time:.3f}"
        for _, episode_return, episode_length in finished:
            self._files["episodes"].add((step, repr(episode_return), episode_length, now))
            self._recent.append(episode_return)
        self._pending.extend(finished)

    def faults(self, step: int, faults: Sequence[Fault]) -> None:
        """Takes environments that were reset for a fault at `step`; the first of a run begins a table of them."""
        if "faults" not in self._files:
            self._files["faults"] = _Table(self._run_dir / "faults.csv", FAULT_COLUMNS, 0)
        for index, what in faults:
            self._files["faults"].add((step, index, what, f"{self.wall_time:.3f}"))
            self.say(f"step {step:,}: environment {index} {what}; it was reset")
        self._files["faults"].flush()

    def metrics(self, step: int, metrics: Mapping[str, float], wall_time: float) -> None:
        """Takes a row of the update's metrics, at a step that was reached after `wall_time` seconds."""
        row = (step, *(f"{value:.8g}" for value in metrics.values()), f"{wall_time:.3f}")
        self._files["metrics"].add(row)
        for name, value in metrics.items():
            self._board.add_scalar(f"update/{name}", value, step)

    @np.errstate(all="ignore")
    def progress(self, step: int) -> None:
        """Shows how far the run is, and writes all that has come in since the last call."""
        if self._pending:
            self._board.add_scalar("rollout/episode_return", np.mean([e.episode_return for e in self._pending]), step)
            self._board.add_scalar("rollout/episode_length", np.mean([e.episode_length for e in self._pending]), step)
            self._pending.clear()
        rate = self._display.advance(step, self._recent)
        self._board.add_scalar("time/steps_per_second", rate, step)
        self._flush()

    def evaluation(self, evaluation: Evaluation) -> None:
        """Takes an evaluation and writes it at once."""
        row = evaluation._replace(wall_time=f"{evaluation.wall_time:.3f}")  # type: ignore[arg-type]
        self._files["evaluations"].add(row)
        self._files["evaluations"].flush()
        self._board.add_scalar("evaluation/mean_return", evaluation.mean_return, evaluation.step)
        self._display.evaluated(evaluation, self._name)

    def say(self, line: str) -> None:
        """Prints a line above the progress."""
        self._display.say(self._name + line)

    def close(self) -> None:
        """Writes what is left and closes everything."""
        with contextlib.ExitStack() as left:  # A full disk may refuse the rest of each.
            left.callback(self._display.close)
            left.callback(self._board.close)
            for file in self._files.values():
                left.callback(file.close)


class _Table:
    """A CSV file that a resumed run continues: it keeps its first `rows` rows."""

    def __init__(self, path: Path, columns: Sequence[str], rows: int) -> None:
        kept = path.read_bytes().split(b"\n")[1:-1][:rows] if path.is_file() else []
        text = b"".join(line + b"\n" for line in (",".join(columns).encode(), *kept))
        write_atomically(path, lambda file: file.write(text))
        self.rows = len(kept)
        self._file = path.open("a", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")

    def add(self, row: Sequence[Any]) -> None:
        self._writer.writerow(row)
        self.rows += 1

    def sync(self) -> None:
        sync(self._file.fileno())

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class _Board:
    """Scalars for TensorBoard, as events in a file. They are written here and now: a thread that writes them, as
    tensorboardX's own front has one, can die of a full disk without anybody hearing of it, and is waited for then."""

    def __init__(self, run_dir: Path, purge_step: int | None) -> None:
        # The name has the time in seconds: a run that is resumed within one must not write over the file before.
        number = len(list(run_dir.glob("events.*")))
        self._events = EventsWriter(str(run_dir / "events"), f".{number:06d}")
        if (
            purge_step is not None
        ):  # What was written after the checkpoint that a resumed run goes on from is forgotten.
            self._write(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def add_scalar(self, name: str, value: Any, step: int) -> None:
        # Not by tensorboardX's own `scalar`, which warns of NaN: some numbers are NaN by their meaning.
        self._write(step=step, summary=Summary(value=[Summary.Value(tag=name, simple_value=float(value))]))

    def _write(self, **content: Any) -> None:
        self._events.write_event(Event(wall_time=time.time(), **content))

    def flush(self) -> None:
        self._events.flush()

    def close(self) -> None:
        self._events.close()


class Display:
    """A live line on a terminal, plain lines elsewhere. Nothing that it does ends a run: where it cannot print or draw,
    the run goes on without.

    Args:
      total_steps: where the run ends.
      step: where it starts.
    """

    def __init__(self, total_steps: int, step: int) -> None:
        self._total, self._began_at = total_steps, step
        self._clock = self._last_line = self._last_draw = time.perf_counter()
        self._rate, self._evaluated = 0.0, ""
        self._marks: deque[tuple[float, int]] = deque([(self._clock, step)], maxlen=20)
        self._bar: Progress | None = None
        with contextlib.suppress(Exception):
            self._start_bar()

    def _start_bar(self) -> None:
        console = Console(file=cast(TextIO, Output(sys.stdout)))
        if console.is_terminal:
            bar = Progress(
                BarColumn(bar_width=24), TextColumn("{task.description}"), console=console, auto_refresh=False
            )
            self._task = bar.add_task("starting", total=self._total, completed=self._began_at)
            bar.start()
            self._bar = bar

    def advance(self, step: int, recent: Sequence[float]) -> float:
        """Shows how far the run is, and the mean of its recent returns; gives its speed in steps per second."""
        now = time.perf_counter()
        then, before = self._marks[0]
        self._marks.append((now, step))
        self._rate = (step - before) / max(now - then, 1e-9)
        left = max(self._total - step, 0) / max(self._rate, 1e-9)
        text = f"step {step:,} of {self._total:,}  {self._rate:,.0f} steps/s  {_duration(left)} left"
        if recent:
            text += f"  return {np.mean(recent):,.1f}"
        text += self._evaluated
        if self._bar is not None and now - self._last_draw > REDRAW_SECONDS:
            with contextlib.suppress(Exception):
                self._bar.update(self._task, completed=step, description=text, refresh=True)
            self._last_draw = now
        elif self._bar is None and now - self._last_line > PLAIN_LINE_SECONDS:
            self.say(text)
        return self._rate

    def evaluated(self, evaluation: Evaluation, name: str = "") -> None:
        """Shows an evaluation of the run called `name`."""
        self._evaluated = f"  evaluated {evaluation.mean_return:,.1f}"
        rate = f", {self._rate:,.0f} steps/s" if self._rate else ""
        self.say(
            f"{name}step {evaluation.step:,}: evaluation {evaluation.mean_return:,.1f} +- {evaluation.std_return:,.1f} "
            f"over {evaluation.episodes} episodes{rate}, {_duration(evaluation.wall_time)} so far"
        )

    def say(self, line: str) -> None:
        """Prints a line above the progress."""
        if self._bar is None:
            self._last_line = time.perf_counter()
            say(line, sys.stdout)
        else:
            with contextlib.suppress(Exception):
                self._bar.console.print(line, highlight=False, markup=False)

    def close(self) -> None:
        """Leaves the live line as it stands."""
        if self._bar is not None:
            with contextlib.suppress(Exception):
                self._bar.refresh()
            with contextlib.suppress(Exception):  # This gives back sys.stdout and sys.stderr.
                self._bar.stop()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

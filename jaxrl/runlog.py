"""What a run says while it goes: CSV files, TensorBoard events, a progress line. Nothing here influences the run."""

import contextlib
import csv
import io
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from tensorboardX import SummaryWriter

from jaxrl.checkpoint import write_atomically
from jaxrl.envs import Fault, FinishedEpisode
from jaxrl.evaluate import Evaluation

EPISODE_COLUMNS = "step", "episode_return", "episode_length", "wall_time"
PLAIN_LINE_SECONDS = 10.0
REDRAW_SECONDS = 0.1


class RunLog:
    """Writes a run's CSV files and TensorBoard events, and shows how far it is.

    Args:
      run_dir: the run's folder.
      metric_names: columns of metrics.csv.
      step: where the run starts.
      wall_time: what a resumed run has taken before, in seconds; its tables keep their rows up to `step`. None for a
        run that begins.
      display: where to show how far it is.
      name: what the run is called there; empty where it is the only one.
    """

    def __init__(
        self,
        run_dir: Path,
        metric_names: Sequence[str],
        step: int,
        wall_time: float | None,
        display: "Display",
        name: str = "",
    ) -> None:
        self._began = time.perf_counter() - (wall_time or 0.0)
        kept = -1 if wall_time is None else step
        self._files = {
            "episodes": _Table(run_dir / "episodes.csv", EPISODE_COLUMNS, kept),
            "evaluations": _Table(run_dir / "evaluations.csv", Evaluation._fields, kept),
            "metrics": _Table(run_dir / "metrics.csv", ("step", *metric_names, "wall_time"), kept),
        }
        self._board = SummaryWriter(str(run_dir), purge_step=None if wall_time is None else step + 1, flush_secs=10)
        self._recent: deque[float] = deque(maxlen=100)
        self._pending: list[FinishedEpisode] = []
        self._display, self._name = display, f"{name}: " if name else ""
        self._fault_table = run_dir / "faults.csv", ("step", "env_index", "fault", "wall_time"), kept
        if self._fault_table[0].is_file():  # Of the run that this one resumes.
            self._files["faults"] = _Table(*self._fault_table)

    @property
    def wall_time(self) -> float:
        """Seconds that the run has taken, earlier parts of a resumed one included."""
        return time.perf_counter() - self._began

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
            self._files["faults"] = _Table(*self._fault_table)
        for index, what in faults:
            self._files["faults"].add((step, index, what, f"{self.wall_time:.3f}"))
            self.say(f"step {step:,}: environment {index} {what}; it was reset")
        self._files["faults"].flush()

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes a row of the update's metrics."""
        row = (step, *(f"{value:.8g}" for value in metrics.values()), f"{self.wall_time:.3f}")
        self._files["metrics"].add(row)
        for name, value in metrics.items():
            self._board.add_scalar(f"update/{name}", value, step)

    def progress(self, step: int) -> None:
        """Shows how far the run is, and writes all that has come in since the last call."""
        if self._pending:
            self._board.add_scalar("rollout/episode_return", np.mean([e.episode_return for e in self._pending]), step)
            self._board.add_scalar("rollout/episode_length", np.mean([e.episode_length for e in self._pending]), step)
            self._pending.clear()
        rate = self._display.advance(step, self._recent)
        self._board.add_scalar("time/steps_per_second", rate, step)
        for file in self._files.values():
            file.flush()

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
        self._display.close()
        for file in self._files.values():
            file.close()
        self._board.close()


class _Table:
    """A CSV file that a resumed run continues: it keeps the whole rows up to step `last`, -1 for none."""

    def __init__(self, path: Path, columns: Sequence[str], last: int) -> None:
        kept: list[list[str]] = []
        if path.is_file():
            rows = list(csv.reader(io.StringIO(path.read_text())))[1:]
            kept = [row for row in rows if len(row) == len(columns) and row[0].isdigit() and int(row[0]) <= last]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([columns, *kept])
        write_atomically(path, lambda file: file.write(text.getvalue().encode()))
        self._file = path.open("a", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")

    def add(self, row: Sequence[Any]) -> None:
        self._writer.writerow(row)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class Display:
    """A live line on a terminal, plain lines elsewhere.

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
        console = Console(file=sys.stdout)
        if console.is_terminal:
            self._bar = Progress(
                BarColumn(bar_width=24), TextColumn("{task.description}"), console=console, auto_refresh=False
            )
            self._task = self._bar.add_task("starting", total=total_steps, completed=step)
            self._bar.start()

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
            with contextlib.suppress(OSError):  # Nobody reads any more (a closed pipe, a full disk): the run goes on.
                print(line, flush=True)
        else:
            self._bar.console.print(line, highlight=False, markup=False)

    def close(self) -> None:
        """Leaves the live line as it stands."""
        if self._bar is not None:
            self._bar.refresh()
            self._bar.stop()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

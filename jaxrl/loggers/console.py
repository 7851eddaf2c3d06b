"""A run's progress on the screen: a live line on a terminal, plain lines elsewhere. Nothing here ends a run: where it
cannot print or draw, the run goes on without."""

import contextlib
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import TextIO, cast

import numpy as np
from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TextColumn

from jaxrl.envs.episodes import FinishedEpisode
from jaxrl.envs.faults import Fault
from jaxrl.loggers.logger import Evaluation, Logger
from jaxrl.output import Output, say

PLAIN_LINE_SECONDS = 10.0
REDRAW_SECONDS = 0.1


class Display:
    """A live line on a terminal, plain lines elsewhere. Several runs may share it.

    Args:
      total_steps: where the run ends.
    """

    def __init__(self, total_steps: int) -> None:
        self.total_steps = total_steps
        self._began = False
        self._last_line = self._last_draw = time.perf_counter()
        self._bar: Progress | None = None

    def _begin(self) -> None:
        """Draws the live line where there is a terminal. Not before there is something to show: a run that is refused
        prints one line alone."""
        self._began = True
        with contextlib.suppress(Exception):
            console = RichConsole(file=cast(TextIO, Output(sys.stdout)))
            if console.is_terminal:
                columns = BarColumn(bar_width=24), TextColumn("{task.description}")
                bar = Progress(*columns, console=console, auto_refresh=False)
                self._task = bar.add_task("starting", total=self.total_steps)
                bar.start()
                self._bar = bar

    def show(self, step: int, text: str) -> None:
        """Shows how far the run is: on the live line a few times a second, as a plain line every ten seconds."""
        if not self._began:
            self._begin()
        now = time.perf_counter()
        if self._bar is not None and now - self._last_draw > REDRAW_SECONDS:
            with contextlib.suppress(Exception):
                self._bar.update(self._task, completed=step, description=text, refresh=True)
            self._last_draw = now
        elif self._bar is None and now - self._last_line > PLAIN_LINE_SECONDS:
            self.say(text)

    def say(self, line: str) -> None:
        """Prints a line above the progress."""
        if not self._began:
            self._begin()
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


class Console(Logger):
    """Shows a run on a display.

    Args:
      display: where.
      name: what the run is called there; empty where it is the only one.
    """

    def __init__(self, display: Display, name: str = "") -> None:
        self._display, self._name = display, f"{name}: " if name else ""
        self._recent: deque[float] = deque(maxlen=100)
        self._rate, self._evaluated = 0.0, ""

    def episodes(self, step: int, finished: Sequence[FinishedEpisode], wall_time: float) -> None:
        """Takes the returns, whose mean is shown."""
        self._recent.extend(each.episode_return for each in finished)

    @np.errstate(all="ignore")
    def progress(self, step: int, steps_per_second: float, wall_time: float) -> None:
        """Shows how far the run is."""
        self._rate, total = steps_per_second, self._display.total_steps
        left = max(total - step, 0) / max(self._rate, 1e-9)
        text = f"step {step:,} of {total:,}  {self._rate:,.0f} steps/s  {_duration(left)} left"
        if self._recent:
            text += f"  return {np.mean(self._recent):,.1f}"
        self._display.show(step, text + self._evaluated)

    def evaluation(self, evaluation: Evaluation) -> None:
        """Prints an evaluation."""
        self._evaluated = f"  evaluated {evaluation.mean_return:,.1f}"
        rate = f", {self._rate:,.0f} steps/s" if self._rate else ""
        self.say(
            f"step {evaluation.step:,}: evaluation {evaluation.mean_return:,.1f} +- {evaluation.std_return:,.1f} "
            f"over {evaluation.episodes} episodes{rate}, {_duration(evaluation.wall_time)} so far"
        )

    def fault(self, step: int, fault: Fault, wall_time: float) -> None:
        """Prints a fault."""
        self.say(f"step {step:,}: environment {fault.env_index} {fault.what}; it was reset")

    def say(self, line: str) -> None:
        """Prints a line, after the run's name."""
        self._display.say(self._name + line)

    def close(self) -> None:
        """Leaves the display as it stands."""
        self._display.close()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

"""How a study yields to other work, for `jaxrl study --nice`. Its runs have the lowest priority and can be paused, and
the study says what is left and when it will be done."""

import argparse
import functools
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import FrameType

from jaxrl.studies.script import Mistake, columns
from jaxrl.studies.study_run import Part

LOWEST = 19
REPORT_SECONDS = 60.0

Going = Mapping["subprocess.Popen[bytes]", Part]


class Yielding:
    """The pauses and the outlook of one study.

    It is paused while the file `pause` is in `folder`, or from SIGUSR1 to SIGUSR2. A run's own process is stopped, not
    those of its environments: these end the step that they are at and then wait, so that no answer of theirs is late
    when the run goes on.

    Args:
      folder: the study's folder of runs.
      waiting: the runs that are to be done.
    """

    def __init__(self, folder: Path, waiting: Sequence[Part]) -> None:
        self._file, self._asked, self.paused = folder / "pause", False, False
        self._began_at = {part: steps_done(part) for part in waiting}
        self._worked = 0.0  # Seconds that were no pause.
        self._looked = self._reported = time.monotonic()
        for kind in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(kind, self._hear)

    def _hear(self, kind: int, frame: FrameType | None) -> None:
        self._asked = kind == signal.SIGUSR1

    def look(self, going: Going) -> None:
        """Pauses the runs, or lets them go on, where that is asked for."""
        now, paused = time.monotonic(), self._asked or self._file.exists()
        self._worked += 0.0 if self.paused else now - self._looked
        self._looked = now
        if paused != self.paused:
            self.paused = paused
            for process in going:
                process.send_signal(signal.SIGSTOP if paused else signal.SIGCONT)
            until = f"until {self._file} is gone" if self._file.exists() else "until SIGUSR2"
            print(f"paused {until}" if paused else "the study goes on", flush=True)

    def report(self, left: Sequence[Part], going: int, ended: bool) -> None:
        """Says what is left and when it will be done: after each run, and every so often.

        Args:
          left: the runs that are not over.
          going: how many of them are under way.
          ended: whether a run has just ended.
        """
        if self.paused or not left or not (ended or self._looked - self._reported > REPORT_SECONDS):
            return
        self._reported = self._looked
        taken = sum(steps_done(part) - began for part, began in self._began_at.items())
        steps = sum(max(0, steps_of(part.task, part.flags) - steps_done(part)) for part in left)
        line = f"{going} runs under way, {len(left) - going} to come, {steps:,} steps left"
        if taken > 0 and self._worked > 0:
            rate = taken / self._worked
            needs = timedelta(seconds=round(steps / rate))
            line += f", {rate:,.0f} a second: done in {needs}, {datetime.now() + needs:%Y-%m-%d %H:%M}"
        print(line, flush=True)


def lowest_priority(process: "subprocess.Popen[bytes]") -> None:
    """Gives a run, which must have a session of its own, and the processes that it starts what others leave over."""
    os.setpriority(os.PRIO_PROCESS, process.pid, LOWEST)
    # Linux first shares the cores among sessions, each by a niceness of its own, and only then within one.
    session = Path(f"/proc/{process.pid}/autogroup")
    for _ in range(10):
        try:
            session.write_text(str(LOWEST))
            return
        except BlockingIOError:  # Linux takes one change in a tenth of a second.
            time.sleep(0.1)
        except OSError:  # It is not Linux, or this Linux has no such groups.
            return


def steps_done(part: Part) -> int:
    """The step that a run has come to, as its own table says."""
    try:
        rows = columns(part.folder / "metrics.csv", ["step"])
        return int(rows[-1]["step"]) if rows else 0
    except (Mistake, ValueError):  # There is no such table yet.
        return 0


@functools.cache
def steps_of(task: str, flags: tuple[str, ...]) -> int:
    """How many steps a run takes in all; 0 where its flags are wrong, which it will say itself."""
    from jaxrl.errors import BadInput
    from jaxrl.runs.config import default_run  # Brings JAX, which a mistake need not wait for.

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--algo", default="ppo")
    parser.add_argument("--total-steps", "--total_steps", type=float)
    try:
        given, _ = parser.parse_known_args(flags)
        return default_run(given.algo, task).total_steps if given.total_steps is None else int(given.total_steps)
    except (argparse.ArgumentError, BadInput, OverflowError, ValueError):
        return 0

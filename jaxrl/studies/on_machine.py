"""A study's runs as processes of this machine, several at once."""

import signal
import subprocess
import time
from collections.abc import Sequence

from jaxrl.studies.script import Mistake
from jaxrl.studies.study_run import JAXRL, Part
from jaxrl.studies.yielding import Yielding, lowest_priority

POLL_SECONDS = 0.2


def run_all(waiting: Sequence[Part], at_once: int, yielding: Yielding | None = None) -> list[Mistake]:
    """Runs what waits, so many at once, and returns what went wrong. When it is interrupted, its runs save what they
    have. With `yielding` they give way to other work."""
    queue, going, wrong = list(waiting), dict[subprocess.Popen[bytes], Part](), list[Mistake]()
    try:
        while queue or going:
            if yielding is not None:
                yielding.look(going)
            while queue and len(going) < at_once and not (yielding is not None and yielding.paused):
                part = queue.pop(0)
                try:
                    going[process := _start(part, apart=yielding is not None)] = part
                except Mistake as mistake:
                    wrong.append(mistake)
                    continue
                if yielding is not None:
                    lowest_priority(process)
            under_way = len(going)
            for process, part in list(going.items()):
                if process.poll() is not None:
                    del going[process]
                    try:
                        part.end(process.returncode)
                    except Mistake as mistake:
                        wrong.append(mistake)
            if yielding is not None:
                yielding.report([*going.values(), *queue], len(going), ended=len(going) < under_way)
            time.sleep(POLL_SECONDS)
    finally:
        for process in going:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)  # One that is paused could not save.
        for process in going:
            process.wait()
    return wrong


def _start(part: Part, apart: bool) -> subprocess.Popen[bytes]:
    try:
        command = [*JAXRL, "train", *part.begin()]
    except BlockingIOError as error:
        raise Mistake(f"{part.folder} is in use: a run of an earlier start of the study still trains there") from error
    with part.beside("log").open("ab") as log:
        # A group of its own, and `apart` a session: Ctrl-C reaches it through us, once.
        return subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=apart,
            process_group=None if apart else 0,
        )  # fmt: skip

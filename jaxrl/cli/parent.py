"""The parent of a process that shares a distributed run. JAX ends its process from C++, with many lines, where another
one dies: Python does not hear of it. So a parent without JAX starts the process that has it, and makes one line of its
end. `jaxrl.cli.child` is the other side."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import IO

from jaxrl.output import Output, say

FATAL = "JAX distributed service detected fatal errors"  # The words of JAX where another process has ended.


def needs_parent(argv: Sequence[str]) -> bool:
    """True if the flags of `train` ask for a distributed run. Windows has no such parents: there JAX's lines stand."""
    return os.name == "posix" and any(word.partition("=")[0] == "--distributed" for word in argv)


def run_child(argv: Sequence[str], prog: str) -> int:
    """Runs `train` with these flags in a process of its own, whose output is this one's, and hands on signals to stop.

    Returns:
      The exit code of that process; 1 where a signal has ended it, after one line that says so.
    """
    # Until there is a child, a signal ends this process as any other; without a parent the child ends too.
    with tempfile.TemporaryFile() as noise:
        child = subprocess.Popen(
            [sys.executable, "-m", "jaxrl.cli.child", str(noise.fileno()), prog, *argv],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[noise.fileno()],
            process_group=0,  # Ctrl-C on a terminal comes from here alone.
        )
        from jaxrl.envs.processes import STOP_SIGNALS  # It takes a moment.

        for kind in STOP_SIGNALS:
            if signal.getsignal(kind) is not signal.SIG_IGN:  # nohup ignores SIGHUP.
                signal.signal(kind, lambda kind, _: child.send_signal(kind))
        assert child.stderr is not None
        last = _pass_on(child.stderr)
        code = child.wait()
        if code >= 0:
            return code
        if not last.startswith("jaxrl: "):  # Else it has said itself what became of it.
            noise.seek(0)
            say(f"jaxrl: {_reason(-code, noise.read().decode(errors='replace'))}", sys.stderr)
    return 1


def _pass_on(stream: IO[bytes]) -> str:
    """Copies all that the child writes to stderr, and gives the last line of it."""
    output, tail = Output(sys.stderr), ""
    while chunk := os.read(stream.fileno(), 65536).decode(errors="replace"):
        output.write(chunk)
        output.flush()
        tail = (tail + chunk)[-4096:]
    return tail.rstrip().rpartition("\n")[2]


def _reason(kind: int, noise: str) -> str:
    """Why a signal has ended the child, in one line."""
    saved = "the last checkpoint has the run up to it"
    if kind == signal.SIGABRT and FATAL in noise:
        return f"another process of the run has ended or cannot be reached, so this one ends too; {saved}"
    words = noise.split() if kind == signal.SIGABRT else []
    more = f" ({' '.join(words)[-300:]})" if words else ""
    return f"this process of the run was ended by {signal.Signals(kind).name}{more}, so the others end too; {saved}"

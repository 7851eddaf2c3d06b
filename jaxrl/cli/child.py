"""The process of a distributed run that has JAX: `jaxrl.cli.parent` starts it."""

import os
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import TextIO

from jaxrl.cli.main import train_here

CLEAN = 0, 128 + 1, 128 + 2, 128 + 15  # Exit codes of a run that is done, or was stopped by SIGHUP, Ctrl-C or SIGTERM.


def main(noise: int, prog: str, argv: Sequence[str]) -> int:
    """Trains as the flags say.

    Args:
      noise: a file that C++ code may print to, for the parent to read. Gloo prints a line at each start, and JAX a page
        where another process dies.
      prog: what help and errors call the command.
      argv: the flags.

    Returns:
      The exit code of a run that has ended together with the other processes'. Otherwise it ends this process at once:
      to end JAX means to wait for them.
    """
    sys.stdout, sys.stderr = _of_its_own(sys.stdout), _of_its_own(sys.stderr)
    for standard in (1, 2):
        os.dup2(noise, standard)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        code = train_here(argv, prog)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
        code = 1
    if code not in CLEAN:
        _end(code)
    return code


def _of_its_own(stream: TextIO) -> TextIO:
    """The same stream, under a file descriptor that C++ code does not know."""
    descriptor = os.dup(stream.fileno())
    return open(descriptor, "w", buffering=1, encoding=stream.encoding, errors=stream.errors)  # noqa: PTH123


def _end_with_parent() -> None:
    """Waits for the end of the pipe from the parent, however the parent ends."""
    while os.read(0, 1):
        pass
    _end(1)


def _end(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))

"""The rows that runs write while they train: for figures that are drawn again and again, `jaxrl plot --live`."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such locks.
    fcntl = None  # type: ignore[assignment]

POLL_SECONDS = 1.0


def changes(sources: Sequence[Path], table: str) -> Iterator[bool]:
    """Waits for rows of these runs, as long as one of them trains.

    Args:
      sources: folders of runs, or of studies and searches of such.
      table: the file that is looked at in each run's folder, such as "evaluations.csv".

    Yields:
      True at the start, and whenever a table has changed; False at last, once no run trains any more.
    """
    before: dict[Path, tuple[int, int]] | None = None
    while True:
        going = any(_trains(source) for source in sources)  # Looked at first: what is written until the end counts.
        now = {path: _mark(path) for source in sources for path in sorted(source.rglob(table))}
        if not going:
            yield False
            return
        if now != before:
            yield True
        before = now
        time.sleep(POLL_SECONDS)


def _trains(source: Path) -> bool:
    """True if a process trains in this folder or in one below it, or runs a study or a search there."""
    folders = {source, *(path.parent for path in source.rglob("config.json"))}
    return any(_is_locked(path) for path in (source / "lock", *folders))


def _is_locked(path: Path) -> bool:
    """True if a process holds the lock on this, as on the folder of a run that trains."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # There is no such file, or Windows opens no folders.
        return False
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # Some network file systems know no locks.
        return False
    finally:
        os.close(handle)
    return False


def _mark(path: Path) -> tuple[int, int]:
    """Two numbers, one of which changes when a file is written to."""
    try:
        about = path.stat()
    except OSError:  # It has just gone: the run begins anew.
        return 0, 0
    return about.st_mtime_ns, about.st_size

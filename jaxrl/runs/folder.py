"""A run's folder: how it is made, found and locked, and what lies in it beside the logs and the checkpoints."""

import contextlib
import errno
import itertools
import json
import os
import re
from pathlib import Path
from typing import Any, Self

import jax

from jaxrl.errors import BadInput
from jaxrl.runs.origin import commit, machine, versions
from jaxrl.storage.files import write_atomically
from jaxrl.storage.policy import save_policy

try:
    import fcntl
except ImportError:  # Windows has no such locks.
    fcntl = None  # type: ignore[assignment]


class RunFolder:
    """A run's folder, in which one process at a time trains. It is locked until it is closed, or the process ends.

    Args:
      named: an existing folder, as the user named it: `claim_folder` makes a new one.
      here: the folder that a relative name starts from. Code of the user's may move the working folder at any time.

    Attributes:
      path: where the files lie, whatever the working folder is.

    Raises:
      BadInput: there is no such folder, or another process trains there.
    """

    def __init__(self, named: str | Path, here: Path = Path()) -> None:
        self._named, self._here = Path(named), here
        self.path = here / named
        if not self.path.is_dir():
            raise BadInput(f"there is no folder {named}")
        self._descriptor: int | None = None
        self._lock()

    def _lock(self) -> None:
        """Two processes in one folder would remove each other's files."""
        try:
            self._descriptor = os.open(self.path, os.O_RDONLY)
            if fcntl is not None:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise BadInput(f"{self.shown} is in use: another process trains there") from error
        except OSError:  # Some network file systems know no locks, and Windows opens no folders.
            pass

    @property
    def shown(self) -> Path:
        """The folder for users: as it was named, or its absolute path where the working folder has moved."""
        return reachable(self._named, self._here)

    def write_config(self, record: dict[str, Any]) -> None:
        """Writes `config.json`.

        Args:
          record: the run's settings, JSON-able. Where its numbers come from is added.
        """
        origin = {"versions": versions(), "commit": commit(), "machine": machine(), "device": str(jax.devices()[0])}
        about = {"run": record} | origin
        text = json.dumps(about, indent=2).encode() + b"\n"
        write_atomically(self.path / "config.json", lambda file: file.write(text))

    def save_policy(
        self, name: str, actor: Any, normalizer: Any, env_name: str, spaces: tuple[Any, Any], notes: dict[str, Any]
    ) -> None:
        """Writes a policy that `jaxrl.load_policy` reads into `policy/NAME`.

        Args:
          name: "best" or "latest".
          actor: the actor's TrainState.
          normalizer: statistics that its observations are standardised with.
          env_name: the task.
          spaces: of observations and of actions.
          notes: anything else, JSON-able. The versions of the packages are added.
        """
        save_policy(self.path / "policy" / name, actor, normalizer, env_name, *spaces, notes | {"versions": versions()})

    def close(self) -> None:
        """Gives the lock back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def claim_folder(named: str | Path, here: Path = Path()) -> Path:
    """Makes a folder for a new run.

    Args:
      named: its path; there may be an empty folder already.
      here: the folder that a relative path starts from.

    Returns:
      `named`.

    Raises:
      BadInput: there is something in the folder, or it cannot be made.
    """
    named = Path(named)
    folder = here / named
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise BadInput(f"run_dir {named} is not empty: name a new folder, or continue its run with resume")
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise BadInput(f"run_dir {named} cannot be written to ({error.strerror}): name another") from error
    return named


def claim_next_folder(name: str, here: Path = Path()) -> Path:
    """Makes the next free folder runs/NAME, runs/NAME-2, ... below `here`, and gives it relative to `here`. Processes
    that do this at the same time get different ones."""
    name = re.sub(r"[^\w.-]+", "-", name)
    try:
        (here / "runs").mkdir(exist_ok=True)
        for suffix in itertools.count(1):
            named = Path("runs") / (name if suffix == 1 else f"{name}-{suffix}")
            with contextlib.suppress(FileExistsError):
                (here / named).mkdir(parents=True)  # A study that is refused removes runs again.
                break
    except OSError as error:
        raise BadInput(f"no folder can be made in runs ({error.strerror}): name one with run_dir") from error
    return named


def working_folder() -> Path:
    """The folder that relative paths start from now; the empty path where it was removed."""
    try:
        return Path.cwd()
    except OSError:
        return Path()


def reachable(named: Path, here: Path) -> Path:
    """The path `named`, relative to `here`, as it stands where that still leads there: nothing has moved the working
    folder. Else the path from `here`."""
    return named if working_folder() == here else here / named

"""One run of a study: where it lives, whether it is done, and what begins it or goes on with it."""

import fcntl
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from jaxrl.studies.script import Mistake


def _python(code: str) -> tuple[str, ...]:
    """Python in a process of its own. Under `python -m` the current folder would come first, where a module may have
    the name of one of ours."""
    return sys.executable, "-c", f"import sys; sys.path = [each for each in sys.path if each]; {code}"


JAXRL = _python("from jaxrl.cli.main import main; sys.exit(main())")  # The command `jaxrl`.
# `jaxrl train`, which ends where training would begin.
CHECK = _python("from jaxrl.cli.main import train_command; sys.exit(train_command(only_check=True))")
AGAIN = "--wrapper", "--networks", "--num-threads", "--logger"  # What a run that goes on is told again.


class Part(NamedTuple):
    """One run of a study."""

    task: str
    variant: str
    seed: int
    flags: tuple[str, ...]
    folder: Path

    def __str__(self) -> str:
        return f"{self.task}, {self.variant}, seed {self.seed}"

    @property
    def done(self) -> bool:
        """True if it has come to its end."""
        return (self.folder / "done").exists()

    @property
    def saved(self) -> bool:
        """True if it can go on from a checkpoint."""
        return any((self.folder / "checkpoints" / f"{name}.npz").exists() for name in ("latest", "previous"))

    def beside(self, ending: str) -> Path:
        """A file beside its folder."""
        return self.folder.with_name(f"seed-{self.seed}.{ending}")

    def begin(self) -> list[str]:
        """Makes its place ready, and returns the arguments of `jaxrl train` that begin it or go on with it.

        Raises:
          BlockingIOError: a process still trains there.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        if self.folder.is_dir():
            self._take()
        self.beside("flags").write_text(shlex.join(self.flags))
        if self.saved:
            # Code of the user's is imported only where the command names it.
            ours = ":" not in self.task
            return ["--resume", str(self.folder), *([] if ours else ["--env", self.task]), *self._named_again()]
        return ["--env", self.task, *self.flags, "--seed", str(self.seed), "--run-dir", str(self.folder)]

    def _named_again(self) -> list[str]:
        """The flags that a run which goes on is given again: code of the user's, and what the process takes."""
        groups: list[list[str]] = []
        for word in self.flags:
            if word.startswith("--") or not groups:
                groups.append([])
            groups[-1].append(word)
        code = [group for group in groups if group[0].split("=")[0] == "--algo" and ":" in group[-1]]
        again = [group for group in groups if group[0].split("=")[0] in AGAIN]
        return [word for group in code + again for word in group]

    def _take(self) -> None:
        """Sees that no process trains there, and removes what one that was killed before its first checkpoint left."""
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self.saved:
                shutil.rmtree(self.folder)
        finally:
            os.close(handle)

    def end(self, code: int) -> None:
        """Marks it done, or says why it is not.

        Raises:
          Mistake: its exit code is not 0.
        """
        if code != 0:
            said = self.beside("log").read_text(errors="replace").strip().splitlines()
            print(f"{self}: failed", flush=True)
            raise Mistake(f"{self} ended with exit code {code}: {said[-1] if said else 'it said nothing'}")
        (self.folder / "done").touch()
        print(f"{self}: done", flush=True)

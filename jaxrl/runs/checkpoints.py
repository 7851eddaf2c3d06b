"""A run's checkpoints: `latest.npz` and `previous.npz`, and the replay buffer in parts that both may share. They hold
any pytree, and notes beside it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jaxrl.data.replay import Replay
from jaxrl.errors import BadInput
from jaxrl.storage.files import DamagedFile, clean_up, load_arrays, load_tree, save_tree
from jaxrl.storage.replay_segments import Segment, forget, load_replay, save_replay

# Errors that reading damaged notes may raise.
NOTE_ERRORS = KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError


class Checkpoint(NamedTuple):
    """The content of a checkpoint: the pytree, the notes, and the replay buffer where one was asked for."""

    tree: Any
    notes: dict[str, Any]
    replay: Replay | None


class Checkpoints:
    """The checkpoints of a run. The last two are kept, so that there is always a whole one.

    Args:
      run_dir: the run's folder; they lie in its folder `checkpoints`.

    Attributes:
      folder: where they lie.
      notice: says, after `load`, why the checkpoint before the latest was taken; empty where the latest was.
    """

    def __init__(self, run_dir: Path) -> None:
        self.folder, self.notice = run_dir / "checkpoints", ""
        self._latest, self._previous = self.folder / "latest.npz", self.folder / "previous.npz"
        self._newest = self._latest
        self._segments: list[Segment] = []  # Of the replay buffer, as the last checkpoint needs them.

    def save(self, tree: Any, notes: dict[str, Any], replay: Replay | None = None, stored: int = 0) -> None:
        """Writes a checkpoint beside the last one, which stays until the next.

        Args:
          tree: a pytree of arrays.
          notes: anything else, JSON-able. The name "segments" is taken.
          replay: a replay buffer. Transitions that the last checkpoint holds already are not written again.
          stored: how many transitions the buffer has ever taken in.

        Raises:
          OSError: it cannot be written; the last one is whole.
        """
        self.folder.mkdir(exist_ok=True)
        segments, coming = self._segments, self.folder / "next.npz"
        if replay is not None:
            segments = save_replay(self.folder, replay, stored, segments)
        save_tree(coming, tree, notes | {"segments": segments})
        if self._latest.is_file():
            self._latest.replace(self._previous)
        coming.replace(self._latest)
        forget(self.folder, [*self._segments, *segments])
        self._segments = segments

    def load(self, like: Any, replay: Replay | None = None) -> Checkpoint:
        """Reads the latest checkpoint, or the one before it where the latest is damaged. Nothing on the disk is
        changed: `tidy_up` does that.

        Args:
          like: a pytree of the structure, shapes and types that were saved; or, where these depend on the notes, a
            function of the notes that gives it.
          replay: an empty buffer, which is consumed and filled.

        Returns:
          The checkpoint. Its tree has JAX arrays where `like` has them, and NumPy arrays elsewhere.

        Raises:
          BadInput: there is none, or one of another structure.
        """
        if self.folder.is_symlink():
            raise BadInput(f"{self.folder} is a link, and may lead anywhere: it must be a folder")
        if self._previous.is_file() and not self._latest.exists():  # The process was killed between two renamings.
            self._newest = self._previous
        try:
            return self._read(self._newest, like, replay)
        except DamagedFile as error:
            if self._newest == self._previous or not self._previous.is_file():
                raise
            self.notice = f"{error}: going back to the checkpoint before it"
            self._newest = self._previous
            return self._read(self._newest, like, replay)

    def _read(self, path: Path, like: Any, replay: Replay | None) -> Checkpoint:
        _, notes = load_arrays(path, ())
        with readable(path):
            segments = _segments_of(notes)
            tree, _ = load_tree(path, like(notes) if callable(like) else like)
            if replay is not None:
                stored = segments[-1].last if segments else 0
                replay = load_replay(self.folder, replay, stored, segments)
        self._segments = segments
        return Checkpoint(tree, notes, replay)

    def tidy_up(self) -> None:
        """Makes the checkpoint that was read the latest, and removes what crashes have left in the run's folder."""
        clean_up(self.folder.parent)
        (self.folder / "next.npz").unlink(missing_ok=True)
        kept = list(self._segments)
        if self._newest == self._previous:
            if self._latest.is_file():
                self._latest.replace(self.folder / "damaged.npz")
            self._previous.replace(self._latest)
        elif self._previous.is_file():
            with contextlib.suppress(BadInput):  # Damaged, it needs nothing.
                kept += _segments_of(load_arrays(self._previous, ())[1])
        forget(self.folder, kept)


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Around reading notes: those that cannot be read are refused in one line."""
    try:
        yield
    except BadInput:
        raise
    except NOTE_ERRORS as error:
        raise BadInput(f"{path} has notes that are damaged: {type(error).__name__}: {error}") from error


def _segments_of(notes: dict[str, Any]) -> list[Segment]:
    return [Segment(int(first), int(last), str(digest)) for first, last, digest in notes["segments"]]

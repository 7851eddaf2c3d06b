"""The replay buffer on disk: what is added between two checkpoints is one file, so that a checkpoint costs what is new.

Transitions are numbered in the order in which they were stored, from 0. A segment holds those from `first` up to, but
without, `last`; its digest is written down in the checkpoint that needs it.
"""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrl.data.replay import Replay, replay_like, replay_refill
from jaxrl.errors import BadInput
from jaxrl.storage.files import DamagedFile, digest_of, load_tree, save_tree


class Segment(NamedTuple):
    """A file of transitions: the numbers of the first and of the one after the last, and the file's digest."""

    first: int
    last: int
    digest: str

    @property
    def name(self) -> str:
        """The file's name."""
        return f"replay-{self.first:012d}-{self.last:012d}.npz"


def save_replay(folder: Path, replay: Replay, stored: int, segments: Sequence[Segment]) -> list[Segment]:
    """Writes what the buffer has taken in since the last of `segments`.

    Args:
      folder: where they lie.
      replay: the buffer.
      stored: how many transitions it has ever taken in.
      segments: those of the last checkpoint, oldest first.

    Returns:
      Those that hold the buffer now.
    """
    oldest = stored - int(jax.device_get(replay.size))
    first = max(oldest, segments[-1].last if segments else 0)
    needed = [segment for segment in segments if segment.last > oldest]
    if first == stored:
        return needed
    places = np.arange(first, stored) % replay.capacity
    rows = jax.tree.map(lambda column: jax.device_get(column)[places], replay.rows)
    digest = save_tree(folder / Segment(first, stored, "").name, {"rows": rows}, {})
    return [*needed, Segment(first, stored, digest)]


def load_replay(folder: Path, replay: Replay, stored: int, segments: Sequence[Segment]) -> Replay:
    """Fills an empty buffer, which is consumed, with what it held when it had taken in `stored` transitions.

    Raises:
      BadInput: the segments are not those of such a buffer; DamagedFile: one of them is not as it was written.
    """
    size = min(stored, replay.capacity)
    oldest, reached = stored - size, segments[0].first if segments else 0
    parts: list[Any] = []
    for segment in segments:
        if segment.first != reached or not 0 < segment.last - segment.first <= replay.capacity:
            raise BadInput(f"the transitions in {folder} do not follow upon each other at {reached:,}")
        path, reached = folder / segment.name, segment.last
        if not path.exists():
            raise DamagedFile(f"{path} is missing")
        if digest_of(path) != segment.digest:
            raise DamagedFile(f"{path} is not the file that its checkpoint was made with")
        part, _ = load_tree(path, {"rows": replay_like(replay, segment.last - segment.first)})
        parts.append(jax.tree.map(functools.partial(_without, max(0, oldest - segment.first)), part["rows"]))
    if reached != stored or (segments and segments[0].first > oldest):
        raise BadInput(f"the transitions in {folder} do not make up a replay buffer of {replay.capacity:,}")
    if not parts:
        return replay
    # The ring's first place holds the transition whose number it divides; where it is not yet full, the oldest.
    turn = oldest % replay.capacity
    rows = jax.tree.map(lambda *columns: np.roll(np.concatenate(columns), turn, axis=0), *parts)
    return replay_refill(replay, rows, stored % replay.capacity if size == replay.capacity else size)


def _without(count: int, column: np.ndarray) -> np.ndarray:
    return column[count:]


def forget(folder: Path, needed: Iterable[Segment]) -> None:
    """Removes the segments that no checkpoint needs any more."""
    names = {segment.name for segment in needed}
    for path in folder.glob("replay-*.npz"):
        if path.name not in names:
            path.unlink()

"""A run's checkpoints: `latest.npz` and `previous.npz`, and the replay buffer in parts that both may share. What is in
them of a Training is known here; whoever saves adds notes of its own."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxrl.errors import BadInput
from jaxrl.runs.state import Training
from jaxrl.storage.files import DamagedFile, clean_up, load_arrays, load_tree, save_tree
from jaxrl.storage.replay_segments import Segment, forget, load_replay, save_replay

# What reading odd notes may raise.
STRANGE = KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError


class Savepoints:
    """The checkpoints in a run's folder.

    Args:
      run_dir: the run's folder.
      algo, env: what the run is; a checkpoint of another is refused.

    Attributes:
      notice: what was read instead of the latest checkpoint, and why; empty where it was that.
    """

    def __init__(self, run_dir: Path, algo: str, env: str) -> None:
        self.notice = ""
        self._run_dir, self._is = run_dir, {"algo": algo, "env": env}
        self._folder = run_dir / "checkpoints"
        self._latest, self._previous = self._folder / "latest.npz", self._folder / "previous.npz"
        self._newest = self._latest
        self._segments: list[Segment] = []  # Of the replay buffer, as the last checkpoint needs them.

    def write(self, training: Training, notes: dict[str, Any]) -> None:
        """Writes a checkpoint beside the last one, which stays until the next.

        Args:
          training: all of it is kept.
          notes: anything else, JSON-able.

        Raises:
          OSError: it cannot be written; the last one is whole.
        """
        own = {
            "step": training.step,
            "rng": training.rng.bit_generator.state,
            "envs": training.envs.state(),
            "steps_due": training.steps_due,
            "rows": training.rows,
        }
        segments, coming = self._segments, self._folder / "next.npz"
        if (replay := training.replay) is not None:
            segments = save_replay(self._folder, replay, training.step, segments)
        tree = {"state": training.state, "normalizer": training.normalizer}
        tree |= {"rollout": training.rollout} if training.rows else {}
        save_tree(coming, tree, notes | own | self._is | {"segments": segments})
        if self._latest.is_file():
            self._latest.replace(self._previous)
        coming.replace(self._latest)
        forget(self._folder, [*self._segments, *segments])
        self._segments = segments

    def read(self, training: Training) -> dict[str, Any]:
        """Brings `training` to where the latest whole checkpoint was made, but for its environments. Nothing on the
        disk is changed.

        Returns:
          The notes; "envs" among them is the state of the environments.

        Raises:
          BadInput: there is none, or one of another run.
        """
        if self._folder.is_symlink():
            raise BadInput(f"{self._folder} is a link, and may lead anywhere: it must be a folder")
        if self._previous.is_file() and not self._latest.exists():  # The process was killed between two renamings.
            self._newest = self._previous
        try:
            return self._read_from(self._newest, training)
        except DamagedFile as error:
            if self._newest == self._previous or not self._previous.is_file():
                raise
            self.notice = f"{error}: going back to the checkpoint before it"
            self._newest = self._previous
            return self._read_from(self._newest, training)

    def _read_from(self, path: Path, training: Training) -> dict[str, Any]:
        _, notes = load_arrays(path, ())
        found, wanted = (notes.get("algo"), notes.get("env")), tuple(self._is.values())
        if found != wanted:
            raise BadInput(f"{path} is of {found[0]} on {found[1]}, not of {wanted[0]} on {wanted[1]}")
        like: dict[str, Any] = {"state": training.state, "normalizer": training.normalizer}
        with readable(path):
            rows, step, segments = int(notes["rows"]), int(notes["step"]), _segments_of(notes)
            if not 0 <= rows <= (0 if training.rollout is None else len(training.rollout.reward)):
                raise ValueError(f"{rows} rows of a rollout")
            like |= {"rollout": training.rollout} if rows else {}
            tree, _ = load_tree(path, like)
            if training.memory is not None:
                replay = load_replay(self._folder, training.memory[training.place], step, segments)
                training.memory[training.place] = replay
            training.state, training.normalizer = tree["state"], tree["normalizer"]
            training.rng.bit_generator.state = notes["rng"]
            training.step, training.steps_due = step, int(notes["steps_due"])
            training.rollout, training.rows = tree.get("rollout", training.rollout), rows
            if notes["envs"] is None:
                training.begin_anew()
        self._segments = segments
        return notes

    def tidy_up(self) -> None:
        """Makes the checkpoint that was read the latest, and removes what crashes have left."""
        clean_up(self._run_dir)
        (self._folder / "next.npz").unlink(missing_ok=True)
        kept = list(self._segments)
        if self._newest == self._previous:
            if self._latest.is_file():
                self._latest.replace(self._folder / "damaged.npz")
            self._previous.replace(self._latest)
        elif self._previous.is_file():
            with contextlib.suppress(BadInput):  # Damaged, it needs nothing.
                kept += _segments_of(load_arrays(self._previous, ())[1])
        forget(self._folder, kept)


def adopt(source: Path, training: Training, names: Sequence[str]) -> None:
    """Starts `training` from the networks, `names` of the state's fields, and the observation statistics of the run in
    `source`."""
    latest = source / "checkpoints" / "latest.npz"
    path = latest if latest.exists() else latest.with_name("previous.npz")  # Killed between two renamings.
    if not path.exists():
        raise BadInput(
            f"init_from {source} holds no checkpoint, there is no {latest}: it must be the folder of a single run"
        )
    networks = {name: getattr(training.state, name) for name in names}
    wanted = {
        name: {part: getattr(network, part) for part in ("params", "target_params") if hasattr(network, part)}
        for name, network in networks.items()
    }
    found, _ = load_tree(path, {"state": wanted}, partly=True)
    training.state = training.state.replace(
        **{name: network.replace(**found["state"][name]) for name, network in networks.items()}
    )
    stored, _ = load_arrays(path, {"normalizer.obs.mean"})
    if bool(stored) != (training.normalizer.obs is not None):
        raise BadInput(
            f"one of {source} and this run normalises observations and one does not: set normalize_obs alike"
        )
    if training.normalizer.obs is not None:
        found, _ = load_tree(path, {"normalizer": {"obs": training.normalizer.obs}}, partly=True)
        training.normalizer = training.normalizer._replace(obs=found["normalizer"]["obs"])


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Around reading notes: those that cannot be are refused in one line."""
    try:
        yield
    except BadInput:
        raise
    except STRANGE as error:
        raise BadInput(f"{path} has notes that are damaged: {type(error).__name__}: {error}") from error


def _segments_of(notes: dict[str, Any]) -> list[Segment]:
    return [Segment(int(first), int(last), str(digest)) for first, last, digest in notes["segments"]]

"""A run's CSV files: `episodes.csv`, `metrics.csv`, `evaluations.csv`, and `faults.csv` where there was a fault."""

import contextlib
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrl.envs.episodes import FinishedEpisode
from jaxrl.envs.faults import Fault
from jaxrl.loggers.logger import Evaluation, Logger
from jaxrl.storage.files import sync, write_atomically

FAULT_COLUMNS = "step", "env_index", "fault", "wall_time"
EPISODE_COLUMNS = "step", "episode_return", "episode_length", "wall_time"


class CsvFiles(Logger):
    """Writes a run's CSV files.

    Args:
      folder: the run's folder.
      metric_names: columns of `metrics.csv`.
      rows: how many rows of each file a run that resumes keeps, as `sync` gave it when the run was saved. Later ones
        are dropped. None for a run that begins.
    """

    def __init__(self, folder: Path, metric_names: Sequence[str], rows: Mapping[str, int] | None = None) -> None:
        rows = {} if rows is None else rows
        columns = {"episodes": EPISODE_COLUMNS, "evaluations": Evaluation._fields}
        columns |= {"metrics": ("step", *metric_names, "wall_time")}
        if rows.get("faults"):
            columns["faults"] = FAULT_COLUMNS
        else:
            (folder / "faults.csv").unlink(missing_ok=True)
        self._folder = folder
        self._files = {
            name: _Table(folder / f"{name}.csv", titles, rows.get(name, 0)) for name, titles in columns.items()
        }

    def sync(self) -> dict[str, int]:
        """Waits until all rows are on the disk.

        Returns:
          How many rows each file has, JSON-able: what a checkpoint notes, for the CsvFiles of a run that resumes.
        """
        for file in self._files.values():
            file.flush()
            file.sync()
        return {name: file.rows for name, file in self._files.items()}

    def episodes(self, step: int, finished: Sequence[FinishedEpisode], wall_time: float) -> None:
        """Takes a row for each episode."""
        for _, episode_return, episode_length in finished:
            self._files["episodes"].add((step, repr(episode_return), episode_length, f"{wall_time:.3f}"))

    def metrics(self, step: int, metrics: Mapping[str, float], wall_time: float) -> None:
        """Takes a row of metrics."""
        self._files["metrics"].add((step, *(f"{value:.8g}" for value in metrics.values()), f"{wall_time:.3f}"))

    def progress(self, step: int, steps_per_second: float, wall_time: float) -> None:
        """Writes all that was taken."""
        for file in self._files.values():
            file.flush()

    def evaluation(self, evaluation: Evaluation) -> None:
        """Writes an evaluation at once."""
        self._files["evaluations"].add((*evaluation[:-1], f"{evaluation.wall_time:.3f}"))
        self._files["evaluations"].flush()

    def fault(self, step: int, fault: Fault, wall_time: float) -> None:
        """Writes a fault at once; the first of a run begins the file."""
        if "faults" not in self._files:
            self._files["faults"] = _Table(self._folder / "faults.csv", FAULT_COLUMNS, 0)
        self._files["faults"].add((step, fault.env_index, fault.what, f"{wall_time:.3f}"))
        self._files["faults"].flush()

    def close(self) -> None:
        """Writes the rest and closes the files."""
        with contextlib.ExitStack() as left:  # A full disk may refuse the rest of each.
            for file in self._files.values():
                left.callback(file.close)


class _Table:
    """A CSV file that a resumed run continues: it keeps its first `rows` rows."""

    def __init__(self, path: Path, columns: Sequence[str], rows: int) -> None:
        kept = path.read_bytes().split(b"\n")[1:-1][:rows] if path.is_file() else []
        text = b"".join(line + b"\n" for line in (",".join(columns).encode(), *kept))
        write_atomically(path, lambda file: file.write(text))
        self.rows = len(kept)
        self._file = path.open("a", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")

    def add(self, row: Sequence[Any]) -> None:
        self._writer.writerow(row)
        self.rows += 1

    def sync(self) -> None:
        sync(self._file.fileno())

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

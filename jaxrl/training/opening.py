"""How a run begins: a new one in a new folder, or one that resumes where its latest checkpoint was made."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from jaxrl.envs.episodes import FinishedEpisode
from jaxrl.errors import BadInput
from jaxrl.loggers.logger import Evaluation
from jaxrl.runs.checkpoints import Checkpoints, readable
from jaxrl.runs.config import RunConfig
from jaxrl.runs.folder import RunFolder, claim_folder, claim_next_folder, reachable
from jaxrl.runs.record import check_resumable, run_to_json
from jaxrl.runs.state import Training, adopt, load_training
from jaxrl.runs.streams import ENVIRONMENTS, stream


class Resumed(NamedTuple):
    """The notes that a runner writes into a checkpoint, and finds in it.

    Attributes:
      evaluations: all up to then.
      evaluated, logged: the steps of the last evaluation and row of metrics.
      pending: metrics of the updates since that row.
      wall_time: seconds that the run had taken.
      rows: how many rows each CSV file had.
      unlogged: episodes that TensorBoard had not yet.
      knows_envs: whether the environments go on in the middle of their episodes.
    """

    evaluations: list[Evaluation]
    evaluated: int
    logged: int
    pending: list[list[float]]
    wall_time: float
    rows: dict[str, int]
    unlogged: list[FinishedEpisode]
    knows_envs: bool


def begin_run(run: RunConfig, training: Training, here: Path) -> RunFolder:
    """Makes the folder of a new run and resets its environments. Where the run starts from another's networks, brings
    `training` there. A mistake in the settings is told before there is a folder.

    Args:
      run: the run's settings.
      training: where it begins.
      here: the folder that relative paths in `run` start from.
    """
    if run.init_from is not None:
        adopt(reachable(Path(run.init_from), here), training, run.row.networks)
    _reset_envs(run, training)
    name = f"{run.row.name}-{run.env_name}-seed{run.seed}"
    folder = RunFolder(claim_next_folder(name, here) if run.run_dir is None else claim_folder(run.run_dir, here), here)
    folder.write_config(run_to_json(run))
    return folder


def open_run(run: RunConfig, here: Path) -> tuple[RunFolder, dict[str, Any]]:
    """Opens the folder of a run that resumes; gives it, and the settings that the run had.

    Raises:
      BadInput: there is none, another process trains there, or the run had other settings.
    """
    assert run.resume is not None
    before = check_resumable(run, reachable(Path(run.resume), here))
    return RunFolder(run.resume, here), before


def resume_run(
    run: RunConfig, training: Training, folder: RunFolder, before: dict[str, Any], checkpoints: Checkpoints
) -> Resumed:
    """Brings `training` and its environments to where the latest whole checkpoint was made.

    Args:
      run: the run's settings.
      training: where a run with these settings begins.
      folder, before: what `open_run` gave.
      checkpoints: those in that folder.

    Raises:
      BadInput: there is no whole checkpoint, or it is of another run.
    """
    notes = load_training(training, checkpoints, run.algo, run.env_name)
    with readable(folder.shown / "checkpoints"):
        resumed = _resumed(notes)
    _reset_envs(run, training)
    try:
        if notes["envs"] is not None:
            training.envs.set_state(notes["envs"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise BadInput(f"{folder.shown} holds the state of other environments: {error}") from error
    checkpoints.tidy_up()
    # Written again, because the run's end may have moved.
    folder.write_config(run_to_json(dataclasses.replace(run, resume=None)) | {"init_from": before["init_from"]})
    return resumed


def _reset_envs(run: RunConfig, training: Training) -> None:
    training.envs.reset(stream(run.seed, ENVIRONMENTS, training.step))


def _resumed(notes: dict[str, Any]) -> Resumed:
    kinds = get_type_hints(Evaluation).values()
    evaluated, logged = map(int, notes["marks"])
    return Resumed(
        [Evaluation(*(kind(x) for kind, x in zip(kinds, each, strict=True))) for each in notes["evaluations"]],
        evaluated,
        logged,
        [[float(number) for number in row] for row in notes["pending"]],
        float(notes["wall_time"]),
        {str(name): int(count) for name, count in notes["log"]["rows"].items()},
        [FinishedEpisode(int(i), float(total), int(length)) for i, total, length in notes["log"]["unlogged"]],
        bool(notes["envs"]),
    )

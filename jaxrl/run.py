"""A whole training run from its settings: what the command line calls, and what a script can."""

import dataclasses
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxrl.config import RunConfig, check_settings, seed_runs
from jaxrl.ddpg import DDPGConfig
from jaxrl.envs import Envs, make_envs
from jaxrl.errors import BadInput
from jaxrl.evaluate import Evaluation
from jaxrl.normalize import Normalizer
from jaxrl.off_policy import train_ddpg
from jaxrl.on_policy import train_ppo
from jaxrl.session import Callback, Session


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run ends with.

    Attributes:
      state: the learner's state, for more calls of the kernel.
      normalizer: statistics that its observations are standardised with.
      evaluations: all of them, in order.
      step: environment steps taken.
      run_dir: the folder with everything else.
    """

    state: Any
    normalizer: Normalizer
    evaluations: list[Evaluation]
    step: int
    run_dir: Path


def train(run: RunConfig, callback: Callback | None = None) -> Result:
    """Trains as `run` says, and leaves its folder behind.

    Args:
      run: the settings; with `resume` set, those that `jaxrl.config.load_run` gives.
      callback: called after each update with a Snapshot; returning False from it ends the run cleanly.

    Returns:
      The result.

    Raises:
      BadInput: the settings cannot work; nothing has been written then. Or a step of which nothing can be learned,
        with a checkpoint saved (unless `on_fault` is "reset").
      EnvironmentLost: an environment raised, died, or gave no answer in time; a checkpoint is saved.
      KeyboardInterrupt, SystemExit: after Ctrl-C, or SIGTERM or SIGHUP (exit codes 143 and 129), once a checkpoint is
        saved.
    """
    if run.num_seeds > 1:
        raise BadInput(f"num_seeds is {run.num_seeds}: train_seeds trains more than one")
    [result] = _train([run], callback)
    return result


def train_seeds(run: RunConfig) -> list[Result]:
    """Trains `run.num_seeds` runs side by side, and leaves in the folder of `run` what each would leave alone.

    Where the device is a CPU, each run's numbers are, bit for bit, those of the same seed trained alone. On an
    accelerator one call updates all of them, and its sums may be taken in another order.

    Args:
      run: the settings; with `resume` set, those that `jaxrl.config.load_run` gives for the folder of several runs.

    Returns:
      The results, in the order of the seeds.

    Raises:
      BadInput, EnvironmentLost, KeyboardInterrupt, SystemExit: as `train`; every run is saved.
    """
    check_settings(run)
    return _train(seed_runs(run))


def _train(runs: Sequence[RunConfig], callback: Callback | None = None) -> list[Result]:
    """Runs that differ in numbers only, side by side."""
    for run in runs:
        check_settings(run)
    all_envs: list[Envs] = []
    try:
        for run in runs:
            how: dict[str, Any] = {"wrapper": run.wrapper, "on_fault": run.on_fault, "timeout": run.env_timeout}
            all_envs.append(make_envs(run.env, run.num_envs, run.seed, run.env_backend, **how))
        loop = train_ddpg if isinstance(runs[0].agent, DDPGConfig) else train_ppo
        sessions = loop(runs, all_envs, callback)
    finally:
        for envs in all_envs:
            envs.close()
    if sessions.stopped_by is signal.SIGINT:
        raise KeyboardInterrupt
    if sessions.stopped_by is not None:
        raise SystemExit(128 + sessions.stopped_by)
    return [_result(session) for session in sessions]


def _result(session: Session) -> Result:
    training = session.training
    return Result(training.state, training.normalizer, session.evaluations, training.step, session.run_dir)

"""A whole training run from its settings: what the command line calls, and what a script can."""

import dataclasses
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxrl.config import RunConfig, check_settings
from jaxrl.ddpg import DDPGConfig
from jaxrl.device import check_device
from jaxrl.envs import Envs, make_envs
from jaxrl.errors import BadInput
from jaxrl.evaluate import Evaluation
from jaxrl.normalize import Normalizer
from jaxrl.off_policy import train_ddpg
from jaxrl.on_policy import train_ppo
from jaxrl.session import Callback, Session
from jaxrl.study import is_study, runs_of, write_results


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run ends with.

    Attributes:
      state: the learner's state, for more calls of the kernel.
      normalizer: statistics that its observations are standardised with.
      evaluations: all of them, in order.
      step: environment steps taken.
      run_dir: the folder with everything else.
      run: the settings.
    """

    state: Any
    normalizer: Normalizer
    evaluations: list[Evaluation]
    step: int
    run_dir: Path
    run: RunConfig


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
    if is_study(run):
        raise BadInput(f"num_seeds is {run.num_seeds}, sweep {list(run.sweep)}: train_many trains more than one run")
    [result] = _train([run], callback)
    return result


def train_many(run: RunConfig) -> list[Result]:
    """Trains the runs that `run.num_seeds` and `run.sweep` stand for side by side. Leaves in the folder of `run` what
    each would leave alone, and `results.csv`: for each what was swept, its seed and its last evaluation.

    Where the device is a CPU, each run's numbers are, bit for bit, those of the same seed trained alone. On an
    accelerator one call updates all of them, and its sums may be taken in another order.

    Args:
      run: the settings; with `resume` set, those that `jaxrl.study.load_study` gives.

    Returns:
      The results: in the order of the values, and for each of the seeds.

    Raises:
      BadInput, EnvironmentLost, KeyboardInterrupt, SystemExit: as `train`; every run is saved.
    """
    check_settings(run)
    check_device()
    group, runs = runs_of(run)
    results = _train(runs)
    write_results(group, run, [(result.run, result.evaluations) for result in results])
    return results


def _train(runs: Sequence[RunConfig], callback: Callback | None = None) -> list[Result]:
    """Runs that differ in numbers only, side by side."""
    for run in runs:
        check_settings(run)
    check_device()
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
    return Result(training.state, training.normalizer, session.evaluations, training.step, session.run_dir, session.run)

"""A whole training run from its settings: what the command line calls, and what a script can."""

import dataclasses
import signal
from pathlib import Path
from typing import Any

from jaxrl.config import RunConfig, check_settings
from jaxrl.ddpg import DDPGConfig
from jaxrl.envs import make_envs
from jaxrl.evaluate import Evaluation
from jaxrl.normalize import Normalizer
from jaxrl.off_policy import train_ddpg
from jaxrl.on_policy import train_ppo
from jaxrl.session import Callback


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
    check_settings(run)
    how: dict[str, Any] = {"wrapper": run.wrapper, "on_fault": run.on_fault, "timeout": run.env_timeout}
    envs = make_envs(run.env, run.num_envs, run.seed, run.env_backend, **how)
    try:
        training, session = (train_ddpg if isinstance(run.agent, DDPGConfig) else train_ppo)(run, envs, callback)
    finally:
        envs.close()
    if session.stopped_by is signal.SIGINT:
        raise KeyboardInterrupt
    if session.stopped_by is not None:
        raise SystemExit(128 + session.stopped_by)
    return Result(training.state, training.normalizer, session.evaluations, training.step, session.run_dir)

"""A whole training run from its settings: what the command line calls, and what a script can."""

import dataclasses
import operator
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from gymnasium.vector import VectorEnv

from jaxrl.algos.algorithm import Algorithm
from jaxrl.data.normalize import Normalizer
from jaxrl.device import check_device
from jaxrl.envs.make import make_envs
from jaxrl.envs.vector import Envs
from jaxrl.errors import BadInput
from jaxrl.loggers.logger import Evaluation, Logger, check_loggers
from jaxrl.runs.checks import check_settings
from jaxrl.runs.config import RunConfig
from jaxrl.runs.convert import converted, shown
from jaxrl.runs.folder import working_folder
from jaxrl.runs.on_device import is_on_device
from jaxrl.runs.state import Training
from jaxrl.runs.sweep import claimed, is_study, write_results
from jaxrl.training import off_policy, on_device, on_policy
from jaxrl.training.device_envs import make_run_envs
from jaxrl.training.group import RunGroup
from jaxrl.training.own_algorithm import check_algorithm
from jaxrl.training.processes import Processes, follows, join
from jaxrl.training.runner import Runner
from jaxrl.training.scheduler import Loop, prepare, programs, serve
from jaxrl.training.sharding import check_devices
from jaxrl.training.snapshot import Callback


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a run.

    Attributes:
      state: the learner's state, for more calls of the kernel.
      normalizer: statistics that its observations are standardised with.
      evaluations: all of them, in order.
      step: environment steps taken.
      run_dir: the folder with everything else: as it was named, or its absolute path where something has moved the
        working folder since.
      run: the settings.
    """

    state: Any
    normalizer: Normalizer
    evaluations: list[Evaluation]
    step: int
    run_dir: Path
    run: RunConfig

    def __getstate__(self) -> dict[str, Any]:
        """The state to pickle and to copy: all of it, but for environments and wrappers that another process could not
        import. Of these it is the name."""
        run = self.run
        named = {
            "env": _by_name(run.env),
            "eval_env": _by_name(run.eval_env),
            "wrapper": tuple(_by_name(each) for each in run.wrapper),
        }
        return vars(self) | {"run": dataclasses.replace(run, **named)}


def _by_name(thing: Any) -> Any:
    """An id, a function or a class that can be imported as it is; of all else the name."""
    name = getattr(thing, "__qualname__", type(thing).__qualname__)
    if thing is None or isinstance(thing, str) or _imported(getattr(thing, "__module__", None), name) is thing:
        return thing
    return name


def _imported(module: str | None, name: str) -> Any:
    try:
        return operator.attrgetter(name)(sys.modules[module or ""])
    except (KeyError, AttributeError):
        return None


def train(
    run: RunConfig,
    callback: Callback | None = None,
    *,
    algorithm: Algorithm | None = None,
    loggers: Sequence[Logger] = (),
) -> Result:
    """Trains as `run` says, and leaves its folder behind.

    Args:
      run: the settings; with `resume` set, those that `jaxrl.runs.record.load_run` gives.
      callback: called after each update with a Snapshot. It must return None, True, or False, which ends the run
        cleanly. Whatever it raises is let through once a checkpoint is saved.
      algorithm: a row of your own, which enters the table; None for the one that `run` names. `RunConfig.of(row, env)`
        has all of its defaults.
      loggers: more that hear what the run logs, beside its CSV files, TensorBoard and the console: see
        `jaxrl.loggers.logger.Logger`. Whatever one of them raises is let through once a checkpoint is saved, after the
        next update.

    Returns:
      The result. Environments that were built here are closed; a VectorEnv that `run` brings is left open. In a
      distributed run every process gets the state, and the first alone the evaluations.

    Raises:
      BadInput: the settings cannot work, or `loggers` holds something else; nothing has been written then. Or a step
        of which nothing can be learned, with a checkpoint saved (unless `on_fault` is "reset"); or the callback
        returned something else.
      EnvironmentLost: an environment raised, died, or gave no answer in time; a checkpoint is saved.
      ProcessLost: of a distributed run another process has ended, or cannot be reached.
      KeyboardInterrupt, SystemExit: after Ctrl-C, or SIGTERM or SIGHUP (exit codes 143 and 129), once a checkpoint is
        saved.
    """
    run, here = _settled(run, algorithm), working_folder()
    _check_callback(callback)
    if is_study(run):
        raise BadInput(f"num_seeds is {run.num_seeds}, sweep {list(run.sweep)}: train_many trains more than one run")
    [result] = _train([run], here, callback, [check_loggers(loggers)])
    return result


def train_many(
    run: RunConfig,
    callback: Callback | None = None,
    *,
    algorithm: Algorithm | None = None,
    loggers: Callable[[RunConfig], Sequence[Logger]] | None = None,
) -> list[Result]:
    """Trains the runs that `run.num_seeds` and `run.sweep` stand for side by side. Leaves in the folder of `run` what
    each would leave alone, and `results.csv`: for each what was swept, its seed and its last evaluation.

    Where the device is a CPU, each run's numbers are, bit for bit, those of the same seed trained alone. On an
    accelerator one call updates all of them, and its sums may be taken in another order.

    Args:
      run: the settings; with `resume` set, those that `jaxrl.runs.sweep.load_study` gives.
      callback: as of `train`, called after each update of each run; `run_dir` of its Snapshot says which. Returning
        False ends that run alone.
      loggers: a function of one run's settings that gives the loggers of that run, as `train` takes them. It is called
        for each run before anything is written; `run_dir` and `seed` of the settings are that run's.
      algorithm: as of `train`.

    Returns:
      The results: in the order of the values, and for each of the seeds.

    Raises:
      BadInput, EnvironmentLost, KeyboardInterrupt, SystemExit: as `train`; every run is saved.
    """
    run, here = _settled(run, algorithm), working_folder()
    _check_callback(callback)
    if loggers is not None and not callable(loggers):
        raise BadInput("loggers must be a function of one run's settings that gives a list of loggers, or None")
    check_settings(run)
    check_device()
    with claimed(run, here) as (group, runs):
        all_loggers = [] if loggers is None else [check_loggers(loggers(each)) for each in runs]
        results = _train(runs, here, callback, all_loggers)
    write_results(here / group, run, [(result.run, result.evaluations) for result in results])
    return results


def check_run(run: RunConfig) -> None:
    """Raises what `train(run)` raises before it writes anything. For that it builds environments and networks.

    Raises:
      BadInput, EnvironmentLost: as `train`.
    """
    run = _settled(run, None)
    check_settings(run)
    check_device()
    envs = _envs_of(run)
    try:
        with RunGroup([run], _prepared([run], [envs]), run.row.metrics):
            pass
    finally:
        envs.close()


def _settled(run: Any, algorithm: Algorithm | None) -> RunConfig:
    """The settings in the types of their fields, by the algorithm that is given."""
    if not isinstance(run, RunConfig):
        raise BadInput(f"run is {shown(run)}: it must be a RunConfig")
    return converted(run if algorithm is None else run.by(algorithm))


def _loop_of(run: RunConfig) -> Loop:
    """The loop that the run's algorithm names, or brings."""
    named = {"on_policy": on_policy.LOOP, "off_policy": off_policy.LOOP}
    loop = run.row.loop
    return named[loop] if isinstance(loop, str) else Loop(prepare, programs, loop)


def _check_callback(callback: Any) -> None:
    if callback is not None and not callable(callback):
        raise BadInput(f"callback is {shown(callback)}: it must be a function of a Snapshot, or None")


def _train(
    runs: Sequence[RunConfig], here: Path, callback: Callback | None, loggers: Sequence[Sequence[Logger]]
) -> list[Result]:
    """Runs that differ in numbers only, side by side. Relative paths start from the folder `here`: code of the user's
    may move the working folder at any time."""
    for run in runs:
        check_settings(run)
    if runs[0].distributed:
        join(runs[0])
    check_device()
    all_envs: list[Envs] = []
    try:
        for run in runs:
            all_envs.append(_envs_of(run))
        if follows(runs[0]):
            results, stopped_by = _followed(runs[0], all_envs[0])
        else:
            group = train_in(runs, all_envs, callback, here, loggers)
            results, stopped_by = [_result(runner) for runner in group], group.stopped_by
    finally:
        for envs in all_envs:
            if not isinstance(runs[0].env, VectorEnv):  # One that the user has built is the user's to close.
                envs.close()
    if stopped_by == signal.SIGINT:
        raise KeyboardInterrupt
    if stopped_by is not None:
        raise SystemExit(128 + stopped_by)
    return results


def _followed(run: RunConfig, envs: Any) -> tuple[list[Result], int | None]:
    """The result of a run that another process leads, and the signal that has stopped it."""
    check_devices(run, 1)
    training, stopped_by = on_device.follow(run, envs)
    folder = Path(run.resume or run.run_dir or "")
    return [Result(training.state, training.normalizer, [], training.step, folder, run)], stopped_by or None


def _envs_of(run: RunConfig) -> Envs:
    """The environments of a run. Those that live on the device answer what all but their loop asks of them."""
    if is_on_device(run):
        return cast(Envs, make_run_envs(run))
    how: dict[str, Any] = {"wrapper": run.wrapper, "on_fault": run.on_fault, "timeout": run.env_timeout}
    return make_envs(run.env, run.num_envs, run.seed, run.env_backend, **how)


def train_in(
    runs: Sequence[RunConfig],
    all_envs: Sequence[Envs],
    callback: Callback | None = None,
    here: Path = Path(),
    loggers: Sequence[Sequence[Logger]] = (),
) -> RunGroup:
    """Trains each of `runs`, which differ in numbers only, in environments of its own. Relative paths start from the
    folder `here`; `loggers` has those of the user's for each run, or nothing.

    Returns:
      The runners, once their runs are over.
    """
    trainings = _prepared(runs, all_envs)
    with Processes(runs[0]) as processes:
        with RunGroup(runs, trainings, runs[0].row.metrics, callback, here, loggers) as group:
            group.begin()
            if is_on_device(runs[0]):
                on_device.serve(group, processes)
            else:
                serve(group, _loop_of(runs[0]))
        processes.stopped_by = group.stopped_by
    return group


def _prepared(runs: Sequence[RunConfig], all_envs: Sequence[Envs]) -> list[Training]:
    """Where the runs begin, once it is known that they can."""
    begin: Callable[..., Training] = _loop_of(runs[0]).prepare
    if is_on_device(runs[0]):
        check_devices(runs[0], len(runs))
        begin = on_device.prepare
    trainings = [begin(run, envs) for run, envs in zip(runs, all_envs, strict=True)]
    check_algorithm(runs[0], trainings[0])
    return trainings


def _result(runner: Runner) -> Result:
    training = runner.training
    return Result(training.state, training.normalizer, runner.evaluations, training.step, runner.folder, runner.run)

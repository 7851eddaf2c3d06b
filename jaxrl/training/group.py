"""Runs that go on together: they begin and end together, hear the same signals, and are all saved when one fails."""

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from jaxrl.envs.vector import Envs
from jaxrl.errors import BadInput, EnvironmentFault, EnvironmentLost, NotSaved
from jaxrl.loggers.console import Console, Display
from jaxrl.loggers.logger import Logger
from jaxrl.runs.config import RunConfig
from jaxrl.runs.on_device import is_on_device
from jaxrl.runs.stack import Stack, stack_sizes
from jaxrl.runs.state import Training
from jaxrl.training.device_evaluator import AnyEvaluator, DeviceEvaluator
from jaxrl.training.evaluator import Evaluator
from jaxrl.training.runner import Runner
from jaxrl.training.signals import Stops
from jaxrl.training.snapshot import Callback


class RunGroup:
    """Runs that go on together. Use it as a context manager: it hears the signals that ask to stop, saves every run
    when the environments of one fail, and says what happened.

    Args:
      runs: the settings of each.
      trainings: where each begins.
      metric_names: of the numbers that come with each update.
      callback: called with a Snapshot after each update of each; returning False ends that run.
      here: the folder that relative paths in `runs` start from.
      loggers: for each run those of the user's; empty where there are none.
    """

    def __init__(
        self,
        runs: Sequence[RunConfig],
        trainings: Sequence[Training],
        metric_names: Sequence[str],
        callback: Callback | None = None,
        here: Path = Path(),
        loggers: Sequence[Sequence[Logger]] = (),
    ) -> None:
        self._runs, self._trainings, self._metric_names = runs, trainings, metric_names
        self._callback, self._here = callback, here
        self._loggers = loggers or [()] * len(runs)
        self._stops = Stops()
        self._runners: list[Runner] = []
        with contextlib.ExitStack() as opened:
            self._evaluators = [
                self._evaluator(run, training.envs, opened) for run, training in zip(runs, trainings, strict=True)
            ]
            self._opened = opened.pop_all()

    def _evaluator(self, run: RunConfig, envs: Envs, opened: contextlib.ExitStack) -> AnyEvaluator | None:
        if run.eval_every is None:
            return None
        evaluator = (DeviceEvaluator if is_on_device(run) else Evaluator)(run, envs, self._stops)
        opened.callback(evaluator.close)
        return evaluator

    def __iter__(self) -> Iterator[Runner]:
        return iter(self._runners)

    @property
    def stopped_by(self) -> signal.Signals | None:
        """The signal that asked the runs to stop, if one did."""
        return self._stops.asked_by

    def ask_to_stop(self, asked_by: signal.Signals | None) -> None:
        """Takes a signal that another process has heard as if it had come here."""
        self._stops.asked_by = self._stops.asked_by or asked_by

    def begin(self) -> None:
        """Begins every run. Until then nothing is written: what is wrong with the settings of one has been said."""
        display, folders = Display(self._runs[0].total_steps), [Path(_named(run)) for run in self._runs]
        group = os.path.commonpath(folders) if len(folders) > 1 else folders[0]
        self._opened.callback(display.close)
        parts = zip(self._runs, self._trainings, self._evaluators, self._loggers, folders, strict=True)
        for run, training, evaluator, loggers, folder in parts:
            console = Console(display, str(folder.relative_to(group)) if len(folders) > 1 else "")
            runner = Runner(
                run, training, self._metric_names, evaluator, self._stops, console, self._callback, loggers, self._here
            )
            self._opened.callback(runner.close)
            self._runners.append(runner)

    def stacked(self, sizes: Sequence[int] | None = None) -> list[list[Runner]]:
        """The runners, once they have begun, in groups that are updated together, their learners in one stack, and so
        their buffers and what of their environments lives on the device. `sizes` says how large the groups are; None
        for what suits updates alone."""
        left, groups = iter(self._runners), []
        for size in stack_sizes(len(self._runners)) if sizes is None else sizes:
            group = [next(left) for _ in range(size)]
            learner = Stack([runner.training.state for runner in group])
            memory = None if group[0].training.memory is None else Stack([each.training.replay for each in group])
            world = None if group[0].training.world is None else Stack([each.training.env_state for each in group])
            for place, runner in enumerate(group):
                training = runner.training
                training.learner, training.memory, training.world, training.place = learner, memory, world, place
            groups.append(group)
        return groups

    def __enter__(self) -> Self:
        self._stops.__enter__()
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: object) -> bool:
        raised = next((runner.raised for runner in self._runners if runner.raised is not None), None)
        failed = raised is None and isinstance(error, EnvironmentFault | EnvironmentLost)
        try:
            if failed or self._can_save(error):
                self._save(failed)
        finally:
            self._stops.__exit__()
            with contextlib.ExitStack() as left:
                if raised is not None:  # A disk that is full must not hide it.
                    left.enter_context(contextlib.suppress(OSError))
                left.callback(self._opened.close)
        if raised is not None and error is not raised:  # The loops are generators: they make StopIteration another.
            raise raised
        if failed and isinstance(error, EnvironmentLost) and self.stopped_by is not None:
            return True  # A signal that stops the run may reach the environments' processes too, and before it.
        if failed and isinstance(error, EnvironmentFault | EnvironmentLost) and len(self._runners) == len(self._runs):
            culprit = next((runner for runner in self._runners if _failed(runner)), self._runners[0])
            raise _explained(culprit, error) from error
        of_loggers = [runner.logger_raised for runner in self._runners if runner.logger_raised is not None]
        if error is None and of_loggers:  # It came after the last update.
            raise of_loggers[0]
        return False

    def _can_save(self, error: BaseException | None) -> bool:
        """True if the state of every run is whole. A second Ctrl-C interrupts at once all the same."""
        at_once = isinstance(error, KeyboardInterrupt) and self.stopped_by is not None
        return any(runner.whole for runner in self._runners) and not at_once

    def _save(self, failed: bool) -> None:
        """Saves every run that is not over: one that is has been saved."""
        for runner in self._runners:
            if not runner.over:
                try:
                    runner.save()
                except NotSaved as unsaved:
                    if failed:
                        raise
                    runner.say(str(unsaved))  # The user's own exception must get through.


def _named(run: RunConfig) -> str:
    return run.resume or run.run_dir or ""


def _failed(runner: Runner) -> bool:
    """True if it is this run's environments that failed."""
    return runner.training.envs.failed or _failed_in_evaluation(runner)


def _failed_in_evaluation(runner: Runner) -> bool:
    return runner.evaluator is not None and runner.evaluator.envs.failed


def _explained(runner: Runner, error: EnvironmentFault | EnvironmentLost) -> Exception:
    """Says in one line what became of the run when its environments failed."""
    step, name = runner.training.step, runner.run.env_name
    if _failed_in_evaluation(runner):
        text = f"in the evaluation at step {step:,}, {error}; the run up to it is saved in {runner.folder}"
        return (BadInput if isinstance(error, EnvironmentFault) else EnvironmentLost)(text)
    if isinstance(error, EnvironmentFault):
        return BadInput(
            f"{name} {error.what}, environment {error.env_index} at step {step + error.steps:,}: nothing of that "
            f"step is stored, the run up to it is saved; the environment must not, or --on-fault reset goes on"
        )
    return EnvironmentLost(f"{name}: {error}, after step {step:,}; the run up to it is saved in {runner.folder}")

"""One run around its loop: evaluation, checkpoints, logs, the callback. A loop calls `Runner.after_update` where its
state is whole, and stops when told to."""

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl.errors import NotSaved
from jaxrl.loggers.console import Console
from jaxrl.loggers.csv_files import CsvFiles
from jaxrl.loggers.logger import Clock, Evaluation, Logger, Loggers
from jaxrl.loggers.metrics import MetricsBuffer
from jaxrl.loggers.tensorboard import TensorBoard
from jaxrl.runs.checkpoints import Checkpoints
from jaxrl.runs.config import RunConfig
from jaxrl.runs.record import run_to_json
from jaxrl.runs.stack import Stack
from jaxrl.runs.state import Training, save_training
from jaxrl.timer import timed
from jaxrl.training.device_evaluator import AnyEvaluator
from jaxrl.training.evaluator import Evaluator
from jaxrl.training.notices import flattened, normalised
from jaxrl.training.opening import Resumed, begin_run, open_run, resume_run
from jaxrl.training.signals import Stops
from jaxrl.training.snapshot import Callback, Snapshot, asks_to_stop


class Runner:
    """One run, from its folder to its last checkpoint. To make one begins the run: it makes the folder, resets the
    environments and opens the logs. Where the run resumes, or starts from another's networks, it brings `training`
    there.

    Args:
      run: the run's settings.
      training: where it begins.
      metric_names: of the numbers that come with each update.
      evaluator: None where there are no evaluations.
      stops: whether it is asked to stop.
      console: where to show how far the run is.
      callback: called with a Snapshot after each update; returning False ends the run.
      loggers: of the user's, beside the run's own.
      here: the folder that relative paths in `run` start from.

    Attributes:
      evaluations: all up to now.
      over: whether the run has ended.
      whole: whether code of the user's runs while all in `training` belongs to one step.
      raised: by that code, out of `after_update`.
    """

    def __init__(
        self,
        run: RunConfig,
        training: Training,
        metric_names: Sequence[str],
        evaluator: AnyEvaluator | None,
        stops: Stops,
        console: Console,
        callback: Callback | None = None,
        loggers: Sequence[Logger] = (),
        here: Path = Path(),
    ) -> None:
        self.run, self.training, self.evaluator = run, training, evaluator
        self.evaluations: list[Evaluation] = []
        self.over = self.whole = False
        self.raised: BaseException | None = None
        self._metric_names, self._stops, self._callback = metric_names, stops, callback
        self._latest: tuple[Any, int] | None = None  # Metrics of the update since the last call of `after_update`.
        # Steps of the last evaluation, checkpoint, row of metrics and line of progress; -1 before the first.
        self._evaluated = self._saved = self._logged = self._shown = -1
        with contextlib.ExitStack() as opened:
            resumed = self._open(opened, here)
            self._csv = CsvFiles(self._folder.path, metric_names, resumed and resumed.rows)
            unlogged = () if resumed is None else resumed.unlogged
            self._board = TensorBoard(self._folder.path, resumed and training.step, unlogged)
            self._loggers = Loggers([self._csv, self._board, console], loggers)
            opened.callback(self._loggers.close)
            self._loggers.begin(self._folder.path, run_to_json(run), training.step)
            self.clock = Clock(training.step, 0.0 if resumed is None else resumed.wall_time)
            self._metrics = MetricsBuffer(
                metric_names, () if resumed is None else resumed.pending, run.row.averaged_over
            )
            self.episodes()
            self._say_how_it_begins(resumed)
            opened.pop_all()

    def _open(self, opened: contextlib.ExitStack, here: Path) -> Resumed | None:
        run, training = self.run, self.training
        if run.resume is None:
            self._folder = opened.enter_context(begin_run(run, training, here))
            opened.callback(shutil.rmtree, self._folder.path, ignore_errors=True)  # Of a run that cannot begin.
            self._checkpoints = Checkpoints(self._folder.path)
            return None
        folder, before = open_run(run, here)
        self._folder = opened.enter_context(folder)
        self._checkpoints = Checkpoints(folder.path)
        resumed = resume_run(run, training, folder, before, self._checkpoints)
        self.evaluations, self._evaluated, self._logged = resumed.evaluations, resumed.evaluated, resumed.logged
        self._saved, self._shown = training.step, resumed.logged
        return resumed

    @property
    def folder(self) -> Path:
        """The run's folder for users: as it was named, or its absolute path where the working folder has moved."""
        return self._folder.shown

    def _say_how_it_begins(self, resumed: Resumed | None) -> None:
        run, envs = self.run, self.training.envs
        if self._checkpoints.notice:
            self.say(self._checkpoints.notice)
        if resumed is not None:
            anew = "" if resumed.knows_envs else "; episodes begin anew, the state of these environments is not known"
            self.say(f"resuming {self.folder} at step {self.training.step:,}{anew}")
        else:
            self.say(f"{run.row.name} on {run.env_name}, seed {run.seed}, into {self.folder}")
            for line in flattened(envs):
                self.say(line)
        for line in normalised(run, envs, None if self.evaluator is None else self.evaluator.envs):
            self.say(line)

    @property
    def stop_asked(self) -> bool:
        """True once a signal has asked the run to stop: then `after_update` is to be called after this step."""
        return self._stops.asked

    def say(self, line: str) -> None:
        """Tells the user one line."""
        self._loggers.say(line)

    @timed("logs")
    def episodes(self) -> None:
        """Logs the episodes that ended on the last step, and those that a fault broke off."""
        step, envs = self.training.step, self.training.envs
        if envs.finished:
            self._loggers.episodes(step, envs.finished, self.clock.wall_time)
        for fault in envs.faults:
            self._loggers.fault(step, fault, self.clock.wall_time)

    def learned(self, metrics: Any) -> None:
        """Takes the metrics of an update as soon as it is under way: whatever happens before it is asked for, they
        belong to the state that would be saved then.

        Args:
          metrics: `(len(metric_names),)`, or a row of these for each of the runs that are updated together; still on
            the device.
        """
        self._latest = metrics, self.training.place
        self._metrics.add(*self._latest)

    @timed("logs")
    def after_update(self) -> bool:
        """Does what is due at this step, where everything in `training` belongs to it. Returns False once training is
        over."""
        if self.over:
            return False
        latest, self._latest = self._latest, None
        run, step, asked = self.run, self.training.step, self._stops.asked
        if self.training.rows:  # In the middle of a rollout nothing is due, but to stop if that is asked.
            if asked:
                self.save()
                self._finish()
            return not asked
        over = step >= run.total_steps
        self._write_rows()
        if step > 0 and (over or _passed(run.log_every, self._shown, step)):
            self._log_progress(over)
        self.whole = True
        if self._evaluation_is_due(over) and not asked:
            over |= self._evaluate()
        over |= self._ask_callback(latest)
        self.whole = False
        asked = self._stops.asked
        over |= asked
        if over and self._metrics and not asked:  # Else a checkpoint keeps them for the run that resumes this one.
            self._log_progress(True)
        if over or (step > 0 and _passed(run.checkpoint_every, max(self._saved, 0), step)):
            self.save()
        if over:
            self._finish()
        return not over

    def _log_progress(self, over: bool) -> None:
        step = self.training.step
        self.close_row(over)
        self._loggers.progress(step, self.clock.steps_per_second(step), self.clock.wall_time)
        self._shown = step

    def close_row(self, over: bool = False) -> None:
        """Closes a row of metrics where one is due, or the run is over. It is written at the next call of
        `after_update`, or with a checkpoint: now the device may be busy with the last of them, and the environments
        need not wait.

        `after_update` calls this. A loop that hears of several updates at once calls it after each of them but the
        last: then rows do not depend on how many these are.
        """
        step = self.training.step
        if over or _passed(self.run.log_every, self._logged, step):
            self._metrics.close_row(step, self.clock.wall_time)
            self._logged = step

    def _write_rows(self) -> None:
        for step, metrics, wall_time in self._metrics.rows():
            if skipped := metrics.get("skipped_updates"):
                self.say(f"step {step:,}: {skipped:.0f} gradient steps skipped: not finite")
            self._loggers.metrics(step, metrics, wall_time)

    def _evaluation_is_due(self, over: bool) -> bool:
        every, step = self.run.eval_every, self.training.step
        if every is None or step == self._evaluated:
            return False
        return over or _passed(every, self._evaluated, step)

    @timed("evaluation")
    def _evaluate(self) -> bool:
        """Evaluates, keeps the best policy, and says whether the run has reached the return at which it ends."""
        training, stop_return = self.training, self.run.stop_return
        assert self.evaluator is not None
        evaluation = self.evaluator.evaluate(training, self.clock, self._loggers)
        if evaluation is None:
            return False
        # Of equals the latest: it has learned longer.
        if evaluation.mean_return >= max((each.mean_return for each in self.evaluations), default=-np.inf):
            self._save_policy("best", evaluation)
        self.evaluations.append(evaluation)
        self._evaluated = training.step
        self._loggers.evaluation(evaluation)
        if self.run.render:
            assert isinstance(self.evaluator, Evaluator)  # The settings of others cannot ask for it.
            self.evaluator.show(training)
        return stop_return is not None and not self.evaluator.was_cut and evaluation.mean_return >= stop_return

    def _ask_callback(self, latest: tuple[Any, int] | None) -> bool:
        """Calls the callback where there was an update, and says whether it ends the run. Raises what it raises, and
        what a logger of the user's has raised since the last call."""
        try:
            if self._loggers.raised is not None:
                raise self._loggers.raised
            if self._callback is None or latest is None:
                return False
            snapshot = Snapshot(self.training, self._metric_names, latest, self.evaluations, self.folder)
            try:
                answer = self._callback(snapshot)
            finally:
                snapshot.close()
        except BaseException as error:
            self.raised = error
            raise
        return asks_to_stop(answer)

    @timed("checkpoints")
    def save(self) -> None:
        """Writes a checkpoint."""
        step = self.training.step
        try:
            self._write_rows()
            self._board.flush()
            notes = {
                "algo": self.run.algo,
                "env": self.run.env_name,
                "evaluations": self.evaluations,
                "marks": [self._evaluated, self._logged],
                "pending": self._metrics.pending(),
                "wall_time": self.clock.wall_time,
                "log": {"rows": self._csv.sync(), "unlogged": self._board.unlogged},
            }
            save_training(self.training, self._checkpoints, notes)
        except OSError as error:
            raise NotSaved(
                f"no checkpoint can be written at step {step:,} ({error.strerror or error}): "
                f"{self.folder / 'checkpoints'} keeps the one before"
            ) from error
        self._saved = step

    def _save_policy(self, name: str, evaluation: Evaluation | None) -> None:
        training, envs, record = self.training, self.training.envs, run_to_json(self.run)
        notes = {"step": training.step, "evaluation": None, "wrapper": record["wrapper"]}
        notes |= {"env_backend": record["env_backend"]}
        notes |= {"networks": record["networks"]}
        if evaluation is not None:
            assert self.evaluator is not None
            notes["evaluation"] = self.evaluator.recipe(evaluation)
        spaces = envs.observation_space, envs.action_space
        self._folder.save_policy(name, training.state.actor, training.normalizer, self.run.env_name, spaces, notes)

    def _finish(self) -> None:
        training, asked_by, self.over = self.training, self._stops.asked_by, True
        last = next((each for each in self.evaluations if each.step == training.step), None)
        for name in ("latest",) if self.run.eval_every is not None else ("latest", "best"):
            self._save_policy(name, last)
        if training.learner.size > 1:  # The others go on, and this one's place among them with them.
            training.learner, training.memory, training.world = Stack([training.state]), None, None
            training.place = 0
        if asked_by is not None:
            resume = f"--resume {self.folder}"
            self.say(f"stopped by {asked_by.name} at step {training.step:,}; continue with {resume}")
        else:
            self.say(f"done: {training.step:,} steps in {self.clock.wall_time:,.1f} s, in {self.folder}")

    def close(self) -> None:
        """Writes what is left, closes the logs, and gives the folder back.

        Raises:
          OSError: something could not be written; the rest is closed.
        """
        with contextlib.ExitStack() as left:  # Each of it is done, whatever becomes of the rest; the last one first.
            left.callback(self._folder.close)
            left.callback(self._loggers.close)
            left.callback(self._write_rows)

    @property
    def logger_raised(self) -> BaseException | None:
        """An error of a logger of the user's, where there was one."""
        return self._loggers.raised


def _passed(every: int, last: int, step: int) -> bool:
    """True if a multiple of `every` lies between the step `last` and `step`."""
    return step // every > last // every

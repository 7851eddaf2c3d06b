"""All that happens around a training loop, in one place: evaluation, checkpoints, logs, stops. A loop calls
`Session.goes_on` where its state is whole, and stops when told to. `Sessions` are those of runs that go on together.
"""

import contextlib
import copy
import dataclasses
import json
import math
import os
import platform
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any, Self, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.vector import VectorEnv

from jaxrl.algos.ddpg import DDPGConfig
from jaxrl.algos.networks import host_policy
from jaxrl.data.normalize import Normalizer, observer
from jaxrl.data.spaces import describe, layout, width
from jaxrl.envs.processes import STOPS
from jaxrl.envs.vector import Envs, Fault, FinishedEpisode, make_envs, steps_natively
from jaxrl.envs.wrappers import follow
from jaxrl.errors import BadInput, EnvironmentFault, EnvironmentLost, NotSaved
from jaxrl.loggers.run_log import Display, Evaluation, RunLog
from jaxrl.runs.checkpoints import Savepoints, adopt, readable
from jaxrl.runs.config import RunConfig, check_resumable, claim_run_dir, reachable, run_to_json, shown
from jaxrl.runs.stack import Stack, stack_sizes
from jaxrl.runs.state import Training
from jaxrl.storage.files import write_atomically
from jaxrl.storage.policy import save_policy
from jaxrl.timer import timed
from jaxrl.training.evaluate import MAX_ENVS_IN_TURN, cut_line, episode_bound, evaluate, make_eval_envs

try:
    import fcntl
except ImportError:  # Windows has no such locks.
    fcntl = None  # type: ignore[assignment]

# What each purpose's random stream is called among a seed's children. Numbers are never reused or changed.
NETWORK, ENVIRONMENTS, EXPLORATION, EVALUATION, SHOW, SAMPLING = range(6)
PACKAGES = "jaxrl-kernels", "jax", "jaxlib", "flax", "optax", "gymnasium", "mujoco", "numpy"


def stream(seed: int, purpose: int, step: int = 0) -> np.random.SeedSequence:
    """The random stream of one purpose, begun at one step; runs with neighbouring seeds share none."""
    return np.random.SeedSequence(seed, spawn_key=(purpose, step))


def stream_key(seed: int, purpose: int) -> jax.Array:
    """A JAX key from the random stream of one purpose."""
    [word] = stream(seed, purpose).generate_state(1)
    return jax.jit(jax.random.key)(jax.device_put(word))


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What a callback sees after each update: copies, to keep or to change.

    Attributes:
      step: environment steps taken.
      state, normalizer: the learner now.
      metrics: of the last update, by name.
      evaluations: all up to now.
      run_dir: the run's folder: as it was named, or its absolute path where something has moved the working folder.
    """

    step: int
    state: Any
    normalizer: Normalizer
    metrics: dict[str, float]
    evaluations: list[Evaluation]
    run_dir: Path


Callback = Callable[[Snapshot], Any]


class Stops:
    """While it is open in the main thread, each of the signals in `STOPS` is written down in `asked_by`, which asks the
    loop to call `goes_on` after its next step: that then saves a checkpoint. A second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.asked_by: signal.Signals | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            heard = [kind for kind in STOPS if signal.getsignal(kind) is not signal.SIG_IGN]  # nohup ignores SIGHUP.
            self._handlers = {kind: signal.signal(kind, self._stop) for kind in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for kind, handler in self._handlers.items():
            # One that C code has installed is None here and cannot be given back.
            signal.signal(kind, signal.SIG_DFL if handler is None else handler)

    def _stop(self, kind: int, frame: FrameType | None) -> None:
        if self.asked_by is not None and kind == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked_by = signal.Signals(kind)


class Session:
    """One run's surroundings, from its folder to its last checkpoint.

    Args:
      run: the run's settings.
      training: where it begins.
      metric_names: of the numbers that come with each update.
      stops: whether it is asked to stop.
      callback: called with a Snapshot after each update; returning False ends the run.
      here: the folder that relative paths in `run` start from.
    """

    def __init__(
        self,
        run: RunConfig,
        training: Training,
        metric_names: Sequence[str],
        stops: Stops,
        callback: Callback | None = None,
        here: Path = Path(),
    ) -> None:
        self.run, self.training, self.eval_envs = run, training, _eval_envs(run, training.envs)
        self.evaluations: list[Evaluation] = []
        self._bound = None if self.eval_envs is None else episode_bound(self.eval_envs, run.eval_max_steps)
        self._spaces = training.envs.observation_space, training.envs.action_space
        self._metric_names, self._stops, self._callback, self._here = metric_names, stops, callback, here
        self._latest: Any = None  # Metrics of the update since the last call of `goes_on`.
        self._pending: list[Any] = []  # Metrics that no row has been asked for yet,
        self._due: list[tuple[int, float, list[Any]]] = []  # and those of rows to be written: step, wall time, metrics.
        self.begun = self.over = False
        self._folder: int | None = None  # Open while the run holds its lock.
        self._evaluating = self._said_cut = False
        self.whole = False  # Whether `goes_on` calls code of the user's: all in `training` belongs to one step then.
        self.raised: BaseException | None = None  # By the callback.
        # Steps of the last evaluation, checkpoint and row of metrics; -1 before the first.
        self._evaluated = self._saved = self._logged = -1

    @property
    def folder(self) -> Path:
        """The run's folder for users: as it was named, or its absolute path where the working folder has moved."""
        return reachable(self._named, self._here)

    def begin(self, display: Display | None = None, name: str = "") -> None:
        """Makes the run's folder, starts the logs and resets the environments; where the run resumes, or starts from
        another's networks, brings `training` there. Whatever was wrong with the settings has been said before anything
        is written.

        Args:
          display: where to show how far the run is; None for one of its own.
          name: what the run is called there.
        """
        run, training, state = self.run, self.training, None
        record = run_to_json(dataclasses.replace(run, resume=None))
        if run.resume is not None:
            self._named = Path(run.resume)
            self.run_dir = self._here / self._named
            record["init_from"] = check_resumable(run, self.folder)["init_from"]
            self._lock()
            self._savepoints = Savepoints(self.run_dir, run.algo, run.env_name)
            state = self._restore()
            self._reset_envs(state["envs"])
            self._savepoints.tidy_up()
        else:
            if run.init_from is not None:
                adopt(reachable(Path(run.init_from), self._here), training)
            self._reset_envs(None)
            self._named = claim_run_dir(run, self._here)
            self.run_dir = self._here / self._named
            self._lock()
            self._savepoints = Savepoints(self.run_dir, run.algo, run.env_name)
            (self.run_dir / "checkpoints").mkdir()
        # Written again by a resumed run, whose end may have moved.
        about = {"run": record, "versions": versions(), "device": str(jax.devices()[0])}
        text = json.dumps(about, indent=2).encode() + b"\n"
        write_atomically(self.run_dir / "config.json", lambda file: file.write(text))
        display = Display(run.total_steps, training.step) if display is None else display
        self._log = RunLog(self.run_dir, self._metric_names, training.step, display, name, state and state["log"])
        self.begun = True
        self.episodes()
        if self._savepoints.notice:
            self._log.say(self._savepoints.notice)
        if state is not None:
            anew = "" if state["envs"] else "; episodes begin anew, the state of these environments is not known"
            self._log.say(f"resuming {self.folder} at step {training.step:,}{anew}")
        else:
            self._log.say(f"{self.run.algo} on {self.run.env_name}, seed {self.run.seed}, into {self.folder}")
            self._say_what_is_flattened()
        self._say_what_is_normalised()

    def _lock(self) -> None:
        """Two processes in one folder would remove each other's files. The lock goes when the process does."""
        try:
            self._folder = os.open(self.run_dir, os.O_RDONLY)
            if fcntl is not None:
                fcntl.flock(self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadInput(f"{self.folder} is in use: another process trains there") from error
        except OSError:  # Some network file systems know no locks, and Windows opens no folders.
            pass

    def _reset_envs(self, state: dict[str, Any] | None) -> None:
        training = self.training
        training.envs.reset(stream(self.run.seed, ENVIRONMENTS, training.step))
        try:
            if state is not None:
                training.envs.set_state(state)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise BadInput(f"{self.folder} holds the state of other environments: {error}") from error

    def _say_what_is_flattened(self) -> None:
        observation_space, action_space = self._spaces
        seen = layout(observation_space)
        if not isinstance(seen, tuple) or len(seen) != 1:
            self._log.say(f"observations are flattened to {width(seen)} numbers: {describe(seen)}")
        if action_space.shape and len(action_space.shape) > 1:
            self._log.say(f"actions of shape {action_space.shape} are flattened to {math.prod(action_space.shape)}")

    def _say_what_is_normalised(self) -> None:
        """Says which statistics are kept in wrappers, where no policy and no checkpoint can take them from."""
        envs, eval_envs = self.training.envs, self.eval_envs
        names = sorted({*envs.normalizing, *(eval_envs.normalizing if eval_envs is not None else ())})
        if not names:
            return
        evaluations = ""
        if eval_envs is not None:
            frozen = follow(eval_envs.normalizers, envs.normalizers)
            evaluations = f"evaluations use {'those of the training, frozen' if frozen else 'their own'}; "
            if "NormalizeReward" in names:
                evaluations += "their returns are sums of normalised rewards; "
        flags = {"NormalizeObservation": "--normalize-obs", "NormalizeReward": "--normalize-reward"}
        remedy = f"use {' and '.join(flags.get(name, name) for name in names)} instead"
        if isinstance(self.run.agent, DDPGConfig):
            remedy = "ddpg has no setting for it, and a saved policy needs observations that are normalised as here"
        self._log.say(
            f"the environment has {' and '.join(names)} inside: no saved policy and no checkpoint holds their "
            f"statistics; {evaluations}{remedy}"
        )

    def say(self, line: str) -> None:
        """Prints a line above the progress."""
        self._log.say(line)

    @timed("logs")
    def episodes(self) -> None:
        """Logs the episodes that ended on the last step, and those that a fault broke off."""
        step, envs = self.training.step, self.training.envs
        if envs.finished:
            self._log.episodes(step, envs.finished)
        if envs.faults:
            self._log.faults(step, envs.faults)

    def learned(self, metrics: jax.Array) -> None:
        """Takes the metrics of an update as soon as it is under way: whatever happens before it is asked for, they
        belong to the state that would be saved then.

        Args:
          metrics: `(len(metric_names),)`, or a row of these for each of the runs that are updated together; still on
            the device, and one array, because each that is fetched costs as much as the rest of a step.
        """
        self._pending.append(metrics)
        self._latest = metrics

    @timed("logs")
    def goes_on(self) -> bool:
        """Does what is due at this step, where everything in `training` belongs to it; False when the run is over."""
        if self.over:
            return False
        metrics, self._latest = self._latest, None
        run, training, step = self.run, self.training, self.training.step
        asked = self._stops.asked_by is not None
        if training.rows:  # In the middle of a rollout nothing is due, but to stop if that is asked.
            if asked:
                self.save()
                self._finish()
            return not asked
        over = step >= run.total_steps
        self._write_due()
        if step > 0 and (over or step // run.log_every > self._logged // run.log_every):
            self._make_due(step)
        self.whole = True
        if self._evaluation_is_due(over) and not asked:
            over |= self._evaluate()
        if self._callback is not None and metrics is not None:
            over |= self._stopped_by_callback(self._callback, metrics)
        self.whole = False
        asked = self._stops.asked_by is not None
        over |= asked
        if over and self._pending and not asked:  # Else a checkpoint keeps them for the run that resumes this one.
            self._make_due(step)
        if over or (step > 0 and step // run.checkpoint_every > max(self._saved, 0) // run.checkpoint_every):
            self.save()
        if over:
            self._finish()
        return not over

    def _evaluation_is_due(self, over: bool) -> bool:
        every, step = self.run.eval_every, self.training.step
        if every is None:
            return False
        return step != self._evaluated and (over or step // every > self._evaluated // every)

    def _stopped_by_callback(self, callback: Callback, metrics: jax.Array) -> bool:
        """Calls the callback, and says whether it ends the run."""
        try:
            answer = callback(self._snapshot(metrics))
        except BaseException as error:
            self.raised = error
            raise
        if answer is None or isinstance(answer, bool | np.bool_):
            return answer is not None and not answer
        raise BadInput(f"the callback returned {shown(answer)}: it must return None or True to go on, or False to stop")

    def failed(self) -> bool:
        """Whether it is this run's environments that failed."""
        return self._evaluating or self.training.envs.failed

    def explained(self, error: EnvironmentFault | EnvironmentLost) -> Exception:
        """What became of the run when its environments failed, in one line."""
        step, name = self.training.step, self.run.env_name
        if not self.begun:
            return error
        if self._evaluating:
            text = f"in the evaluation at step {step:,}, {error}; the run up to it is saved in {self.folder}"
            return (BadInput if isinstance(error, EnvironmentFault) else EnvironmentLost)(text)
        if isinstance(error, EnvironmentFault):
            return BadInput(
                f"{name} {error.what}, environment {error.env_index} at step {step + error.steps:,}: nothing of that "
                f"step is stored, the run up to it is saved; the environment must not, or --on-fault reset goes on"
            )
        return EnvironmentLost(f"{name}: {error}, after step {step:,}; the run up to it is saved in {self.folder}")

    def close(self) -> None:
        """Closes the logs and the environments of the evaluation."""
        with contextlib.ExitStack() as left:  # Each of it is done, whatever becomes of the rest; the last one first.
            if self._folder is not None:
                left.callback(os.close, self._folder)
            if self.begun:
                left.callback(self._log.close)
                left.callback(self._write_due)
            # One that the user has built is the user's to close.
            if self.eval_envs is not None and not isinstance(self.run.eval_env, VectorEnv):
                left.callback(self.eval_envs.close)

    def _make_due(self, step: int) -> None:
        """Asks for a row of all pending metrics. It is written at the next call of `goes_on`, or with a checkpoint: now
        the device may be busy with the last of them, and the environments need not wait."""
        if self._pending:
            self._due.append((step, self._log.wall_time, self._pending))
        self._log.progress(step)
        self._pending, self._logged = [], step

    @np.errstate(all="ignore")
    def _write_due(self) -> None:
        due, self._due = self._due, []
        for step, wall_time, metrics in due:
            rows = self._on_host(metrics)
            finite = np.isfinite(rows)  # What a skipped update reports must not hide what the others do.
            sums, counts = np.where(finite, rows, 0).sum(0), finite.sum(0)
            means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
            row = dict(zip(self._metric_names, map(float, means), strict=True))
            if row["skipped_updates"]:
                row["skipped_updates"] *= len(rows)
                self._log.say(f"step {step:,}: {row['skipped_updates']:.0f} gradient steps skipped: not finite")
            self._log.metrics(step, row, wall_time)

    def _on_host(self, metrics: Sequence[Any]) -> np.ndarray:
        rows = [np.asarray(each, np.float64) for each in jax.device_get(metrics)]
        return np.array([row[self.training.place] if row.ndim > 1 else row for row in rows])

    @timed("evaluation")
    def _evaluate(self) -> bool:
        """Evaluates, keeps the best policy, and says whether the run has reached what it was to reach."""
        run, training, envs = self.run, self.training, self.eval_envs
        assert envs is not None
        seed = stream(run.seed, EVALUATION, training.step)
        policy = _noise_free(training)
        faults: list[Fault] = []
        cut: list[FinishedEpisode] = []
        follow(envs.normalizers, training.envs.normalizers)
        self._evaluating = True
        episodes = evaluate(policy, envs, run.eval_episodes, seed, self._asked, faults, self._bound, cut)
        self._evaluating = False
        if episodes is None:  # All of it is done again.
            return False
        if faults:
            self._log.faults(training.step, [each._replace(what=f"{each.what}, in evaluation") for each in faults])
        if cut and not self._said_cut:
            waits = "" if run.stop_return is None else "; stop_return waits for an evaluation without such episodes"
            line = cut_line(cut, run.eval_episodes)
            self._log.say(f"evaluation at step {training.step:,}: {line} (--eval-max-steps){waits}")
            self._said_cut = True
        returns, _ = episodes
        with np.errstate(all="ignore"):
            evaluation = Evaluation(
                training.step,
                mean_return=float(returns.mean()),
                std_return=float(returns.std()),
                min_return=float(returns.min()),
                max_return=float(returns.max()),
                episodes=len(returns),
                wall_time=self._log.wall_time,
            )
        # Of equals the latest: it has learned longer.
        if evaluation.mean_return >= max((each.mean_return for each in self.evaluations), default=-np.inf):
            self._save_policy("best", evaluation)
        self.evaluations.append(evaluation)
        self._evaluated = training.step
        self._log.evaluation(evaluation)
        if run.render:
            self._show()
        return run.stop_return is not None and not cut and evaluation.mean_return >= run.stop_return

    def _show(self) -> None:
        seed = stream(self.run.seed, SHOW, self.training.step)
        envs = make_envs(self.run.env, 1, seed, wrapper=self.run.wrapper, render_mode="human")
        evaluate(_noise_free(self.training), envs, 1, seed, self._asked, max_steps=self.run.eval_max_steps)
        envs.close()

    def _asked(self) -> bool:
        return self._stops.asked_by is not None

    def _save_policy(self, name: str, evaluation: Evaluation | None) -> None:
        training, record = self.training, run_to_json(self.run)
        notes = {"step": training.step, "evaluation": None, "versions": versions(), "wrapper": record["wrapper"]}
        if evaluation is not None:
            assert self.eval_envs is not None
            seeds = self.eval_envs.seeds(stream(self.run.seed, EVALUATION, evaluation.step))
            how: dict[str, Any] = {"env": record["eval_env"] or record["env"], "on_fault": self.run.on_fault}
            how |= {"backend": self.run.eval_backend, "max_steps": self._bound}
            notes["evaluation"] = evaluation._asdict() | how | {"num_envs": self.eval_envs.num_envs, "seeds": seeds}
        folder, actor = self.run_dir / "policy" / name, training.state.actor
        save_policy(folder, actor, training.normalizer, self.run.env_name, *self._spaces, notes)

    @timed("checkpoints")
    def save(self) -> None:
        """Writes a checkpoint."""
        step = self.training.step
        try:
            self._write_due()
            log = self._log.state()
            notes = {
                "evaluations": self.evaluations,
                "marks": [self._evaluated, self._logged],
                "pending": self._on_host(self._pending).tolist(),
                "wall_time": log.pop("wall_time"),
                "log": log,
            }
            self._savepoints.write(self.training, notes)
        except OSError as error:
            raise NotSaved(
                f"no checkpoint can be written at step {step:,} ({error.strerror or error}): "
                f"{self.folder / 'checkpoints'} keeps the one before"
            ) from error
        self._saved = step

    def _restore(self) -> dict[str, Any]:
        """Brings everything to where the latest checkpoint was made, but for the environments; gives what it notes."""
        notes = self._savepoints.read(self.training)
        with readable(self.folder / "checkpoints"):
            self._evaluated, self._logged = map(int, notes["marks"])
            kinds = get_type_hints(Evaluation).values()
            self.evaluations = [
                Evaluation(*(kind(number) for kind, number in zip(kinds, each, strict=True)))
                for each in notes["evaluations"]
            ]
            self._pending = [np.array(row, np.float32) for row in notes["pending"]]
            rows = {str(name): int(count) for name, count in notes["log"]["rows"].items()}
            unlogged = [(int(index), float(total), int(length)) for index, total, length in notes["log"]["unlogged"]]
            notes["log"] = {"wall_time": float(notes["wall_time"]), "rows": rows, "unlogged": unlogged}
        self._saved = self.training.step
        return notes

    def _snapshot(self, metrics: jax.Array) -> Snapshot:
        training = self.training
        numbers = dict(zip(self._metric_names, map(float, jax.device_get(metrics)), strict=True))
        state = jax.tree.map(jnp.copy, training.state)
        normalizer = copy.deepcopy(training.normalizer)
        return Snapshot(training.step, state, normalizer, numbers, list(self.evaluations), self.folder)

    def _finish(self) -> None:
        training, asked_by, self.over = self.training, self._stops.asked_by, True
        last = next((each for each in self.evaluations if each.step == training.step), None)
        for name in ("latest",) if self.run.eval_every is not None else ("latest", "best"):
            self._save_policy(name, last)
        if training.learner.size > 1:  # The others go on, and this one's place among them with them.
            training.learner, training.memory, training.place = Stack([training.state]), None, 0
        if asked_by is not None:
            resume = f"--resume {self.folder}"
            self._log.say(f"stopped by {asked_by.name} at step {training.step:,}; continue with {resume}")
        else:
            self._log.say(f"done: {training.step:,} steps in {self._log.wall_time:,.1f} s, in {self.folder}")


class Sessions:
    """The surroundings of runs that go on together. Use it as a context manager: it hears the signals that ask to stop,
    saves every run when the environments of one fail, and says what happened.

    Args:
      runs: the settings of each.
      trainings: where each begins.
      metric_names: of the numbers that come with each update.
      callback: called with a Snapshot after each update of each; returning False ends that run.
      here: the folder that relative paths in `runs` start from.
    """

    def __init__(
        self,
        runs: Sequence[RunConfig],
        trainings: Sequence[Training],
        metric_names: Sequence[str],
        callback: Callback | None = None,
        here: Path = Path(),
    ) -> None:
        self._stops = Stops()
        self._all: list[Session] = []
        try:
            for run, training in zip(runs, trainings, strict=True):
                self._all.append(Session(run, training, metric_names, self._stops, callback, here))
        except BaseException:
            for session in self._all:
                session.close()
            raise

    def __iter__(self) -> Iterator[Session]:
        return iter(self._all)

    @property
    def stopped_by(self) -> signal.Signals | None:
        """The signal that asked the runs to stop, if one did."""
        return self._stops.asked_by

    def begin(self) -> None:
        """Begins every run."""
        if len(self._all) == 1:
            self._all[0].begin()
            return
        display = Display(self._all[0].run.total_steps, 0)
        folders = {session: session.run.resume or session.run.run_dir or "" for session in self._all}
        group = os.path.commonpath(folders.values())
        for session in self._all:
            session.begin(display, str(Path(folders[session]).relative_to(group)))

    def stacked(self) -> list[list[Session]]:
        """The sessions, once they have begun, in groups that are updated together, their learners in one stack."""
        left, groups = iter(self._all), []
        for size in stack_sizes(len(self._all)):
            group = [next(left) for _ in range(size)]
            learner = Stack([session.training.state for session in group])
            memory = None if group[0].training.memory is None else Stack([each.training.replay for each in group])
            for place, session in enumerate(group):
                session.training.learner, session.training.memory, session.training.place = learner, memory, place
            groups.append(group)
        return groups

    def __enter__(self) -> Self:
        self._stops.__enter__()
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: object) -> bool:
        begun = [session for session in self._all if session.begun]
        raised = next((session.raised for session in begun if session.raised is not None), None)
        failed = raised is None and isinstance(error, EnvironmentFault | EnvironmentLost)
        # A second Ctrl-C interrupts at once. Else what was learned is kept wherever the state of every run is whole.
        at_once = isinstance(error, KeyboardInterrupt) and self.stopped_by is not None
        kept = failed or (any(session.whole for session in begun) and not at_once)
        try:
            for session in begun if kept else ():
                if session.over:  # It has been saved.
                    continue
                try:
                    session.save()
                except NotSaved as unsaved:
                    if failed:
                        raise
                    session.say(str(unsaved))  # The user's own exception must get through.
        finally:
            self._stops.__exit__()
            with contextlib.ExitStack() as left:
                if raised is not None:  # A disk that is full must not hide it.
                    left.enter_context(contextlib.suppress(OSError))
                for session in self._all:
                    left.callback(session.close)
        if raised is not None and error is not raised:  # The loops are generators: they make StopIteration another.
            raise raised
        if failed and isinstance(error, EnvironmentLost) and self.stopped_by is not None:
            return True  # What stops the run may reach its processes too, and before it.
        if failed and isinstance(error, EnvironmentFault | EnvironmentLost):
            culprit = next((session for session in begun if session.failed()), self._all[0])
            raise culprit.explained(error) from error
        return False


def _eval_envs(run: RunConfig, training: Envs) -> Envs | None:
    """Environments for a run's evaluations, none where it has no evaluations. Each run has its own, because what an
    environment remembers over its resets would make one run's evaluations depend on another's."""
    if run.eval_every is None:
        return None
    eval_env = run.env if run.eval_env is None else run.eval_env
    alike = run.eval_env is None and not steps_natively(run.env, run.wrapper, run.on_fault)
    envs = make_eval_envs(
        eval_env, run.eval_episodes, run.wrapper, run.on_fault, run.eval_backend,
        run.num_envs if run.eval_backend == "async" else MAX_ENVS_IN_TURN,  # So many processes the machine can bear.
        timeout=run.env_timeout, like=training if alike else None,
    )  # fmt: skip
    seen, done = envs.observation_space, envs.action_space
    wanted = training.observation_space, training.action_space
    if describe(layout(seen)) != describe(layout(wanted[0])) or done != wanted[1]:
        envs.close()
        raise BadInput(f"eval_env has the spaces {seen} and {done}: they must be those of env")
    if envs.shares_with(training):
        raise BadInput("env and eval_env step one and the same environment: evaluation needs one of its own")
    return envs


def _noise_free(training: Training) -> Callable[[np.ndarray], np.ndarray]:
    """The policy as it stands, from raw observations to its most probable actions."""
    see, policy = observer(training.normalizer), host_policy(training.state.actor.apply_fn, training.state.actor.params)

    def act(obs: np.ndarray) -> np.ndarray:
        distribution = policy(see(obs))
        return distribution.to_env(distribution.mode())

    return act


def versions() -> dict[str, str]:
    """Versions of what a run's numbers depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found

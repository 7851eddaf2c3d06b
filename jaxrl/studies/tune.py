"""A search for good settings by Optuna: trials are runs of `jaxrl train`, several at a time, pruned at evaluations, and
kept in a database in the search's folder. The same command goes on where a search was stopped or killed."""

import csv
import json
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from jaxrl.errors import EnvironmentLost, TrialsFail
from jaxrl.studies.script import Mistake
from jaxrl.studies.study_run import CHECK, JAXRL, Part
from jaxrl.studies.tune_space import Space

POLL_SECONDS = 0.2
MOST_FAILURES = 3  # So many trials in a row that fail, before one has come to its end, end a search.
STARTUP_TRIALS = 5  # Before these have ended none is pruned, and TPE draws at random.


class Search(NamedTuple):
    """The subject of a search.

    Attributes:
      algo, env: the algorithm and the task.
      flags: of every run.
      moved: flags of the start, whose settings are searched.
      start: the values that the first trial takes, by setting: those of the flags, where the space holds them.
      space: what is tried.
      seed: of the runs, and of the search.
      trials: how many in all.
      at_once: how many run at a time.
      folder: of the database and of the trials' runs.
      sampler: "tpe" or "random".
    """

    algo: str
    env: str
    flags: tuple[str, ...]
    moved: tuple[str, ...]
    start: dict[str, Any]
    space: Space
    seed: int
    trials: int
    at_once: int
    folder: Path
    sampler: str

    @property
    def record(self) -> str:
        """The settings that must be equal for a search to go on."""
        space = {name: axis._asdict() for name, axis in self.space.items()}
        return json.dumps([self.algo, self.env, self.flags, self.moved, space, self.seed, self.sampler], sort_keys=True)

    @property
    def database(self) -> Path:
        """The file that its trials are kept in."""
        return self.folder / "trials.db"


class Going(Protocol):
    """A run under way: a process of this machine, or a task of a cluster."""

    def poll(self) -> int | None:
        """Its exit code; None while it is going."""

    def terminate(self) -> None:
        """Asks it to save and end."""

    def wait(self) -> Any:
        """Waits until it has ended."""


Start = Callable[[Part], Going]  # Begins a run, or goes on with it; BlockingIOError where another process trains there.


def start_process(part: Part) -> Going:
    """Begins a run, or goes on with it, in a process of this machine."""
    command = [*JAXRL, "train", *part.begin()]
    with part.beside("log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, process_group=0)


class Trial:
    """One trial: its run, and what trains it."""

    def __init__(self, search: Search, trial: Any, start: Start) -> None:
        self.trial, self._start = trial, start
        values = {name: axis.suggest(trial, name) for name, axis in search.space.items()}
        flags = (*search.flags, *flags_of(values))
        named = trial.user_attrs.get("named", f"trial-{trial.number}")
        trial.set_user_attr("named", named)
        self.part = Part(search.env, named, search.seed, flags, search.folder / named / f"seed-{search.seed}")
        self._going: Going | None = None
        self._reported = 0
        self.value: float | None = None
        self.wrong = ""

    def is_over(self) -> bool:
        """Begins the run where it has not begun, and says whether it has ended; `wrong` says how, if not well. Where a
        process of a killed search still trains there, it is tried again the next time."""
        try:
            self._going = self._going or self._start(self.part)
            code = self._going.poll()
        except BlockingIOError:
            return False
        except Mistake as mistake:  # The cluster has lost it.
            self.wrong = str(mistake)
            return True
        if code:
            log = self.part.beside("log").read_text(errors="replace").strip().splitlines()
            self.wrong = log[-1] if log else f"exit code {code}"
        return code is not None

    def report(self) -> bool:
        """Tells the search of new evaluations; whether one of them says that the trial should end."""
        path = self.part.folder / "evaluations.csv"
        if not path.exists():
            return False
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if None not in row.values()]
        is_hopeless = False
        for row in rows[self._reported :]:
            self.value = float(row["mean_return"])
            self.trial.report(self.value, int(row["step"]))
            is_hopeless = int(row["step"]) > 0 and self.trial.should_prune()
        self._reported = len(rows)
        return is_hopeless

    def terminate(self) -> None:
        """Asks the run to save and end."""
        if self._going is not None:
            self._going.terminate()

    def wait(self) -> None:
        """Waits until it has ended."""
        if self._going is not None:
            self._going.wait()


def flags_of(values: dict[str, Any]) -> list[str]:
    """Settings as flags of `jaxrl train`."""
    return [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", _said(value))]


def _said(value: Any) -> str:
    short = f"{value:.4g}" if isinstance(value, float) else str(value)
    return str(value) if short == "1" else short  # 0.99997 is not 1: gamma, say.


def check_start(search: Search) -> None:
    """Sees whether the search's own flags can be trained with, in a process of its own: environments and networks are
    built there, nothing is written.

    Raises:
      Mistake, EnvironmentLost: they cannot, as `jaxrl train` says.
    """
    words = ["--env", search.env, *search.flags, *search.moved, "--seed", str(search.seed)]
    ended = subprocess.run([*CHECK, *words], capture_output=True, text=True, check=False)
    if ended.returncode:
        said = ended.stderr.strip().splitlines() or [f"training would end with exit code {ended.returncode}"]
        raise (EnvironmentLost if ended.returncode == 1 else Mistake)(said[-1].removeprefix("jaxrl: "))


def load_optuna() -> Any:
    """The package; Mistake where it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise Mistake("tune needs Optuna: pip install 'jaxrl-kernels[tune]'") from error
    return optuna


def open_study(search: Search) -> Any:
    """The search's database, new or as it was left; what was running when the search ended is to be run again.

    Raises:
      Mistake: Optuna is not installed, or the database holds another search.
    """
    optuna = load_optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    samplers: dict[str, Any] = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    own = {"constant_liar": True, "n_startup_trials": STARTUP_TRIALS} if search.sampler == "tpe" else {}
    try:
        study = optuna.create_study(
            storage=f"sqlite:///{search.database}",
            study_name="tune",
            direction="maximize",
            load_if_exists=True,
            sampler=samplers[search.sampler](seed=search.seed, **own),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS),
        )
    except Exception as error:  # SQLite's, SQLAlchemy's or Optuna's own, as the file is damaged or another's.
        raise Mistake(f"{search.database} is no database of a search: name a folder by --folder") from error
    if study.directions != [optuna.study.StudyDirection.MAXIMIZE]:
        raise Mistake(f"{search.database} holds a search that does not maximise one value: name a folder by --folder")
    if study.user_attrs.get("search", None if study.trials else search.record) != search.record:
        raise Mistake(f"{search.folder} holds another search, of other flags, space or seed: name a folder by --folder")
    study.set_user_attr("search", search.record)
    if all(trial.state == optuna.trial.TrialState.FAIL for trial in study.trials):
        study.enqueue_trial(search.start)
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs={"named": trial.user_attrs.get("named", f"trial-{trial.number}")})
    if len(study.trials) > 1:  # A search that goes on must not draw again what it has drawn.
        study.sampler.reseed_rng()
    return study


def run_search(search: Search, start: Start = start_process) -> Any:
    """Runs what is left of the trials, each by `start`, and returns the study.

    Raises:
      Mistake: as `open_study`; or all trials were pruned.
      TrialsFail: the first trials fail one after another, or not one came to its end.
    """
    study, going = open_study(search), list[Trial]()
    from optuna.trial import TrialState

    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    failures: list[str] = []
    try:
        while True:
            count = len(study.get_trials(deepcopy=False, states=ended))
            if count == 0 and len(failures) >= MOST_FAILURES:
                raise TrialsFail(f"the first {len(failures)} trials failed, the last one so: {failures[-1]}")
            count += len(failures)
            while len(going) < search.at_once and count + len(going) < search.trials:
                going.append(Trial(search, study.ask(), start))
            if not going:
                break
            for trial in list(going):
                is_over = trial.is_over()  # Before its rows are read: they are all there then.
                is_hopeless = trial.report()
                if is_hopeless and not is_over:
                    trial.terminate()
                    trial.wait()
                if is_over or is_hopeless:
                    going.remove(trial)
                    failures += _ended(study, trial, is_hopeless)
            time.sleep(POLL_SECONDS)
    finally:
        for trial in going:  # In the database they stay as running, which is how they are found again.
            trial.terminate()
        for trial in going:
            trial.wait()
    if not study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
        if failures:
            raise TrialsFail(f"no trial came to its end: {failures[-1]}")
        raise Mistake("no trial came to its end: all were pruned")
    return study


def _ended(study: Any, trial: Trial, is_pruned: bool) -> list[str]:
    """Tells the database and the user how a trial ended; what went wrong, if it did."""
    from optuna.trial import TrialState

    said = f"{trial.part.variant}: {shlex.join(flags_of(trial.trial.params))}"
    if is_pruned:
        study.tell(trial.trial, state=TrialState.PRUNED)
        print(f"{said}: pruned at {trial.value:,.1f}", flush=True)
    elif not trial.wrong and trial.value is not None:
        study.tell(trial.trial, trial.value)
        print(f"{said}: {trial.value:,.1f}", flush=True)
    else:
        study.tell(trial.trial, state=TrialState.FAIL)
        why = trial.wrong or "it was never evaluated"
        print(f"{said}: failed, {why}", flush=True)
        return [why]
    return []


def write_best(search: Search, study: Any, seeds: Sequence[int]) -> tuple[Path, list[str]]:
    """Writes the study file that judges what was found, on these seeds beside the start; returns its path, and the
    best flags as words of a command."""
    best, path = flags_of(study.best_params), search.folder / "best.toml"
    lines = {
        "name": f"{search.folder.name}-judged",
        "results": str(search.folder / "judged"),
        "figure": str(search.folder / "curves"),
        "seeds": list(seeds),
        "flags": shlex.join(search.flags),
    }
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in lines.items())
    text += f'\n[tasks]\n{json.dumps(search.env)} = ""\n'
    start = shlex.join(search.moved)
    text += f"\n[variants]\nfound = {json.dumps(shlex.join(best))}\nstart = {json.dumps(start)}\n"
    path.write_text(text)
    return path, ["jaxrl", "train", "--env", search.env, *search.flags, *best]

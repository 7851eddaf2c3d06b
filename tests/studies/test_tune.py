"""`jaxrl tune`: spaces, mistakes in one line, and a search that is killed and goes on."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from jaxrl.cli.arguments import parse_run
from jaxrl.cli.main import main, train_command
from jaxrl.errors import TrialsFail
from jaxrl.runs.algorithms import BUILT_IN, settings_of
from jaxrl.runs.config import RunConfig
from jaxrl.studies import tune
from jaxrl.studies.script import Mistake
from jaxrl.studies.study_file import load
from jaxrl.studies.tune import Search, flags_of, open_study, run_search, write_best
from jaxrl.studies.tune_space import SPACES, Choice, Range, load_space

NAMES = {"gamma", "num_epochs", "actor_learning_rate"}
BAD_SPACES = {
    "no table": ("gamma = 3", "[space]"),
    "an empty table": ("[space]", "[space]"),
    "another table": ("[space]\ngamma={choices=[1]}\n[others]", "[space]"),
    "no TOML": ("[space", "cannot be read"),
    "unknown setting": ("[space]\ngama = {choices = [0.9]}", "no setting gama"),
    "empty range": ("[space]\ngamma = {low = 0.9, high = 0.9}", "low must be below high"),
    "range upside down": ("[space]\ngamma = {low = 1, high = 0}", "low must be below high"),
    "log from 0": ("[space]\ngamma = {low = 0, high = 1, log = true}", "low must be above 0"),
    "not finite": ("[space]\ngamma = {low = 0.1, high = inf}", "is empty"),
    "no choice": ("[space]\ngamma = {choices = []}", "it must be {low"),
    "a word too many": ("[space]\ngamma = {low = 0, high = 1, step = 2}", "it must be {low"),
    "a number": ("[space]\ngamma = 0.9", "it must be {low"),
}


@pytest.mark.parametrize(("text", "said"), BAD_SPACES.values(), ids=BAD_SPACES)
def test_a_space_that_cannot_be_is_refused(text, said, tmp_path):
    path = tmp_path / "space.toml"
    path.write_text(text)
    with pytest.raises(Mistake, match=re.escape(said)):
        load_space(path, "ppo", NAMES)


def test_a_space_is_read(tmp_path):
    path = tmp_path / "space.toml"
    path.write_text("[space]\ngamma = {choices = [0.9, 0.99]}\nnum_epochs = {low = 1, high = 20, log = true}")
    assert load_space(path, "ppo", NAMES) == {"gamma": Choice((0.9, 0.99)), "num_epochs": Range(1, 20, True)}
    with pytest.raises(Mistake, match="--space"):
        load_space(None, "mine", NAMES)


@pytest.mark.parametrize("algo", SPACES)
def test_the_spaces_hold_settings_of_their_algorithm_that_the_command_takes(algo):
    loop, agent = settings_of(BUILT_IN[algo])
    assert SPACES[algo].keys() <= loop | agent
    ends = {name: axis.low if isinstance(axis, Range) else axis.values[0] for name, axis in SPACES[algo].items()}
    run = parse_run(["--algo", algo, "--env", "Pendulum-v1", *flags_of(ends)])
    for name, value in ends.items():
        assert run.setting(name) == value


def search(folder, **others):
    space = {"gamma": Choice((0.9, 0.99)), "actor_learning_rate": Range(1e-4, 1e-2, True)}
    made = Search("ppo", "CartPole-v1", (), (), {"gamma": 0.99}, space, 3, 4, 1, folder, "random")
    return made._replace(**others)


class Found(NamedTuple):
    """What a search gives of itself at its end."""

    best_params: dict


def test_the_study_file_judges_what_was_found_beside_the_start(tmp_path):
    made = search(tmp_path, flags=("--total-steps", "3k"), moved=("--gamma", "0.5"))
    path, command = write_best(made, Found({"gamma": 0.99}), [4, 5])
    file = load(path)
    assert (file["seeds"], file["flags"], file["tasks"]) == ([4, 5], "--total-steps 3k", {"CartPole-v1": ""})
    assert file["variants"] == {"found": "--gamma 0.99", "start": "--gamma 0.5"}
    assert file["results"] != file["figure"], "a figure is three files, one of them a table"
    assert parse_run(command[2:]).agent.gamma == 0.99


def test_a_database_of_another_search_is_refused(tmp_path):
    pytest.importorskip("optuna")
    open_study(search(tmp_path))
    assert open_study(search(tmp_path, trials=9)), "only how many trials there are may change"
    for other in ({"seed": 4}, {"flags": ("--gamma", "0.5")}, {"sampler": "tpe"}, {"space": {"gamma": Choice((1,))}}):
        with pytest.raises(Mistake, match="another search"):
            open_study(search(tmp_path, **other))


def test_what_is_no_database_is_refused(tmp_path):
    pytest.importorskip("optuna")
    (tmp_path / "trials.db").write_text("words" * 100)
    with pytest.raises(Mistake, match="no database"):
        open_study(search(tmp_path))


def test_a_study_that_is_none_of_ours_is_refused(tmp_path):
    optuna = pytest.importorskip("optuna")
    for name, direction, said in (("down", "minimize", "does not maximise"), ("up", "maximize", "another search")):
        made = search(tmp_path / name)
        made.folder.mkdir()
        other = optuna.create_study(storage=f"sqlite:///{made.database}", study_name="tune", direction=direction)
        other.tell(other.ask(), 1.0)
        with pytest.raises(Mistake, match=said):
            open_study(made)
        assert len(other.trials) == 1 and not other.user_attrs


FAILS = "import sys; sys.exit('jaxrl: it broke')"
EVALUATES = """
import pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--run-dir") + 1])
folder.mkdir()
(folder / "evaluations.csv").write_text("step,mean_return\\n0,1.5\\n")
"""


def test_a_search_whose_first_trials_fail_ends_and_can_go_on(tmp_path, monkeypatch, capsys):
    optuna = pytest.importorskip("optuna")
    made = search(tmp_path, trials=9)
    monkeypatch.setattr(tune, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(tune, "JAXRL", (sys.executable, "-c", FAILS))
    with pytest.raises(TrialsFail, match="the first 3 trials failed, the last one so: jaxrl: it broke"):
        run_search(made)
    assert capsys.readouterr().out.count("failed, jaxrl: it broke") == 3
    monkeypatch.setattr(tune, "JAXRL", (sys.executable, "-c", EVALUATES))
    study = run_search(made._replace(trials=2))
    states = [trial.state.name for trial in study.trials]
    assert states == ["FAIL"] * 3 + ["COMPLETE"] * 2
    assert study.trials[3].params["gamma"] == 0.99, "the start is tried again"
    monkeypatch.setattr(tune, "JAXRL", (sys.executable, "-c", FAILS))
    assert run_search(made._replace(trials=6)), "after a trial that came to its end, all are tried"
    assert [trial.state for trial in study.trials[5:]] == [optuna.trial.TrialState.FAIL] * 4


def test_what_is_almost_one_is_not_said_as_one():
    assert flags_of({"gamma": 0.99997}) == ["--gamma", "0.99997"]


def test_what_was_running_is_asked_again_and_the_start_comes_first(tmp_path):
    optuna = pytest.importorskip("optuna")
    study, axes = open_study(search(tmp_path)), search(tmp_path).space
    first = study.ask()
    values = {name: axis.suggest(first, name) for name, axis in axes.items()}
    assert values["gamma"] == 0.99, "the start"
    first.set_user_attr("named", "trial-0")
    again = open_study(search(tmp_path))  # As after kill -9.
    states = [trial.state for trial in again.trials]
    assert states == [optuna.trial.TrialState.FAIL, optuna.trial.TrialState.WAITING]
    second = again.ask()
    assert {name: axis.suggest(second, name) for name, axis in axes.items()} == values
    assert second.user_attrs["named"] == "trial-0", "its run goes on in its folder"
    axis = axes["actor_learning_rate"]
    third = axis.suggest(again.ask(), "actor_learning_rate")
    for trial in again.trials[1:]:
        again.tell(trial.number, 1.0)
    fourth = axis.suggest(open_study(search(tmp_path)).ask(), "actor_learning_rate")
    assert fourth != third, "a search that goes on does not draw the same again"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--trials", "0"], "--trials is 0"),
        (["--cores", "0"], "--cores is 0"),
        (["--folder", f"{__file__}/x"], "a file is in its place"),
        (["--seed", "-1"], "--seed is -1"),
        (["--seed", "4294967296"], "--seed is 4294967296"),
        (["--trials", "many"], "--trials: many is no whole number"),
        (["--cores", "1.5"], "--cores: 1.5 is no whole number"),
        (["--normalize-obs", "maybe"], "True or False"),
        (["--total-steps", "9" * 5_000], "--total-steps"),
        (["--eval-every", "none"], "--eval-every none"),
        (["--num-seeds", "3"], "--num-seeds is not for a search"),
        (["--run-dir=x"], "--run-dir=x is not for a search"),
        (["--gama", "1"], "perhaps you meant --gamma"),
        (["--learning-rate", "1"], "--actor-learning-rate"),
        (["--space", "nowhere.toml"], "cannot be read"),
        (["--sampler", "cma"], "tpe"),
    ],
    ids=str,
)
def test_mistakes_are_one_line(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(["tune", *words])
    except SystemExit as end:  # argparse's own.
        code = end.code
    err = capsys.readouterr().err
    assert code == 2 and err.count("\n") == 1 and said in err, err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--env Nope-v1", "there is no environment Nope-v1"),
        ("--algo ddpg --env CartPole-v1", "Discrete is not supported by ddpg"),
        ("--gamma 7", "gamma is 7.0"),
        ("--num-threads 0", "--num-threads is 0"),
        ("--networks nothing:here", "networks nothing:here cannot be imported"),
        ("--eval-env Pendulum-v1", "they must be those of env"),
    ],
)
def test_flags_are_checked_as_train_does_and_nothing_is_written(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train_command(words.split(), only_check=True) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and said in err, err
    assert not list(tmp_path.iterdir())


def test_a_mistake_in_the_flags_of_every_trial_is_said_before_the_first(tmp_path, monkeypatch, capsys):
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    assert main(["tune", "--algo", "ddpg", "--env", "CartPole-v1", "--seed", "1e3", "--trials", "1k"]) == 2
    assert capsys.readouterr().err.startswith("jaxrl: action space Discrete is not supported by ddpg")
    assert not list(tmp_path.iterdir())


def test_good_flags_pass_the_check_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train_command(["--num-envs", "2", "--num-steps", "4", "--num-minibatches", "1"], only_check=True) == 0
    assert not list(tmp_path.iterdir()) and capsys.readouterr().out == ""


def test_a_missing_package_is_named_with_the_line_that_installs_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.chdir(tmp_path)
    assert main(["tune"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "pip install 'jaxrl-kernels[tune]'" in err


SMALL = "--env CartPole-v1 --total-steps 600 --num-envs 2 --num-steps 25 --num-minibatches 1 --hidden-sizes 4"
SMALL += " --eval-every 100 --eval-episodes 1 --eval-max-steps 20 --num-epochs 1 --gamma 0.9 --num-threads 1"
SPACE = "[space]\ngamma = {low = 0.8, high = 0.999}\nactor_learning_rate = {low = 1e-4, high = 1e-2, log = true}\n"


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_and_ends_with_flags_and_a_study(tmp_path, monkeypatch):
    """By kill -9 in the middle of a trial: no trial is lost, none is counted twice."""
    optuna = pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    Path("space.toml").write_text(SPACE)
    code = "import sys; from jaxrl.cli.main import main; sys.exit(main(sys.argv[1:]))"
    words = f"tune {SMALL} --trials 4 --cores 1 --space space.toml --folder search --seed 5".split()
    command = [sys.executable, "-c", code, *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    end = time.monotonic() + 300
    while not list(Path("search").glob("trial-1/seed-5/evaluations.csv")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    study = optuna.load_study(study_name="tune", storage="sqlite:///search/trials.db")
    done = [each for each in study.trials if each.state.name in ("COMPLETE", "PRUNED")]
    assert len(done) == 4 and not study.get_trials(states=[optuna.trial.TrialState.RUNNING])
    assert len({each.user_attrs["named"] for each in done}) == 4
    assert done[0].params["gamma"] == 0.9, "the first trial is the start"
    *_, best, command, judged = ended.stdout.splitlines()
    assert best.startswith("best of") and "seed 5 alone; seeds 6 to 10" in judged
    run = parse_run(shlex.split(command)[2:])
    assert isinstance(run, RunConfig) and run.total_steps == 600
    assert f"{run.agent.gamma:.4g}" == f"{study.best_params['gamma']:.4g}"
    file = load(Path("search/best.toml"))
    assert file["seeds"] == [6, 7, 8, 9, 10] and file["variants"]["start"] == "--gamma 0.9"

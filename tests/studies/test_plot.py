"""The figures: what is drawn is what the runs say, and what is wrong with a source is said in one line."""

import csv
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from jaxrl.cli.main import main, train_command
from jaxrl.studies import live
from jaxrl.studies.curves import Curve, read
from jaxrl.studies.lines import chosen, lines, rows_of

ROOT = Path(__file__).parents[2]
PLOT = ROOT / "experiments" / "plot.py"


def run_dir(folder, seed, steps, returns, torn="", algo="ppo", **agent):
    folder.mkdir(parents=True)
    record = {"algo": algo, "env": "CartPole-v1", "seed": seed, "num_envs": 8, "agent": {"gamma": 0.99} | agent}
    (folder / "config.json").write_text(json.dumps({"run": record}))
    rows = "".join(f"{step},{value},1\n" for step, value in zip(steps, returns, strict=True))
    (folder / "evaluations.csv").write_text(f"step,mean_return,std_return\n{rows}{torn}")
    return folder


def draw(*arguments, cwd):
    command = [sys.executable, str(PLOT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def drawn(path):
    with Path(path).open() as file:
        return list(csv.DictReader(file))


def test_a_line_is_the_mean_over_seeds_and_its_band_a_bootstrap():
    rng = np.random.default_rng(1)
    returns = rng.normal(size=(6, 4)) * [1, 5, 10, 0] + [0, 10, 20, 7]
    curves = [Curve("E-v1", "ppo", {}, str(k), np.arange(4) * 100, row) for k, row in enumerate(returns)]
    [line] = lines(curves, False)
    np.testing.assert_allclose(line.mean, returns.mean(0))
    picks = rng.integers(0, 6, (20_000, 6))
    low, high = np.percentile(returns[picks].mean(1), [2.5, 97.5], axis=0)
    np.testing.assert_allclose(line.low, low, atol=0.4)
    np.testing.assert_allclose(line.high, high, atol=0.4)
    assert line.low[3] == line.high[3] == pytest.approx(7)
    [middle] = lines(curves, True)
    np.testing.assert_allclose(middle.mean, np.sort(returns, 0)[1:5].mean(0))  # A quarter of six is one and a half.


def test_seeds_that_were_evaluated_elsewhere_meet_where_all_have_been():
    one = Curve("E-v1", "ppo", {}, "0", np.array([0, 100, 200]), np.array([0.0, 10.0, 20.0]))
    other = Curve("E-v1", "ppo", {}, "1", np.array([0, 50, 110, 170]), np.array([0.0, 50.0, 110.0, 170.0]))
    [line] = lines([one, other], False)
    np.testing.assert_array_equal(line.steps, [0, 100, 170])
    np.testing.assert_allclose(line.mean, [0, (10 + 100) / 2, (17 + 170) / 2])


def test_settings_that_differ_name_the_lines(tmp_path):
    for seed in (0, 1):
        run_dir(tmp_path / "study" / "gamma=0.9" / f"seed-{seed}", seed, [0, 10], [1, 2], gamma=0.9, clip_eps=0.2)
        run_dir(tmp_path / "study" / "gamma=0.5" / f"seed-{seed}", seed, [0, 10], [1, 3], gamma=0.5, clip_eps=0.2)
    run_dir(tmp_path / "study" / "other", 0, [0, 10], [5, 5], algo="ppo_kl", gamma=0.7)
    found = lines(read(tmp_path / "study"), False)
    assert [(line.label, line.seeds) for line in found] == [("ppo, gamma 0.5", 2), ("ppo, gamma 0.9", 2), ("ppo_kl", 1)]


def test_seeds_that_have_come_further_go_on_alone_and_lines_can_be_chosen():
    def curve(algo, seed, *steps):
        return Curve("E-v1", algo, {}, str(seed), np.array(steps), 10.0 * np.array(steps) + seed)

    drawn = lines([curve("ppo", 0, 0, 1, 2), curve("ppo", 1, 0, 1, 2, 3), curve("ppo", 2, 0, 1, 2, 3, 4)], False)
    rows = [(row["seeds"], row["step"], row["middle"]) for row in rows_of(drawn)]
    # One evaluation more may be the end of a rollout that began before the last; two are not.
    assert rows == [(3, 0, 1.0), (3, 1, 11.0), (3, 2, 21.0), (1, 2, 22.0), (1, 3, 32.0), (1, 4, 42.0)]
    both = lines([curve("ppo", 0, 0, 1), curve("ddpg", 0, 0, 1)], False)
    assert [line.label for line in both] == ["ddpg", "ppo"]
    assert [line.label for line in chosen(both, ["ppo", "ddpg"])] == ["ppo", "ddpg"]
    assert [line.label for line in chosen(both, ["ddpg"])] == ["ddpg"]


def test_the_command_draws_runs_that_are_not_over(tmp_path):
    run_dir(tmp_path / "a", 0, [0, 10, 20], [1, 2, 3], torn="30,4")
    run_dir(tmp_path / "b", 1, [0, 10], [3, 4])
    reference = tmp_path / "reference.csv"
    reference.write_text("task,source,step,mean_return\nCartPole,somebody,0,1\nCartPole,somebody,20,2\nAnt,x,0,0\n")
    done = draw("a", "b", "--reference", reference, "--out", "figures/both", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [(row["step"], row["middle"], row["seeds"]) for row in drawn(tmp_path / "figures/both.csv")] == [
        ("0", "2.0", "2"), ("10", "3.0", "2"),
    ]  # fmt: skip
    assert (tmp_path / "figures/both.png").read_bytes().startswith(b"\x89PNG")
    svg = (tmp_path / "figures/both.svg").read_text()
    assert "stroke-dasharray" in svg
    assert draw("a", "b", "--ends", "--out", "figures/ends", cwd=tmp_path).returncode == 0
    # The same bytes for the same data.
    assert draw("a", "b", "--reference", reference, "--out", "figures/again", cwd=tmp_path).returncode == 0
    for ending in ("png", "svg"):
        assert (tmp_path / f"figures/again.{ending}").read_bytes() == (tmp_path / f"figures/both.{ending}").read_bytes()


def until(true, worker):
    end = time.monotonic() + 60
    while not true():
        assert worker.is_alive() and time.monotonic() < end
        time.sleep(0.01)


def test_a_live_figure_follows_a_run_to_its_end(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(live, "POLL_SECONDS", 0.02)
    run = run_dir(tmp_path / "runs/seed-0", 0, [], [])
    codes = []
    worker = threading.Thread(target=lambda: codes.append(main(["plot", "runs", "--live", "--out", "live"])))
    lock = os.open(run, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # As the process that trains holds it.
    worker.start()
    for rows in (1, 2):
        time.sleep(0.1)
        before = [row["step"] for row in drawn("live.csv")] if rows > 1 else []
        assert before == [str(100 * row) for row in range(rows - 1)], "it waits"
        with (run / "evaluations.csv").open("a") as file:
            file.write(f"{100 * (rows - 1)},{rows},0\n")
        until(lambda count=rows: Path("live.csv").exists() and len(drawn("live.csv")) == count, worker)
        assert Path("live.png").read_bytes().startswith(b"\x89PNG")
    with (run / "evaluations.csv").open("a") as file:
        file.write("200,3,0\n")
    os.close(lock)
    worker.join(60)
    assert codes == [0] and [row["middle"] for row in drawn("live.csv")] == ["1.0", "2.0", "3.0"]
    assert capsys.readouterr().out.splitlines()[0] == "live.png, live.svg, live.csv"
    assert not list(tmp_path.glob(".*")), "nothing half written is left"


def test_a_live_figure_follows_a_study_between_two_of_its_runs_until_ctrl_c(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_dir(tmp_path / "study/task/seed-0", 0, [0, 10], [1, 2])
    slept = []

    def interrupted(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(live.time, "sleep", interrupted)
    with Path("study/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["plot", "study", "--live", "--out", "live"]) == 130
    assert capsys.readouterr().out.splitlines()[1:] == ["drawn up to step 10"], "it is not drawn again without need"


def test_the_diagnostics_of_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = "--env CartPole-v1 --total-steps 600 --num-steps 32 --num-minibatches 2 --eval-episodes 2 --log-every 200"
    assert train_command([*flags.split(), "--run-dir", "run"]) == 0
    done = draw("run", "--diagnostics", "--out", "sheet", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    rows, logged = drawn("sheet.csv"), drawn("run/metrics.csv")
    assert [float(row["kl"]) for row in rows] == [float(row["kl"]) for row in logged]
    assert {"policy_loss", "kl_coef", "clip_fraction", "entropy", "explained_variance"} < rows[0].keys()
    taken = float(logged[1]["step"]) - float(logged[0]["step"])
    took = float(logged[1]["wall_time"]) - float(logged[0]["wall_time"])
    assert float(rows[1]["steps per second"]) == pytest.approx(taken / max(took, 1e-9))


@pytest.mark.parametrize(
    "flags, words",
    [
        (["nothing"], "cannot be read"),
        (["empty"], "holds no run"),
        (["columns"], "has no column mean_return"),
        (["words"], "holds what is no number"),
        (["config"], "config.json cannot be read"),
        (["unnamed.csv"], "name it ENV-seedK.csv"),
        (["good", "--reference", "unnamed.csv"], "has no column task"),
        (["good", "--out", "good/evaluations.csv/x"], "cannot be written"),
        (["good", "good", "--diagnostics"], "of one run alone"),
        (["good", "--diagnostics"], "metrics.csv cannot be read"),
        (["before"], "none of these runs has been evaluated"),
        (["good", "--ends", "--diagnostics"], "not allowed"),
        (["good", "good"], "seed 0 of ppo on CartPole-v1 is given twice"),
        (["good", "late"], "no step in common"),
        (["good", "--iqm"], "needs 4"),
        (["good", "--out", "."], "has no name"),
        (["good", "--only", "ddpg"], "no line 'ddpg': there are ppo"),
        (["good", "--diagnostics", "--iqm"], "of one run alone"),
        (["good", "--ends", "--reference", "other.csv"], "is for curves"),
        (["good", "--reference", "other.csv"], "no curve of CartPole"),
        (["nan"], "not finite"),
        (["header.csv"], "evaluated yet"),
        (["good", "unnamed.csv", "--live"], "unnamed.csv is no folder"),
        (["before", "--live"], "evaluated yet"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, capsys, flags, words):
    run_dir(tmp_path / "good", 0, [0, 10], [1, 2])
    run_dir(tmp_path / "before", 0, [], [])
    run_dir(tmp_path / "late", 1, [20, 30], [1, 2])
    run_dir(tmp_path / "words", 0, [0, 10], [1, "many"])
    run_dir(tmp_path / "config", 0, [0, 10], [1, 2])
    (tmp_path / "config/config.json").write_text("{}")
    run_dir(tmp_path / "columns", 0, [], [])
    (tmp_path / "columns/evaluations.csv").write_text("step,return\n0,1\n")
    (tmp_path / "empty").mkdir()
    run_dir(tmp_path / "nan", 0, [0, 10], [1, "nan"])
    (tmp_path / "other.csv").write_text("task,step,mean_return\nAnt,0,1\n")
    (tmp_path / "header.csv").write_text("env,variant,seed,step,mean_return\n")
    (tmp_path / "unnamed.csv").write_text("step,mean_return\n0,1\n")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["plot", *flags])
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1), err
    assert err.startswith("jaxrl plot: ") and words in err
    assert sorted(tmp_path.rglob("*")) == before


SHOWN = ["clip 0.2", "fixed KL 1", "adaptive KL 0.01", "neither"]


@pytest.mark.parametrize(
    "name, pattern, only",
    [
        ("ddpg", "ddpg/*.csv", None),
        ("cartpole", "cartpole.csv", None),
        ("ppo", "ppo.csv", None),
        ("paper", "paper.csv", SHOWN),
        ("rloo", "rloo/curves.csv", None),
    ],
)
def test_a_committed_figure_is_what_its_command_draws_from_committed_data(name, pattern, only):
    """Its data, to rounding; the picture's bytes depend on matplotlib's version."""
    sources = sorted((ROOT / "experiments/results").glob(pattern))
    drawn_now = lines([curve for source in sources for curve in read(source)], False)
    found = rows_of(chosen(drawn_now, only))
    committed = drawn(ROOT / f"plots/{name}.csv")
    assert len(found) == len(committed) > 50
    for row, other in zip(found, committed, strict=True):
        words, figures = ("env", "line", "seeds", "step"), ("middle", "low", "high")
        assert [str(row[column]) for column in words] == [other[column] for column in words]
        ours, theirs = [row[column] for column in figures], [float(other[column]) for column in figures]
        np.testing.assert_allclose(ours, theirs, atol=0.01)

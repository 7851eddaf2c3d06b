"""Studies from files: all of it is run once, whatever interrupts it, and the table says what the runs say."""

import csv
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxrl import train
from jaxrl.cli.arguments import parse_run
from jaxrl.cli.main import main
from jaxrl.runs.origin import commit, machine, versions
from jaxrl.studies import yielding
from jaxrl.studies.study_run import Part

SCRIPT = Path(__file__).parents[2] / "experiments" / "study.py"

STUDY = """
name = "small"
results = "found/small"
figure = "found/figure"
seeds = [0, 1]
flags = "--total-steps {steps} --num-steps 32 --num-minibatches 2 --num-epochs 2 --eval-every 500 --eval-episodes 2"
[tasks]
"CartPole-v1" = "--num-envs 4"
[variants]
"clip 0.2" = "--checkpoint-every 500"
"""


def study(folder, text=STUDY, steps=600, **changes):
    folder.mkdir(exist_ok=True)
    text = text.format(steps=steps)
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "study.toml").write_text(text)
    return folder


def start(folder, *before, flags=()):
    command = [*before, sys.executable, str(SCRIPT), "study.toml", "--cores", "2", *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder)


def run(folder):
    process = start(folder)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def rows(folder):
    with (folder / "found/small.csv").open() as file:
        return list(csv.DictReader(file))


def rows_alone(folder, steps):
    """What the study's table must say, from each run by itself."""
    (flags,) = re.findall(r'^flags = "(.*)"$', STUDY.format(steps=steps), re.M)
    flags += " --num-envs 4 --checkpoint-every 500"
    found = []
    for seed in (0, 1):
        own = {"env": "CartPole-v1", "variant": "clip 0.2", "seed": str(seed)}
        run_dir = str(folder / f"alone-{seed}")
        result = train(parse_run(["--env", "CartPole-v1", *flags.split(), "--seed", str(seed), "--run-dir", run_dir]))
        found += [
            own
            | {"step": str(each.step), "episodes": str(each.episodes)}
            | {"mean_return": f"{each.mean_return:.6g}", "std_return": f"{each.std_return:.6g}"}
            for each in result.evaluations
        ]
    return found


def test_a_study_is_run_once_and_written_down(tmp_path):
    folder = study(tmp_path)
    process, log = start(folder, "nohup"), folder / "runs/studies/small/CartPole-v1/clip-0.2/seed-0.log"
    while not log.is_file():
        time.sleep(0.02)
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGHUP)  # The terminal is closed.
    out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    found = rows(folder)
    assert {(row["env"], row["variant"], row["seed"]) for row in found} == {
        ("CartPole-v1", "clip 0.2", "0"), ("CartPole-v1", "clip 0.2", "1"),
    }  # fmt: skip
    runs = folder / "runs/studies/small/CartPole-v1/clip-0.2"
    for seed in "01":
        with (runs / f"seed-{seed}" / "evaluations.csv").open() as file:
            own = [(row["step"], float(row["mean_return"])) for row in csv.DictReader(file)]
        assert own == [(row["step"], pytest.approx(float(row["mean_return"]))) for row in found if row["seed"] == seed]
    last = [float([row for row in found if row["seed"] == seed][-1]["mean_return"]) for seed in "01"]
    least = min(int(row["step"]) for row in found if int(row["step"]) >= 600)
    assert f"| CartPole-v1 | clip 0.2 | 2 | {least} | {sum(last) / 2:,.1f} |" in out
    about = json.loads((folder / "found/small.json").read_text())
    assert about["variants"] == {"clip 0.2": "--checkpoint-every 500"}
    [origin] = about["origins"]
    assert origin["runs"] == 2 and origin["versions"] == versions() and origin["machine"] == machine()
    assert origin["commit"] == commit()
    assert (folder / "found/figure.png").is_file()
    changed = {path: path.stat().st_mtime_ns for path in runs.rglob("*.csv")}
    code, out, _ = run(folder)
    assert code == 0 and "2 runs, 2 done" in out
    assert changed == {path: path.stat().st_mtime_ns for path in runs.rglob("*.csv")}
    # What was run with other flags is not passed off as this.
    code, _, err = run(study(folder, **{"--checkpoint-every 500": "--gamma 0.5"}))
    assert code == 2 and "was begun with" in err and err.count("\n") == 1
    assert changed == {path: path.stat().st_mtime_ns for path in runs.rglob("*.csv")}


def test_one_that_is_interrupted_goes_on(tmp_path):
    cut = study(tmp_path / "cut", steps=6000)
    process, table = start(cut), cut / "runs/studies/small/CartPole-v1/clip-0.2/seed-0/evaluations.csv"
    while not (table.is_file() and table.read_text().count("\n") > 3):
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    assert not (table.parent / "done").exists() and (table.parent / "checkpoints/latest.npz").is_file()
    assert run(cut)[0] == 0
    assert rows(cut) == rows_alone(tmp_path, 6000)


def children(process):
    """The processes that one has started: pid, and state as Linux writes it (T for stopped)."""
    stats = [path.read_text().rpartition(")")[2].split() for path in Path("/proc").glob("[0-9]*/stat") if path.exists()]
    pids = [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/stat")]
    return {pid: stat[0] for pid, stat in zip(pids, stats, strict=False) if int(stat[1]) == process.pid}


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes as Linux shows them")


@needs_proc
def test_one_that_yields_pauses_and_saves_when_it_is_stopped_in_a_pause(tmp_path):
    folder = study(tmp_path, steps=1_000_000, **{"seeds = [0, 1]": "seeds = [0]"})
    (pause := folder / "runs/studies/small/pause").parent.mkdir(parents=True)
    pause.touch()
    process, table = start(folder, flags=["--nice"]), pause.parent / "CartPole-v1/clip-0.2/seed-0/metrics.csv"
    assert process.stdout.readline() == "1 runs, 0 done\n"
    assert process.stdout.readline() == f"paused until {pause} is gone\n"
    assert children(process) == {}
    pause.unlink()
    assert process.stdout.readline() == "the study goes on\n"
    until(lambda: table.is_file() and table.read_text().count("\n") > 2, process)
    [run] = children(process)
    assert os.getpriority(os.PRIO_PROCESS, run) == 19 > os.getpriority(os.PRIO_PROCESS, process.pid)
    session = Path(f"/proc/{run}/autogroup")
    assert not session.exists() or session.read_text().endswith("nice 19\n")
    process.send_signal(signal.SIGUSR1)
    # On a busy machine a minute has passed before, and the study has said what is left.
    assert next(line for line in process.stdout if "under way" not in line) == "paused until SIGUSR2\n"
    until(lambda: children(process)[run] == "T", process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    assert (table.parent / "checkpoints/latest.npz").is_file() and not Path(f"/proc/{run}").exists()


def until(true, process):
    for _ in range(15_000):  # The run has what others leave over, on a busy machine little.
        if true():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("it has taken too long")


@pytest.fixture
def at_work(tmp_path):
    """A study that yields, and a process that stands for its run."""
    handlers = {kind: signal.getsignal(kind) for kind in (signal.SIGUSR1, signal.SIGUSR2)}
    flags = ("--total-steps", "1e4")
    parts = [Part("CartPole-v1", "a", seed, flags, tmp_path / f"seed-{seed}") for seed in (0, 1)]
    parts[0].folder.mkdir()
    (parts[0].folder / "metrics.csv").write_text("step,kl\n1000,0\n20")  # The last row is being written.
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield yielding.Yielding(tmp_path, parts), parts, process
    process.kill()
    process.wait()
    for kind, handler in handlers.items():
        signal.signal(kind, handler)


@needs_proc
@pytest.mark.parametrize("asked", ["file", "signal", "both"])
def test_a_pause_lasts_as_long_as_it_is_asked_for(tmp_path, at_work, asked, capsys):
    study, parts, process = at_work
    going = {process: parts[0]}

    def state():
        return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]

    study.look(going)
    assert not study.paused and state() != "T"
    if asked != "signal":
        (tmp_path / "pause").touch()
    if asked != "file":
        os.kill(os.getpid(), signal.SIGUSR1)
    for _ in range(3):
        study.look(going)
        assert study.paused
    until(lambda: state() == "T", process)
    if asked == "both":
        os.kill(os.getpid(), signal.SIGUSR2)
        study.look(going)
        assert study.paused and state() == "T"  # The file is still there.
    elif asked == "signal":
        os.kill(os.getpid(), signal.SIGUSR2)
    (tmp_path / "pause").unlink(missing_ok=True)
    study.look(going)
    assert not study.paused
    until(lambda: state() != "T", process)
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["paused", "the"]


def test_what_is_left_is_told_after_each_run_and_every_so_often(tmp_path, at_work, capsys, monkeypatch):
    study, parts, process = at_work
    study.look({process: parts[0]})
    study.report(parts, 1, ended=False)
    assert capsys.readouterr().out == ""
    study.report(parts, 1, ended=True)
    assert capsys.readouterr().out == "1 runs under way, 1 to come, 19,000 steps left\n"  # Nothing measured yet.
    (parts[0].folder / "metrics.csv").write_text("step,kl\n1000,0\n3000,0\n")
    now = time.monotonic()
    monkeypatch.setattr(yielding.time, "monotonic", lambda: now + 100)
    study.look({process: parts[0]})
    study.report(parts, 1, ended=False)
    out = capsys.readouterr().out
    # 2,000 steps in 100 s.
    assert re.match(r"1 runs under way, 1 to come, 17,000 steps left, 20 a second: done in 0:14:\d\d, \d{4}-", out)
    # A pause counts for nothing.
    (tmp_path / "pause").touch()
    study.look({process: parts[0]})
    monkeypatch.setattr(yielding.time, "monotonic", lambda: now + 10_000)
    study.report(parts, 1, ended=True)
    (tmp_path / "pause").unlink()
    study.look({process: parts[0]})
    study.report(parts[1:], 0, ended=True)
    out = capsys.readouterr().out.splitlines()[-1]
    assert out.startswith("0 runs under way, 1 to come, 10,000 steps left, 20 a second: done in 0:08:")


def test_two_keep_out_of_each_others_way(tmp_path):
    folder = study(tmp_path)
    (held := folder / "runs/studies/small").mkdir(parents=True)
    with (held / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _, err = run(folder)
    assert code == 2 and "is in use" in err and err.count("\n") == 1
    # Nor is a run's folder taken away that an orphan of an earlier start still holds.
    (orphan := held / "CartPole-v1/clip-0.2/seed-0").mkdir(parents=True)
    handle = os.open(orphan, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    code, _, err = run(folder)
    os.close(handle)
    assert code == 2 and "still trains there" in err and err.count("\n") == 1 and orphan.is_dir()


MODULE = """
import gymnasium as gym

class Mine(gym.Wrapper):
    pass

def make(**options):
    return gym.make("CartPole-v1", **options).unwrapped

gym.register("Mine-v0", make, max_episode_steps=50)
"""


def test_code_of_the_users_own_is_named_again_when_a_run_goes_on(tmp_path, monkeypatch):
    changes = {
        '"CartPole-v1" = "--num-envs 4"': '"mine:Mine-v0" = "--num-envs 2"',
        "seeds = [0, 1]": "seeds = [0]",
        "--checkpoint-every 500": "--checkpoint-every 500 --wrapper mine:Mine mine:Mine --gamma 0.9",
    }
    folder = study(tmp_path, steps=100_000, **changes)
    (folder / "mine.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    process, kept = start(folder), folder / "runs/studies/small/mine-Mine-v0/clip-0.2/seed-0/checkpoints/latest.npz"
    while not kept.is_file():
        time.sleep(0.02)
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    process = start(folder)
    log = kept.parent.parent.with_suffix(".log")
    while "resuming" not in log.read_text():
        time.sleep(0.02)
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130


def test_a_run_that_fails_keeps_no_other_from_its_end(tmp_path):
    bad = {
        "[variants]": '[variants]\n"bad" = "--gamma 7"',
        "seeds = [0, 1]": "seeds = [0]\nshown = ['bad', 'clip 0.2']",
    }
    code, out, err = run(study(tmp_path, **bad))
    assert (code, err.count("\n")) == (2, 1), err
    assert "CartPole-v1, bad, seed 0 ended with exit code 2" in err and "gamma" in err
    assert "CartPole-v1, bad, seed 0: failed" in out and "CartPole-v1, clip 0.2, seed 0: done" in out
    assert {row["variant"] for row in rows(tmp_path)} == {"clip 0.2"}
    assert (tmp_path / "found/figure.png").is_file()


def so_far(folder):
    command = [sys.executable, str(SCRIPT), "study.toml", "--so-far"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    return done.returncode, done.stdout, done.stderr


def test_what_there_is_so_far_can_be_seen(tmp_path):
    folder = study(tmp_path)
    code, _, err = so_far(folder)
    assert code == 2 and "evaluated yet" in err and err.count("\n") == 1
    (of := folder / "runs/studies/small/CartPole-v1/clip-0.2/seed-1").mkdir(parents=True)
    head = "step,mean_return,std_return,min_return,max_return,episodes,wall_time\n"
    (of / "evaluations.csv").write_text(head + "0,9.5,1,8,10,2,0.1\n500,20.25,1,8,10,2,0.2\n1000,30")  # Being written.
    (begun := of.parent / "seed-0").mkdir()
    (of / "config.json").write_text('{"commit": "1234abc"}')
    (begun / "config.json").write_text('{"commit": "5678def"}')  # It has no evaluation yet.
    code, out, err = so_far(folder)
    assert (code, err) == (0, "")
    assert "| CartPole-v1 | clip 0.2 | 1 | 500 | 20.2 |" in out
    [origin] = json.loads((folder / "found/small.json").read_text())["origins"]
    assert (origin["runs"], origin["commit"], origin["machine"]) == (1, "1234abc", None)
    assert [(row["seed"], row["step"], row["mean_return"]) for row in rows(folder)] == [
        ("1", "0", "9.5"), ("1", "500", "20.25"),
    ]  # fmt: skip
    before = (folder / "found/small.csv").read_bytes()
    (of / "evaluations.csv").write_text(head + "0,many,1,8,10,2,0.1\n")
    code, _, err = so_far(folder)
    assert code == 2 and "holds what is no number" in err and err.count("\n") == 1
    assert (folder / "found/small.csv").read_bytes() == before


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"[tasks]": "[tasks"}, "cannot be read"),
        ({"figure": "figures"}, "has 'figures'"),
        ({"seeds = [0, 1]": "seeds = 3"}, "it must be a list"),
        ({"seeds = [0, 1]": "seeds = []"}, "says no seeds"),
        ({"seeds = [0, 1]": "seeds = [-1]"}, "whole numbers"),
        ({"seeds = [0, 1]": "seeds = [true]"}, "whole numbers"),
        ({"seeds = [0, 1]": "seeds = [0]\nshown = [['clip 0.2']]"}, "is no variant"),
        ({"seeds = [0, 1]": "seeds = [0]\ncores = 64"}, "takes 64"),
        ({"seeds = [0, 1]": "seeds = [0]\ngpus = 1.5"}, "a whole number"),
        ({"found/small": "."}, "a path without an ending"),
        ({'"clip 0.2"': '".."'}, "no name for a task or variant"),
        ({"--checkpoint-every 500": "--help"}, "trains nothing"),
        ({'"clip 0.2" = "--checkpoint-every 500"': '"clip" = 3'}, "name = 'flags'"),
        (
            {'"clip 0.2" = "--checkpoint-every 500"': '"clip" = "--nope"'},
            "Unrecognized options: --nope",
        ),
        ({"--checkpoint-every 500": "--wrapper 'a"}, "cannot be read"),
        ({"--checkpoint-every 500": "--num-seeds 3"}, "--num-seeds is the study's own"),
        ({"seeds = [0, 1]": "seeds = [0, 1]\nshown = ['clip']"}, "is no variant"),
        ({'"clip 0.2"': '"clip-0.2" = ""\n"clip 0.2"'}, "have one folder"),
        ({"seeds = [0, 1]": "seeds = [0, 0]"}, "have one folder"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, capsys, changes, words):
    monkeypatch.chdir(study(tmp_path, **changes))
    handlers = {kind: signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with pytest.raises(SystemExit, match="2"):
            main(["study", "study.toml", "--cores", "2"])
    finally:
        for kind, handler in handlers.items():
            signal.signal(kind, handler)
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert err.startswith("jaxrl study: ") and words in err
    assert not (tmp_path / "found").exists()

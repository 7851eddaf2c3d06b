"""The benchmark's own code: that it times what it says, and shows what it timed."""

import itertools
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "experiments" / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def scripts():
    sys.path.insert(0, str(SCRIPTS))
    yield
    sys.path.remove(str(SCRIPTS))


def test_what_is_compared_takes_its_turn_and_the_ratio_is_right():
    from timed_kernels import in_turn

    order = []

    def sleeps(name, seconds):
        def call():
            order.append(name)
            time.sleep(seconds)

        return call

    rates = in_turn({"a": sleeps("a", 0.004), "b": sleeps("b", 0.008)}, 2)
    assert len(rates["a"]) == len(rates["b"]) == 2
    assert rates["a"][0] / rates["b"][0] == pytest.approx(2, rel=0.35)
    changes = sum(one != other for one, other in itertools.pairwise(order))
    assert changes > 30


def test_nothing_is_counted_twice(monkeypatch):
    import timed_parts

    now = [0.0]
    monkeypatch.setattr(timed_parts.time, "perf_counter", lambda: now[0])

    def spend(seconds):
        now[0] += seconds

    clock = timed_parts.Stopwatch()
    with clock.part("outer"):
        spend(2)
        for _ in range(2):
            with clock.part("inner"):
                spend(5)
    assert clock.seconds == {"inner": 10, "outer": 2}
    with clock.part("outer"), clock.part("evaluation"):
        spend(7)
        with clock.part("inner"):
            spend(5)
    assert clock.seconds == {"inner": 10, "outer": 2}
    with clock.part("outer"):
        clock.restart()
        with clock.part("inner"):
            spend(5)
    with clock.part("inner"):
        spend(3)
    assert clock.seconds == {"inner": 3}


def test_a_run_is_timed_from_outside():
    from timed_runs import run

    done = run("--env CartPole-v1 --num-steps 32 --num-minibatches 2 --num-epochs 2 --log-every 256", 1024)
    steps = [int(row["step"]) for row in done.rows]
    assert steps == sorted(steps) and steps[-1] >= 1024
    wall = [float(row["wall_time"]) for row in done.rows]
    first, last = next(at for at, step in enumerate(steps) if step >= 300), len(steps) - 1
    assert done.rate(300) == pytest.approx((steps[last] - steps[first]) / (wall[last] - wall[first]))
    assert done.seconds > wall[-1] and done.peak > 50
    with pytest.raises(SystemExit, match=r"exit code 2.*gamma is 2"):
        run("--env CartPole-v1 --gamma 2", 1024)


def test_results_are_compared_figure_by_figure(tmp_path):
    old = {"tables": {"A table": {"a row": {"x": 2.0, "gone": 1.0}, "another": {"x": 5.0, "nil": 0}}}}
    new = {"tables": {"A table": {"a row": {"x": 3.0}, "another": {"x": 1000.0, "nil": 0}}}}
    for name, content in {"old": old, "new": new}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    command = [sys.executable, SCRIPTS / "benchmark.py", "compare", tmp_path / "old.json", tmp_path / "new.json"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "| a row: x | 2 | 3 | 1.5 |" in text
    assert "| another: x | 5 | 1,000 | 200 |" in text
    assert "gone" not in text


@pytest.mark.parametrize("script", ["benchmark.py", "measure.py", "soak.py"])
@pytest.mark.parametrize(
    "flags", [["--nope"], ["train", "--repeats", "x"], ["compare", "nothing.json", "nothing.json"]]
)
def test_a_mistake_is_one_line(script, flags):
    done = subprocess.run([sys.executable, SCRIPTS / script, *flags], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)

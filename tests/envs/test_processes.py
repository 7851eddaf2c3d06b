"""Environments in processes of their own: what kills one, what hangs, what raises, and what is left then."""

import functools
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from jaxrl import BadInput, EnvironmentLost, make_envs


class Failing(gym.Env):
    """Does what is asked of it at its step 5, in the environment whose first observation is the largest."""

    observation_space, action_space = spaces.Box(-1.0, 1.0, (1,), np.float32), spaces.Discrete(2)

    def __init__(self, how):
        self._how, self._steps = how, 0

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self._steps += 1
        if self._steps == 5 and action == 1:
            if self._how == "raise":
                raise ZeroDivisionError("no\nluck")
            if self._how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self._how == "exit":
                sys.exit(3)
            time.sleep(3600)
        return np.zeros(1, np.float32), 1.0, False, False, {}


def fail(envs, index=1):
    action = np.zeros(2, np.int64)
    action[index] = 1
    for _ in range(5):
        envs.step(action)


WORDS = {
    "raise": r"^environment 1 raised ZeroDivisionError: no luck \(test_processes.py:\d+\)$",
    "kill": r"^environment 1's process was killed by SIGKILL$",
    "hang": r"^environment 1 gave no answer within 2 s \(env_timeout\)$",
}


def no_child_left():
    return not [child for child in multiprocessing.active_children() if "Worker" in child.name]


@pytest.mark.parametrize("how", WORDS)
def test_a_worker_that_fails_is_named_and_none_is_left(how, capfd):
    envs = make_envs(functools.partial(Failing, how), 2, 0, "async", timeout=2 if how == "hang" else 60)
    with pytest.raises(EnvironmentLost, match=WORDS[how]):
        fail(envs)
    assert no_child_left()
    envs.close()
    envs.close()
    captured = "".join(capfd.readouterr())
    assert "Traceback" not in captured
    assert "ERROR" not in captured


def test_what_a_user_brings_is_watched_too():
    envs = make_envs(AsyncVectorEnv([functools.partial(Failing, "raise")] * 2, context="spawn"), 2, 0)
    with pytest.raises(EnvironmentLost, match="environment 1 raised ZeroDivisionError: no luck"):
        fail(envs)
    assert no_child_left()


def test_an_exception_in_this_process_says_where():
    envs = make_envs(functools.partial(Failing, "raise"), 2, 0)
    with pytest.raises(EnvironmentLost, match=WORDS["raise"]) as caught:
        fail(envs)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("how, words", [("hang", "gave no answer within 2 s"), ("raise", "raised ZeroDivisionError")])
def test_what_a_user_brings_inside_a_wrapper_is_watched_too(how, words):
    inside = AsyncVectorEnv([functools.partial(Failing, how)] * 2, context="spawn")
    envs = make_envs(RecordEpisodeStatistics(inside), 2, 0, timeout=2)
    with pytest.raises(EnvironmentLost, match=words):
        fail(envs)
    assert no_child_left()


class Untellable(Failing):
    def step(self, action):
        error = ValueError("secret")
        error.why = lambda: None
        raise error


def test_an_exception_that_cannot_be_sent_does_not_hang():
    envs = make_envs(AsyncVectorEnv([functools.partial(Untellable, "")] * 2, context="spawn"), 2, 0, timeout=2)
    with pytest.raises(EnvironmentLost, match="raised what cannot be sent here"):
        envs.step(np.zeros(2, np.int64))
    assert no_child_left()


def only_at_home(deed):
    if multiprocessing.parent_process() is not None:
        if deed == "exit":
            os._exit(4)
        if deed == "hang":
            time.sleep(3600)
        raise KeyError("no such file")
    return Failing("raise")


@pytest.mark.parametrize(
    "deed, words",
    [
        ("exit", r"process ended with exit code 4 while it was started.*__main__"),
        ("hang", "process was not ready after 8 s"),
        ("raise", r"an environment's process raised KeyError\('no such file'\)"),
    ],
)
def test_what_cannot_be_started_leaves_nothing(deed, words, monkeypatch, capfd):
    monkeypatch.setattr("jaxrl.envs.processes.MIN_START_TIMEOUT_S", 8.0)
    with pytest.raises(EnvironmentLost, match=words):
        make_envs(functools.partial(only_at_home, deed), 2, 0, "async", timeout=1)
    assert no_child_left()
    # MuJoCo's windowing library probes for its own in a process, which complains if we end a worker in that moment.
    probe = r'Traceback .*\n  File "<string>", line \d+, in <module>\nBrokenPipeError: .*\n'
    assert "Traceback" not in re.sub(probe, "", "".join(capfd.readouterr()))


def test_an_id_that_is_none_starts_nothing():
    with pytest.raises(BadInput, match="there is no environment"):
        make_envs("CartPol-v1", 2, 0, "async")
    assert no_child_left()


def test_workers_end_with_the_process_that_they_work_for(tmp_path):
    """Killed outright, it can tell them nothing; even those that hang must notice."""
    script = tmp_path / "script.py"
    script.write_text(
        "import functools, os, signal, sys, numpy as np\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_processes import Failing, make_envs, fail\n"
        "if __name__ == '__main__':\n"
        "    envs = make_envs(functools.partial(Failing, 'hang'), 2, 0, 'async')\n"
        "    print(*[process.pid for process in envs.vector_env.processes], flush=True)\n"
        "    envs.vector_env.step_async(np.ones(2, np.int64))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    pids = list(map(int, run.stdout.split()))
    assert len(pids) == 2
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "a worker stays"
        time.sleep(0.05)


class Numbered(Failing):
    observation_space = spaces.Text(3)


def test_what_is_refused_once_it_runs_leaves_nothing():
    with pytest.raises(BadInput, match="observation space Text"):
        make_envs(functools.partial(Numbered, "raise"), 2, 0, "async")
    assert no_child_left()
    with pytest.raises(BadInput, match="on_fault"):
        make_envs(functools.partial(Failing, "raise"), 2, 0, "async", on_fault="skip")
    assert no_child_left()


def test_workers_do_not_hear_ctrl_c():
    envs = make_envs(functools.partial(Failing, "raise"), 2, 0, "async")
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGINT)
    envs.step(np.zeros(2, np.int64))
    envs.close()
    assert no_child_left()


def test_asynchronous_steps_are_those_of_one_process():
    action = np.random.default_rng(0).uniform(-2, 2, (50, 2, 1)).astype(np.float32)
    rows = []
    for backend in ("gymnasium", "async"):
        envs = make_envs("Pendulum-v1", 2, 3, backend, max_episode_steps=20)
        rows.append([envs.step(a) for a in action])
        envs.close()
    for a, b in zip(*rows, strict=True):
        for x, y in zip(a[:6], b[:6], strict=True):
            np.testing.assert_array_equal(x, y)


MODULE = """
import os, signal, sys, time
import gymnasium as gym, numpy as np
from gymnasium import spaces

class Failing(gym.Env):
    observation_space, action_space = spaces.Box(-1.0, 1.0, (1,), np.float32), spaces.Box(-1.0, 1.0, (1,), np.float32)
    steps = 0
    def __init__(self):
        with open(os.environ["PIDS"], "a") as file: file.write(f"{os.getpid()}\\n")
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}
    def step(self, action):
        self.steps += 1
        if self.steps == 300 and len(open(os.environ["PIDS"]).readlines()) > 2:
            {deed}
        return np.zeros(1, np.float32), 1.0, False, self.steps % 50 == 0, {}

gym.register("Failing-v0", entry_point=Failing)
"""
DEEDS = {
    "raise": ("raise KeyError('gone')", r"raised KeyError: 'gone' \(failing.py:\d+\)"),
    "kill": ("os.kill(os.getpid(), signal.SIGKILL)", "process was killed by SIGKILL"),
    "hang": ("time.sleep(3600)", r"gave no answer within 2 s \(env_timeout\)"),
}


@pytest.mark.parametrize(
    ("algo", "deed"),
    [
        *(("ppo", deed) for deed in DEEDS),
        *(pytest.param("ddpg", deed, marks=pytest.mark.slow) for deed in DEEDS),
    ],
)
def test_a_run_ends_in_one_line_with_its_checkpoint(tmp_path, algo, deed):
    code, words = DEEDS[deed]
    (tmp_path / "failing.py").write_text(MODULE.replace("{deed}", code))
    pids = tmp_path / "pids"
    flags = {"ppo": "--num-steps 16 --num-minibatches 2", "ddpg": "--learning-starts 64 --batch-size 16"}[algo]
    command = [sys.executable, "-m", "jaxrl.cli.main", "train", "--algo", algo, "--env", "failing:Failing-v0"]
    command += f"--num-envs 2 --total-steps 5000 --env-backend async --run-dir {tmp_path}/run".split()
    command += ["--env-timeout", "2" if deed == "hang" else "50"]
    command += f"--eval-every 100000 --eval-episodes 1 --hidden-sizes 8 8 --checkpoint-every 200 {flags}".split()
    environment = os.environ | {
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}",
        "PIDS": str(pids),
    }
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 1, run.stderr
    [line] = run.stderr.splitlines()
    assert re.search(rf"failing:Failing-v0: environment [01]('s)? {words}, after step \d+; the run up to it", line), (
        line
    )
    for pid in map(int, pids.read_text().split()):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert not [path for path in (tmp_path / "run" / "checkpoints").iterdir() if path.suffix == ".tmp"]
    pids.write_text("")
    again = [sys.executable, "-m", "jaxrl.cli.main", "train", "--resume", str(tmp_path / "run"), "--total-steps", "640"]
    again += ["--env", "failing:Failing-v0"]
    resumed = subprocess.run(again, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert re.search(r"resuming .* at step (5|6)\d\d", resumed.stdout), resumed.stdout + resumed.stderr

"""Runs that several processes share: they are those of one process with as many devices, and all of them end where one
does. Two processes on loopback, with a device of the CPU each."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from left_behind import tables

from jaxrl import BadInput, RunConfig, train, train_many
from jaxrl.cli.main import train_command
from jaxrl.cli.parent import needs_parent
from jaxrl.storage.files import load_arrays
from jaxrl.training.sharding import check_devices

TRAIN = [sys.executable, "-m", "jaxrl.cli.main", "train"]
FLAGS = (
    "--algo ppo --env CartPole-v1 --env-backend jax --hidden-sizes 8 8 --num-envs 8 --num-steps 16 --num-epochs 1 "
    "--num-minibatches 2 --normalize-obs --normalize-reward --no-anneal-learning-rate --eval-every none "
    "--updates-per-call 2 --log-every 100"
)
FOREVER = "--total-steps 1000000000"


def variables(index, count, port):
    found = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}"}
    return found | {"JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(index)}


def free_port():
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return made.getsockname()[1]


def begun(words, count=2):
    """The command in so many processes, the first one first."""
    port, command = free_port(), [*TRAIN, *words.split(), "--distributed"]
    return [
        subprocess.Popen(
            command, env=variables(index, count, port), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for index in range(count)
    ]


def ended(runs, seconds=None):
    """The exit codes, what was printed, and the errors."""
    printed = [run.communicate(timeout=seconds) for run in runs]
    return [run.returncode for run in runs], *zip(*printed, strict=True)


def child_of(run):
    """The process with JAX, whose parent is the command."""
    [child] = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    return int(child)


def is_there(pid):
    """Whether the process runs; one that has ended may wait for its new parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def saved(folder, step=None):
    """The arrays of the latest checkpoint; with a step, of the one of that step."""
    for name in ("latest", "previous"):
        arrays, notes = load_arrays(folder / "checkpoints" / f"{name}.npz")
        if step in (None, notes["step"]):
            return arrays
    raise AssertionError(f"no checkpoint of step {step}")


def last_step(folder):
    return load_arrays(folder / "checkpoints" / "latest.npz", ())[1]["step"]


def wait_for_step(folder, step):
    """Until a checkpoint at or after that step is written."""
    path, end = folder / "checkpoints" / "latest.npz", time.monotonic() + 300
    while not path.exists() or last_step(folder) < step:
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_two_processes_are_one_with_two_devices_and_end_where_one_is_killed(tmp_path):
    """They are compared at the first checkpoint, and one is killed after it."""
    runs = begun(f"{FLAGS} --checkpoint-every 512 {FOREVER} --run-dir {tmp_path / 'shared'}")
    wait_for_step(tmp_path / "shared", 512)
    arrays = saved(tmp_path / "shared", 512)
    children = [child_of(run) for run in runs]
    os.kill(children[1], signal.SIGKILL)
    codes, printed, errors = ended(runs, 60)
    assert codes == [1, 1] and not any(map(is_there, children))
    assert printed[0].startswith("ppo on CartPole-v1, seed 0, into") and printed[1] == ""
    assert [text.count("\n") for text in errors] == [1, 1], errors
    assert errors[0].startswith("jaxrl: another process of the run has ended or cannot be reached"), errors[0]
    assert errors[1].startswith("jaxrl: this process of the run was ended by SIGKILL, so the others end too")
    assert saved(tmp_path / "shared").keys() == arrays.keys()

    two = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    alone = f"{FLAGS} --total-steps 512 --num-devices 2 --run-dir {tmp_path / 'alone'}"
    subprocess.run([*TRAIN, *alone.split()], env=two, check=True, capture_output=True)
    wanted = saved(tmp_path / "alone", 512)
    assert arrays.keys() == wanted.keys() and len(arrays) > 40 and int(arrays["state.num_updates"]) == 4
    for name, array in arrays.items():
        np.testing.assert_allclose(array, wanted[name], rtol=1e-5, atol=1e-6, err_msg=name)
    episodes = tables(tmp_path / "alone")["episodes"]
    assert tables(tmp_path / "shared")["episodes"][: len(episodes)] == episodes and len(episodes) > 10


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("kind", ["SIGKILL", "SIGSTOP", "SIGTERM", "SIGINT", "parent"])
def test_all_processes_end_where_one_does(kind, victim, tmp_path):
    """SIGSTOP is a host that hangs: its heartbeat ends. A parent that is killed takes its child with it."""
    flags = FLAGS.replace("--eval-every none", "--eval-every 384 --eval-episodes 2")
    runs = begun(f"{flags} --checkpoint-every 128 {FOREVER} --run-dir {tmp_path / 'run'}")
    wait_for_step(tmp_path / "run", 512)
    children, other = [child_of(run) for run in runs], runs[1 - victim]
    if kind in ("SIGTERM", "SIGINT"):
        runs[victim].send_signal(signal.Signals[kind])
        codes, printed, errors = ended(runs, 60)
        assert codes == [{"SIGTERM": 143, "SIGINT": 130}[kind]] * 2 and errors == ("", "")
        assert f"stopped by {kind} at step" in printed[0] and not printed[1]
    else:
        os.kill(runs[victim].pid if kind == "parent" else children[victim], getattr(signal, kind, signal.SIGKILL))
        [code], _, [errors] = ended([other], 60)
        assert code == 1 and errors.startswith("jaxrl: another process of the run") and errors.count("\n") == 1, errors
        if kind == "SIGSTOP":
            os.kill(children[victim], signal.SIGKILL)
        runs[victim].communicate(timeout=60)
    assert not any(map(is_there, children))
    step = last_step(tmp_path / "run")
    assert train_command(["--resume", str(tmp_path / "run"), "--total-steps", str(step + 256)]) == 0  # On one device.
    assert last_step(tmp_path / "run") == step + 256 >= 768


@pytest.mark.slow
def test_a_buffer_is_the_same_in_every_process_and_in_one(tmp_path):
    flags = (
        "--algo ddpg --env Pendulum-v1 --env-backend jax --num-envs 2 --hidden-sizes 8 8 --learning-starts 100 "
        "--batch-size 8 --buffer-size 200 --total-steps 300 --eval-every none --checkpoint-every 90"
    )
    codes, _, errors = ended(begun(f"{flags} --run-dir {tmp_path / 'two'}"))
    assert codes == [0, 0], errors
    assert train_command([*flags.split(), "--run-dir", str(tmp_path / "one")]) == 0
    arrays, wanted = saved(tmp_path / "two", 300), saved(tmp_path / "one", 300)
    for name, array in arrays.items():
        np.testing.assert_allclose(array, wanted[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_a_run_of_one_process_goes_on_in_two(tmp_path):
    alone = f"{FLAGS} --total-steps 512 --run-dir {tmp_path / 'alone'}"
    begin = f"{FLAGS} --total-steps 256 --run-dir {tmp_path / 'moved'}"
    assert train_command(alone.split()) == train_command(begin.split()) == 0
    codes, printed, errors = ended(begun(f"--resume {tmp_path / 'moved'} --total-steps 512"))
    assert codes == [0, 0], errors
    assert "resuming" in printed[0] and printed[1] == ""
    arrays, wanted = saved(tmp_path / "moved", 512), saved(tmp_path / "alone", 512)
    for name, array in arrays.items():
        np.testing.assert_allclose(array, wanted[name], rtol=1e-5, atol=1e-6, err_msg=name)
    assert tables(tmp_path / "moved")["episodes"] == tables(tmp_path / "alone")["episodes"]


@pytest.mark.slow
def test_settings_that_differ_are_one_line(tmp_path):
    port, outcomes = free_port(), []
    for index, steps in enumerate((256, 384)):
        words = f"{FLAGS} --total-steps {steps} --run-dir {tmp_path / 'run'} --distributed"
        command = [*TRAIN, *words.split()]
        outcomes.append(subprocess.Popen(command, env=variables(index, 2, port), stderr=subprocess.PIPE, text=True))
    codes, _, errors = ended(outcomes, 60)
    assert codes == [2, 2] and all("each must be given the same command" in text for text in errors)


def test_environments_that_the_devices_do_not_divide_are_one_line(monkeypatch):
    run = RunConfig.of("ppo", "CartPole-v1", env_backend="jax", distributed=True, num_envs=7)
    check_devices(run, 1)
    monkeypatch.setattr(jax, "devices", lambda: 2 * jax.local_devices())
    with pytest.raises(BadInput, match="the 2 devices of the run's 1 processes do not divide num_envs 7"):
        check_devices(run, 1)


def test_processes_that_nothing_says_who_they_are_are_one_line(monkeypatch, capfd):
    """Through the parent, whose child says it."""
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    handlers = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        assert train_command(["--env-backend", "jax", "--distributed"]) == 2
    finally:
        for kind, handler in handlers.items():
            signal.signal(kind, handler)
    errors = capfd.readouterr().err
    assert "set JAX_COORDINATOR_ADDRESS to HOST:PORT" in errors and errors.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"env_backend": "gymnasium"}, "distributed is for environments on the device"),
        ({"num_devices": 2}, "num_devices is 2, but distributed takes all devices"),
        ({}, "distributed must begin before JAX is used in this process"),
    ],
)
def test_what_cannot_be_shared_is_one_line(settings, words, monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    jax.devices()
    with pytest.raises(BadInput, match=words):
        train(RunConfig.of("ppo", "CartPole-v1", **{"env_backend": "jax", "distributed": True} | settings))


def test_several_runs_are_not_shared():
    run = RunConfig.of("ppo", "CartPole-v1", env_backend="jax", distributed=True, num_seeds=2)
    with pytest.raises(BadInput, match="distributed shares one run"):
        train_many(run)


def test_a_parent_is_for_distributed_runs():
    assert needs_parent(["--env", "X", "--distributed"]) and needs_parent(["--distributed=true"])
    assert not needs_parent(["--env", "X"])

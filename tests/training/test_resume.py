"""A run that was stopped, killed or robbed of its last checkpoint goes on as if nothing had happened."""

import dataclasses
import errno
import functools
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gymnasium as gym
import jax
import numpy as np
import pytest
from left_behind import tables
from settings import run_config
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboardX.record_writer import RecordWriter

from jaxrl import BadInput, DDPGConfig, EnvironmentLost, PPOConfig, RunConfig, make_envs, train
from jaxrl.cli.main import train_command
from jaxrl.data.normalize import normalize_rollout
from jaxrl.data.transition import Transition
from jaxrl.envs.vector import Envs
from jaxrl.errors import NotSaved
from jaxrl.runs.record import load_run
from jaxrl.storage.files import load_arrays, save_tree
from jaxrl.training import evaluator
from jaxrl.training.train import train_in

DDPG = run_config(
    env="Pendulum-v1", agent=DDPGConfig(hidden_sizes=(16, 12)), total_steps=900, learning_starts=150, buffer_size=400,
    batch_size=16, eval_every=300, eval_episodes=2, checkpoint_every=220, log_every=90,
)  # fmt: skip
PPO = run_config(
    env="CartPole-v1", agent=PPOConfig(hidden_sizes=(8, 8), num_minibatches=2, num_epochs=2), total_steps=2000,
    num_envs=4, num_steps=32, eval_every=500, eval_episodes=4, checkpoint_every=500, log_every=300,
)  # fmt: skip
RUNS = {
    "ddpg": DDPG,
    "ddpg, two Hoppers, two updates": DDPG.with_settings(env="Hopper-v5", num_envs=2, updates_per_step=2),
    "ddpg, noise that lasts": DDPG.with_settings(num_envs=2, noise_correlation=0.8),
    "ppo": PPO,
    "ppo, normalised HalfCheetah": PPO.with_settings(
        env="HalfCheetah-v5", num_envs=2, normalize_obs=True, normalize_reward=True
    ),
    "ppo, in processes": dataclasses.replace(PPO, env="Pendulum-v1", num_envs=2, env_backend="async", total_steps=800),
}


class PowerCut(Exception):
    """Nothing of ours handles it, as nothing could handle the real one."""


def digest(run):
    """SHA-256 over all that a run's last checkpoint brings back, buffer, generators and environments included."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(run.run_dir, folder, dirs_exist_ok=True)
        return _digest_of(load_run(folder))  # It is over already: it does not move.


def _digest_of(run):
    envs = make_envs(run.env, run.num_envs, run.seed, run.env_backend)
    try:
        [session] = train_in([run], [envs])
        training = session.training
        found = hashlib.sha256()
        for leaf in jax.tree.leaves((training.state, training.normalizer, training.replay)):
            if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                leaf = jax.random.key_data(leaf)  # noqa: PLW2901
            found.update(np.asarray(leaf).tobytes())
        found.update(repr((training.rng.bit_generator.state, training.step, envs.state())).encode())
        found.update(b"" if training.noise is None else training.noise.tobytes())
    finally:
        envs.close()
    return found.hexdigest()


def copied(run, folder):
    shutil.copytree(run.run_dir, folder)
    return dataclasses.replace(run, run_dir=str(folder))


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_cut_off_ends_as_one_that_is_not(tmp_path, name):
    whole, cut = (dataclasses.replace(RUNS[name], run_dir=str(tmp_path / which)) for which in ("whole", "cut"))
    train(whole)

    def fail(snapshot):
        if snapshot.step >= 0.7 * cut.total_steps:
            raise PowerCut

    with pytest.raises(PowerCut):
        train(cut, fail)
    train(load_run(cut.run_dir))
    assert tables(cut.run_dir) == tables(whole.run_dir)
    assert digest(cut) == digest(whole)


def test_a_run_that_is_asked_to_stop_ends_as_one_that_is_not(tmp_path):
    """Stopped at a step where no checkpoint, evaluation or row of metrics was due."""
    for run in (DDPG, PPO):
        name = type(run.agent).__name__
        whole, cut = (dataclasses.replace(run, run_dir=str(tmp_path / name / which)) for which in ("whole", "cut"))
        train(whole)

        def stop(snapshot, at=run.total_steps * 0.6):
            if snapshot.step >= at:
                os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            train(cut, stop)
        train(load_run(cut.run_dir))
        assert digest(cut) == digest(whole)
        assert tables(cut.run_dir) == tables(whole.run_dir)


@pytest.mark.parametrize(
    ("at", "name"),
    [
        pytest.param(at, name, id=f"row {at}-{name}", marks=[pytest.mark.slow] * (at != 17 and name != "ppo"))
        for at in (1, 17, 32)
        for name in RUNS
        if name.startswith("ppo")
    ],
)
def test_a_stop_in_the_middle_of_a_rollout_waits_for_no_more_than_a_step(tmp_path, monkeypatch, name, at):
    whole, cut = (dataclasses.replace(RUNS[name], run_dir=str(tmp_path / which)) for which in ("whole", "cut"))
    train(whole)
    step, calls = Envs.step, []

    def made(*given, **options):
        trained_in = make_envs(*given, **options)
        monkeypatch.setattr(trained_in, "step", functools.partial(counted, trained_in))
        return trained_in

    def counted(envs, action):
        calls.append(action)
        if len(calls) == 3 * 32 + at:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(envs, action)

    monkeypatch.setattr("jaxrl.training.train.make_envs", made)
    with pytest.raises(SystemExit):
        train(cut)
    monkeypatch.undo()
    _, notes = load_arrays(tmp_path / "cut" / "checkpoints" / "latest.npz", ())
    assert notes["rows"] == at and len(calls) == 3 * 32 + at
    train(load_run(cut.run_dir))
    assert digest(cut) == digest(whole)
    assert tables(cut.run_dir) == tables(whole.run_dir)


def test_where_episodes_begin_anew_in_a_rollout_the_old_ones_end(tmp_path, monkeypatch):
    """What was collected counts, but advantages and returns must not run on into other episodes."""
    seen = []

    class Stopping(gym.Wrapper):
        def step(self, action):
            seen.append(action)
            if len(seen) == 4 * 32 + 40:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().step(action)

    def make():
        return Stopping(gym.make("Pendulum-v1", max_episode_steps=10**6))

    def recorded(normalizer, rollout, gamma):
        rollouts.append(Transition(*(None if column is None else column.copy() for column in rollout)))
        return normalize_rollout(normalizer, rollout, gamma)

    rollouts = []
    run = dataclasses.replace(PPO, env=make, eval_env="Pendulum-v1", total_steps=256, run_dir=str(tmp_path / "run"))
    with pytest.raises(SystemExit):
        train(run)
    monkeypatch.setattr("jaxrl.training.on_policy.normalize_rollout", recorded)
    train(dataclasses.replace(run, run_dir=None, resume=run.run_dir))
    [first] = rollouts
    assert first.truncated[:9].sum() == 0 and first.truncated[9].all() and first.truncated[10:].sum() == 0
    assert (first.next_obs[:9] == first.obs[1:10]).all() and (first.next_obs[10:-1] == first.obs[11:]).all()
    assert (first.next_obs[9] != first.obs[10]).any()


def test_the_oracle_sees_a_difference(tmp_path):
    """The negative control: with another seed, and without the state of the environments, the digests differ."""
    first, other = (dataclasses.replace(PPO, run_dir=str(tmp_path / str(seed)), seed=seed) for seed in (0, 1))
    train(first)
    train(other)
    assert digest(first) != digest(other)
    cut = dataclasses.replace(PPO, run_dir=str(tmp_path / "cut"))

    with pytest.raises(PowerCut):
        train(cut, lambda snapshot: (_ for _ in ()).throw(PowerCut) if snapshot.step > 1200 else None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Envs, "set_state", lambda envs, state: None)
        train(load_run(cut.run_dir))
    assert digest(cut) != digest(first)


@pytest.mark.parametrize(
    "env", ["Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Ant-v5", "Humanoid-v5", "Pusher-v5"]
)
@pytest.mark.parametrize("made", ["by its id", "by a function"])
def test_the_state_of_an_environment_is_all_there_is_to_it(env, made):
    make = env if made == "by its id" else lambda: gym.make(env)
    ours, theirs = (make_envs(make, 2, seed) for seed in (0, 1))
    space, rng = ours.action_space, np.random.default_rng(0)

    def step(*all_envs):
        shape = (2, *space.shape)
        if isinstance(space, gym.spaces.Discrete):
            action = rng.integers(0, space.n, shape)
        else:
            action = rng.uniform(space.low, space.high, shape).astype(np.float32)
        return [envs.step(action) for envs in all_envs]

    for _ in range(23):
        step(ours)
    theirs.set_state(json.loads(json.dumps(ours.state())))
    for _ in range(230):  # Beyond an episode's end, and so into the generator's next draws.
        for a, b in zip(*(row[:6] for row in step(ours, theirs)), strict=True):
            np.testing.assert_array_equal(a, b)
        assert ours.finished == theirs.finished


def test_what_nobody_knows_the_state_of_begins_anew_and_says_so(tmp_path, capsys):
    def wrapped(env):
        return gym.wrappers.TimeLimit(type("Mine", (type(env.unwrapped),), {})(), 50)

    run = dataclasses.replace(DDPG, run_dir=str(tmp_path / "run"), wrapper=(wrapped,), total_steps=300)
    train(run)
    train(dataclasses.replace(run, run_dir=None, resume=str(tmp_path / "run"), total_steps=400))
    assert "episodes begin anew, the state of these environments is not known" in capsys.readouterr().out


@pytest.mark.parametrize(("run", "parts"), [(DDPG, "replay-*"), (PPO, "*.npz")], ids=["ddpg", "ppo"])
def test_a_damaged_checkpoint_is_found_out_and_the_one_before_taken(tmp_path, run, parts, capsys):
    run = dataclasses.replace(run, run_dir=str(tmp_path / "run"))
    train(run)
    expected, rng = digest(run), random.Random(0)
    newest = (tmp_path / "run" / "checkpoints" / "latest.npz").read_bytes()
    arrays, _ = load_arrays(tmp_path / "run" / "checkpoints" / "latest.npz")
    for kind in ["flip"] * 500 + ["truncate"] * 100:
        damaged = bytearray(newest)
        if kind == "flip":
            bit = rng.randrange(len(damaged) * 8)
            damaged[bit // 8] ^= 1 << bit % 8
        else:
            del damaged[rng.randrange(len(damaged)) :]
        path = tmp_path / "damaged.npz"
        path.write_bytes(damaged)
        with pytest.raises(BadInput, match="damaged"):
            load_arrays(path)
    assert arrays
    [*_, newest_part] = sorted((tmp_path / "run" / "checkpoints").glob(parts))
    for path in {tmp_path / "run" / "checkpoints" / "latest.npz", newest_part}:
        again = copied(run, tmp_path / f"again-{path.stem}")
        (Path(again.run_dir) / "checkpoints" / path.name).write_bytes(damaged)
        capsys.readouterr()
        train(load_run(again.run_dir))
        assert ("going back to the checkpoint before it" in capsys.readouterr().out) == (path.stem != "previous")
        assert digest(again) == expected


def test_where_nothing_is_whole_the_run_is_refused(tmp_path, capsys):
    run = dataclasses.replace(PPO, run_dir=str(tmp_path / "run"))
    train(run)
    for name in ("latest", "previous"):
        (tmp_path / "run" / "checkpoints" / f"{name}.npz").write_bytes(b"rubbish")
    assert train_command(["--resume", run.run_dir]) == 2
    assert "damaged" in capsys.readouterr().err
    for name in ("latest", "previous"):
        path = tmp_path / "run" / "checkpoints" / f"{name}.npz"
        path.unlink()
        path.symlink_to("/dev/zero")
    assert train_command(["--resume", run.run_dir]) == 2
    assert "is a link" in capsys.readouterr().err


@pytest.mark.parametrize("run", [DDPG, PPO], ids=["ddpg", "ppo"])
@pytest.mark.parametrize("moment", range(4))
def test_a_full_disk_costs_one_line_and_no_checkpoint(tmp_path, monkeypatch, run, moment):
    """The disk fills up at one of the moments of a save."""
    run, calls = dataclasses.replace(run, run_dir=str(tmp_path / "run")), []
    fsync = os.fsync

    def full(file):
        if (tmp_path / "run" / "checkpoints" / "latest.npz").is_file():
            calls.append(file)
            if len(calls) > moment:
                raise OSError(errno.ENOSPC, "No space left on device")
        fsync(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises((NotSaved, OSError), match="No space left"):
        train(run)
    monkeypatch.undo()
    whole = dataclasses.replace(run, run_dir=str(tmp_path / "whole"))
    train(whole)
    train(load_run(run.run_dir))
    assert digest(run) == digest(whole)
    assert not [path for path in (tmp_path / "run").rglob("*") if path.name.endswith(".tmp") or path.name == "next.npz"]


FLAGS = {
    "ddpg": "--algo ddpg --env Pendulum-v1 --hidden-sizes 16 12 --total-steps 2000 --learning-starts 300 "
    "--batch-size 16 --buffer-size 900 --eval-every 1000 --eval-episodes 2 --checkpoint-every 150 --log-every 90",
    "ppo": "--algo ppo --env CartPole-v1 --hidden-sizes 8 8 --num-minibatches 2 --num-epochs 2 --num-steps 32 "
    "--num-envs 4 --total-steps 20000 --eval-every 5000 --eval-episodes 4 --checkpoint-every 1000 --log-every 500",
}


@pytest.mark.parametrize("algo", FLAGS)
def test_kill_9_at_any_moment(tmp_path, algo):
    """A small sample of what experiments/benchmarks/soak.py does two hundred times."""
    command = [sys.executable, "-m", "jaxrl.cli.main", "train", *FLAGS[algo].split(), "--run-dir"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    began = time.monotonic()
    subprocess.run([*command, str(tmp_path / "whole")], env=environment, check=True, stdout=subprocess.DEVNULL)
    took = time.monotonic() - began
    expected = digest(RunConfig(run_dir=str(tmp_path / "whole")))
    rng = random.Random(0)
    folder = tmp_path / "killed"
    process = subprocess.Popen([*command, str(folder)], env=environment, stdout=subprocess.DEVNULL)
    for _ in range(2):
        time.sleep(rng.uniform(0.3, 0.9) * took)
        process.kill()
        process.wait()
        again = [sys.executable, "-m", "jaxrl.cli.main", "train", "--resume", str(folder)]
        if not (folder / "checkpoints" / "latest.npz").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            again = [*command, str(folder)]
        process = subprocess.Popen(again, env=environment, stdout=subprocess.DEVNULL)
    assert process.wait() == 0
    assert digest(RunConfig(run_dir=str(folder))) == expected
    assert tables(folder) == tables(tmp_path / "whole")
    assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp") or path.name == "next.npz"]


@pytest.mark.slow
@pytest.mark.parametrize("flags", ["--algo ddpg --env Pendulum-v1", "--algo ppo --env HalfCheetah-v5 --num-envs 4"])
def test_the_same_seed_in_two_fresh_processes_gives_the_same_bytes(tmp_path, flags):
    digests = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        command = [sys.executable, "-m", "jaxrl.cli.main", "train", *flags.split(), "--total-steps", "10000"]
        given = ["--eval-every", "5000", "--eval-episodes", "2", "--seed", str(seed), "--run-dir", str(tmp_path / name)]
        subprocess.run([*command, *given], check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[2])
        digests.append(digest(RunConfig(run_dir=str(tmp_path / name))))
    assert digests[0] == digests[1] != digests[2]
    assert tables(tmp_path / "a") == tables(tmp_path / "b") != tables(tmp_path / "c")


# --- what a review found ----------------------------------------------------------------------------------------------

KILLED = """
import dataclasses, os, signal, sys
sys.path[:0] = {tests!r}
from test_resume import RUNS, load_run, train
run = load_run({folder!r}) if {resumes} else RUNS[{name!r}].with_settings(run_dir={folder!r}, **{changes!r})
train(run, lambda snapshot: os.kill(os.getpid(), signal.SIGKILL) if snapshot.step > {step} else None)
"""


def killed(folder, name, step, resumes=False, **changes):
    """Runs in another process, that is killed in the callback after `step`: nothing is flushed or closed."""
    about = {"folder": str(folder), "name": name, "step": step, "resumes": resumes, "changes": changes}
    script = KILLED.format(tests=[str(Path(__file__).parent), str(Path(__file__).parents[1])], **about)
    run = subprocess.run([sys.executable, "-c", script], stdout=subprocess.DEVNULL, check=False)
    assert run.returncode == -signal.SIGKILL


def scalars(folder):
    """What TensorBoard shows, but for speeds."""
    board = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = [tag for tag in board.Tags()["scalars"] if not tag.startswith("time/")]
    return {tag: [(event.step, event.value) for event in board.Scalars(tag)] for tag in tags}


@pytest.mark.parametrize("name", ["ddpg", "ppo"])
def test_tables_and_board_go_on_after_kill_9(tmp_path, name):
    """Also where rows of metrics, which flush the tables, are rarer than checkpoints."""
    changes = {"log_every": 640, "checkpoint_every": 160}
    whole = RUNS[name].with_settings(run_dir=str(tmp_path / "whole"), **changes)
    train(whole)
    killed(tmp_path / "cut", name, 0.5 * whole.total_steps, **changes)
    killed(tmp_path / "cut", name, 0.75 * whole.total_steps, resumes=True)
    train(load_run(tmp_path / "cut"))
    assert tables(tmp_path / "cut") == tables(tmp_path / "whole")
    assert scalars(tmp_path / "cut") == scalars(tmp_path / "whole")


def test_an_evaluation_that_is_interrupted_and_done_and_lost_is_one_row(tmp_path):
    cut, whole = (dataclasses.replace(DDPG, run_dir=str(tmp_path / which)) for which in ("cut", "whole"))
    train(whole)
    evaluate = evaluator.evaluate

    def interrupted(*given):
        if len(evaluations) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        evaluations.append(given)
        return evaluate(*given)

    evaluations = []
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(evaluator, "evaluate", interrupted)
        train(cut)
    killed(tmp_path / "cut", "ddpg", 350, resumes=True)
    train(load_run(tmp_path / "cut"))
    assert tables(tmp_path / "cut") == tables(tmp_path / "whole")


def test_metrics_of_a_run_that_ends_early_are_one_row(tmp_path):
    run = dataclasses.replace(DDPG, run_dir=str(tmp_path / "run"), log_every=300)
    train(run, lambda snapshot: snapshot.step < 460)
    before = tables(tmp_path / "run")["metrics"]
    train(dataclasses.replace(load_run(tmp_path / "run"), total_steps=400))
    assert tables(tmp_path / "run")["metrics"] == before


def test_a_folder_takes_one_process_at_a_time(tmp_path, capfd):
    run = dataclasses.replace(PPO, run_dir=str(tmp_path / "run"), checkpoint_every=200)
    refusals = []

    def again(snapshot):
        if snapshot.step > 700 and not refusals:
            before = {path: path.read_bytes() for path in (tmp_path / "run" / "checkpoints").iterdir()}
            refusals.append(train_command(["--resume", run.run_dir]))
            assert {path: path.read_bytes() for path in (tmp_path / "run" / "checkpoints").iterdir()} == before

    train(run, again)
    assert refusals == [2]
    assert "is in use" in capfd.readouterr().err


def test_a_resume_keeps_what_the_checkpoint_before_needs(tmp_path):
    """The one before is fallen back to even after a resume, and where a part of the buffer is missing."""
    whole, cut = (dataclasses.replace(DDPG, run_dir=str(tmp_path / which)) for which in ("whole", "cut"))
    train(whole)
    killed(tmp_path / "cut", "ddpg", 700)
    killed(tmp_path / "cut", "ddpg", 680, resumes=True)
    [*_, newest] = sorted((tmp_path / "cut" / "checkpoints").glob("replay-*"))
    newest.unlink()
    train(load_run(tmp_path / "cut"))
    assert digest(cut) == digest(whole)


def test_a_resume_that_is_refused_changes_nothing(tmp_path, monkeypatch):
    run = dataclasses.replace(PPO, run_dir=str(tmp_path / "run"), env="Pendulum-v1", env_backend="async", num_envs=2)
    train(run, lambda snapshot: snapshot.step < 500)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    for what in (ValueError("another"), EnvironmentLost("gone")):
        with monkeypatch.context() as patch, pytest.raises((BadInput, EnvironmentLost), match=str(what)):
            patch.setattr(Envs, "set_state", lambda *_, what=what: (_ for _ in ()).throw(what))
            train(load_run(run.run_dir))
        assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_all_processes_of_a_run_leaves_its_environments_to_it(tmp_path, kind):
    """A closed terminal, `timeout` and job schedulers signal like this."""
    flags = "--env Pendulum-v1 --env-backend async --num-envs 2 --num-steps 64 --num-minibatches 2 --eval-episodes 1"
    command = [sys.executable, "-m", "jaxrl.cli.main", "train", *flags.split(), "--run-dir", str(tmp_path / "run")]
    process = subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    while not (tmp_path / "run" / "metrics.csv").is_file() or len(tables(tmp_path / "run")["metrics"]) < 2:
        time.sleep(0.05)
        assert process.poll() is None
    os.killpg(process.pid, kind)
    _, complaint = process.communicate(timeout=60)
    assert (process.returncode, complaint) == (128 + kind, "")
    assert load_arrays(tmp_path / "run" / "checkpoints" / "latest.npz", ())[1]["envs"] is not None
    assert (tmp_path / "run" / "policy" / "latest").is_dir()


def test_a_disk_that_is_full_for_the_board_costs_one_line(tmp_path, monkeypatch, capfd):
    write, calls = RecordWriter.write, []

    def full(writer, event):
        calls.append(event)
        if len(calls) > 30:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(writer, event)

    monkeypatch.setattr(RecordWriter, "write", full)
    assert train_command([*FLAGS["ppo"].split(), "--run-dir", str(tmp_path / "run")]) == 1
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "No space left" in err


FORGED = {
    "rows": 999, "step": "x", "marks": ["a", "b"], "evaluations": [["x"] * 7], "pending": [[1.0], "x"],
    "segments": [["x"]], "log": {"rows": [], "unlogged": []}, "wall_time": "x", "rng": {"bit_generator": "PCG64"},
    "envs": {"envs": [], "obs": [[0.0]]},
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_notes_that_cannot_be_are_refused(tmp_path, capfd, name):
    run = dataclasses.replace(PPO, run_dir=str(tmp_path / "run"), total_steps=300)
    train(run)
    path = tmp_path / "run" / "checkpoints" / "latest.npz"
    arrays, notes = load_arrays(path)
    save_tree(path, arrays, notes | {name: FORGED[name]})
    capfd.readouterr()
    assert train_command(["--resume", run.run_dir]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1, err

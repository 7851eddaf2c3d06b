"""Whole runs: the folder they leave, determinism, resuming, stopping, callbacks, and what users pass in."""

import csv
import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import jax
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from scripted import EPISODES, Endless, Scripted
from settings import run_config
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from jaxrl import BadInput, PPOConfig, load_policy, make_envs, train
from jaxrl.runs.config import default_run
from jaxrl.runs.record import load_run, run_from_json, run_to_json
from jaxrl.runs.streams import EVALUATION, stream
from jaxrl.training.evaluate import evaluate, make_eval_envs

ROOT = Path(__file__).parents[2]
TINY = run_config(
    env="Pendulum-v1",
    agent=PPOConfig(num_epochs=2, num_minibatches=2, hidden_sizes=(8,)),
    total_steps=640,
    num_envs=2,
    num_steps=32,
    eval_every=256,
    eval_episodes=3,
    checkpoint_every=128,
    log_every=64,
    normalize_obs=True,
    normalize_reward=True,
)


def tiny(tmp_path, name="run", **changes):
    return TINY.with_settings(run_dir=str(tmp_path / name), **changes)


def rows(path, *columns):
    with Path(path).open() as file:
        return [tuple(row[column] for column in columns or row) for row in csv.DictReader(file)]


def parameters(state):
    return b"".join(
        np.asarray(x).tobytes()
        for x in jax.tree.leaves((state.actor.params, state.critic.params, state.actor.opt_state))
    )


def test_the_folder_a_run_leaves(tmp_path):
    result = train(tiny(tmp_path))
    folder = tmp_path / "run"
    assert result.run_dir == folder
    assert result.step == 640 == result.state.num_updates * 64
    about = json.loads((folder / "config.json").read_text())
    assert about["run"]["total_steps"] == 640
    assert {"jax", "gymnasium", "numpy"} <= set(about["versions"])
    assert about["machine"]["processor"] and about["machine"]["cores"] and about["device"] == "cpu:0"
    assert run_from_json(about["run"]) == tiny(tmp_path)
    assert [int(step) for (step,) in rows(folder / "evaluations.csv", "step")] == [0, 256, 512, 640]
    assert (
        (folder / "evaluations.csv")
        .read_text()
        .startswith("step,mean_return,std_return,min_return,max_return,episodes,wall_time\n")
    )
    episodes = rows(folder / "episodes.csv", "step", "episode_return", "episode_length")
    assert [(step, length) for step, _, length in episodes] == [(str(s), "200") for s in (400, 400)]
    metrics = rows(folder / "metrics.csv")
    assert len(metrics) == 10
    assert np.isfinite(np.array(metrics, float)).all()
    board = EventAccumulator(str(folder))
    board.Reload()
    assert [e.step for e in board.Scalars("evaluation/mean_return")] == [0, 256, 512, 640]
    assert {"update/kl", "update/value_loss", "rollout/episode_return", "time/steps_per_second"} <= set(
        board.Tags()["scalars"]
    )
    assert not [path for path in folder.rglob("*.tmp")]


def test_a_saved_policy_reproduces_its_recorded_evaluation(tmp_path):
    result = train(tiny(tmp_path))
    for name in ("best", "latest"):
        policy = load_policy(tmp_path / "run" / "policy" / name)
        step, recorded = policy.notes["step"], policy.notes["evaluation"]
        envs = make_eval_envs("Pendulum-v1", 3)
        assert (recorded["env"], recorded["num_envs"]) == ("Pendulum-v1", envs.num_envs)
        assert recorded["seeds"] == envs.seeds(stream(0, EVALUATION, step))
        returns, _ = evaluate(policy, envs, 3, recorded["seeds"])
        assert (returns.mean(), returns.std()) == (recorded["mean_return"], recorded["std_return"])
        plain = []  # Without anything of ours but the policy.
        for seed in recorded["seeds"]:
            env, total = gym.make("Pendulum-v1"), 0.0
            obs, over = env.reset(seed=seed)[0], False
            while not over:
                obs, reward, *ends, _ = env.step(policy(obs[None])[0])
                total, over = total + reward, any(ends)
            plain.append(total)
        np.testing.assert_allclose(plain, returns, rtol=1e-5)
    best = max(each.mean_return for each in result.evaluations)
    assert load_policy(tmp_path / "run").notes["evaluation"]["mean_return"] == best


def test_two_fresh_processes_give_equal_bytes(tmp_path):
    code = (
        "import sys, hashlib, dataclasses; sys.path[:0] = {tests!r}\n"
        "from test_run import TINY, parameters; from jaxrl import train\n"
        "result = train(dataclasses.replace(TINY, run_dir={folder!r}, seed={seed}))\n"
        "print('DIGEST', hashlib.sha256(parameters(result.state)).hexdigest())"
    )
    digests = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        script = code.format(
            tests=[str(ROOT / "tests"), str(ROOT / "tests/training")], folder=str(tmp_path / name), seed=seed
        )
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        digests.append(run.stdout.split("DIGEST")[1])
    assert digests[0] == digests[1] != digests[2]
    for table in ("episodes", "evaluations", "metrics"):
        a, b, c = ([row[:-1] for row in rows(tmp_path / name / f"{table}.csv")] for name in "abc")
        assert a == b != c


def test_resume_continues_and_no_row_is_lost_or_doubled(tmp_path):
    whole = train(tiny(tmp_path, "whole"))
    part = train(tiny(tmp_path, "part"), callback=lambda snapshot: snapshot.step < 320)
    assert part.step == 320
    resumed = train(load_run(tmp_path / "part"))
    assert resumed.step == 640
    assert resumed.state.num_updates == 10
    for table in ("evaluations", "metrics"):
        steps = [row[0] for row in rows(tmp_path / "part" / f"{table}.csv")]
        expected = [row[0] for row in rows(tmp_path / "whole" / f"{table}.csv")]
        assert sorted(set(steps) | set(expected), key=int) == steps, (
            "every row of the whole run, and at most the stop's"
        )
        assert len(steps) == len(set(steps))
    assert [e.step for e in whole.evaluations] == [0, 256, 512, 640]
    assert resumed.evaluations[-1].step == 640


def test_resume_restores_everything_that_the_checkpoint_holds(tmp_path):
    part = train(tiny(tmp_path), callback=lambda snapshot: snapshot.step < 320)
    saved = np.load(tmp_path / "run" / "checkpoints" / "latest.npz")
    seen = []
    frozen = dataclasses.replace(load_run(tmp_path / "run"), total_steps=321)
    resumed = train(frozen, callback=seen.append)
    assert resumed.normalizer.obs.seen == part.normalizer.obs.seen + 64 == 384
    assert resumed.state.actor.step == part.state.actor.step + 4 == 24
    moments = [x for x in jax.tree.leaves(part.state.actor.opt_state) if x.ndim == 1]
    assert any(np.abs(x).max() > 0 for x in moments)
    for name, array in saved.items():  # The file holds the state that the run ended with, bit for bit.
        if name.startswith("state.actor.params"):
            node = part.state.actor.params
            for key in name.split(".")[3:]:
                node = node[key]
            np.testing.assert_array_equal(array, node)
    notes = json.loads(bytes(saved["notes"]))
    assert notes["rng"]["bit_generator"] == "PCG64"

    # And restoring takes all of it back: look at a run that has just begun.
    from jaxrl.algos.ppo import METRICS, ppo_init
    from jaxrl.data.normalize import normalizer_init
    from jaxrl.runs.checks import check_settings
    from jaxrl.runs.stack import Stack
    from jaxrl.runs.state import Training
    from jaxrl.training.group import RunGroup

    again = train(tiny(tmp_path, "other"), callback=lambda snapshot: snapshot.step < 320)
    run = load_run(tmp_path / "other")
    check_settings(run)
    envs = make_envs(run.env, run.num_envs, 0)
    blank = ppo_init(jax.random.key(5), run.algorithm_config, envs.observation_space, envs.action_space)
    training = Training(Stack([blank]), normalizer_init(3, 2, True, True), np.random.default_rng(99), envs)
    with RunGroup([run], [training], METRICS) as group:
        group.begin()
    assert parameters(training.state) == parameters(again.state)
    assert training.normalizer.obs.seen == 320
    np.testing.assert_array_equal(training.normalizer.obs.mean, again.normalizer.obs.mean)
    np.testing.assert_array_equal(training.normalizer.returns.var, again.normalizer.returns.var)
    saved = json.loads(bytes(np.load(tmp_path / "other" / "checkpoints" / "latest.npz")["notes"]))
    assert training.rng.bit_generator.state == saved["rng"]
    np.testing.assert_array_equal(jax.random.key_data(training.state.key), jax.random.key_data(again.state.key))


def test_a_fine_tuned_and_an_extended_run_resume_too(tmp_path):
    train(tiny(tmp_path, "first", total_steps=64))
    train(tiny(tmp_path, "second", total_steps=128, init_from=str(tmp_path / "first")), lambda snapshot: False)
    assert train(load_run(tmp_path / "second")).step == 128
    longer = dataclasses.replace(load_run(tmp_path / "second"), total_steps=320)
    train(longer, lambda snapshot: np.False_)
    assert train(load_run(tmp_path / "second")).step == 320


def test_a_run_that_stopped_before_its_first_step_keeps_its_evaluation(tmp_path):
    train(tiny(tmp_path, stop_return=-1e9))
    train(dataclasses.replace(load_run(tmp_path / "run"), stop_return=None))
    assert [int(step) for (step,) in rows(tmp_path / "run" / "evaluations.csv", "step")] == [0, 256, 512, 640]


def test_settings_that_the_environment_refuses_leave_no_folder(tmp_path):
    for changes in ({"eval_env": "CartPole-v1"}, {"stop_return": float("nan")}, {"render": True, "env": Endless}):
        with pytest.raises(BadInput):
            train(tiny(tmp_path, "none", **changes))
        assert not (tmp_path / "none").exists()
    agent = TINY.agent.replace(gamma=np.float32(0.5))
    assert train(tiny(tmp_path, "odd", seed=np.int64(3), agent=agent, total_steps=64)).step == 64
    assert load_run(tmp_path / "odd").seed == 3


def test_an_evaluation_without_an_end_can_be_stopped(tmp_path):
    code = f"""
import itertools, os, signal, sys
sys.path[:0] = {[str(ROOT / "tests"), str(ROOT / "tests" / "training")]!r}
from scripted import Endless; from test_run import TINY, dataclasses; from jaxrl import train
steps = itertools.count()
class Interrupting(Endless):
    def step(self, action):
        if next(steps) == 1000:
            os.kill(os.getpid(), signal.SIGINT)
        return super().step(action)
train(dataclasses.replace(TINY, env=lambda: Interrupting(10**12), run_dir={str(tmp_path / "run")!r}))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "KeyboardInterrupt" in run.stderr
    assert (tmp_path / "run" / "checkpoints" / "latest.npz").is_file()


def test_a_longer_end_is_taken_and_a_folder_without_a_run_refused(tmp_path):
    train(tiny(tmp_path))
    longer = train(dataclasses.replace(load_run(tmp_path / "run"), total_steps=768))
    assert longer.step == 768
    with pytest.raises(BadInput, match="holds no run"):
        load_run(tmp_path / "nothing")


def test_init_from_starts_from_the_networks_and_the_normaliser(tmp_path):
    first = train(tiny(tmp_path, "first"))
    agent = TINY.agent.replace(actor_learning_rate=0.0, critic_learning_rate=0.0)
    second = train(tiny(tmp_path, "second", init_from=str(tmp_path / "first"), agent=agent, total_steps=64, seed=9))
    a, b = (jax.tree.leaves((r.state.actor.params, r.state.critic.params)) for r in (first, second))
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)
    assert second.normalizer.obs.seen == first.normalizer.obs.seen + 64
    with pytest.raises(BadInput, match="another kind"):
        train(
            tiny(
                tmp_path,
                "third",
                init_from=str(tmp_path / "first"),
                agent=PPOConfig(hidden_sizes=(8, 8), num_minibatches=2),
            )
        )
    assert not (tmp_path / "third").exists()


def test_a_callback_gets_copies_and_can_stop(tmp_path):
    seen = []

    def callback(snapshot):
        seen.append(snapshot)
        assert snapshot.state is snapshot.state
        if len(seen) == 4:
            copies.append(pickle.loads(pickle.dumps(snapshot)))
        elif len(seen) < 4:
            _ = snapshot.metrics
        return len(seen) < 5

    copies = []
    result = train(tiny(tmp_path), callback)
    assert [each.step for each in seen] == [64, 128, 192, 256, 320]
    assert result.step == 320
    values = [float(jax.tree.leaves(each.state.actor.params)[0].sum()) for each in seen]  # None was donated.
    assert len(set(values)) == 5
    assert set(seen[0].metrics) >= {"kl", "policy_loss", "skipped_updates"}
    assert seen[0].metrics != seen[1].metrics
    assert copies[0].step == 256 and parameters(copies[0].state) == parameters(seen[3].state)
    assert copies[0].metrics == seen[3].metrics and copies[0].normalizer.obs.seen == 256
    for name in ("metrics", "normalizer"):
        with pytest.raises(BadInput, match=f"snapshot.{name} was first read after the callback had returned"):
            getattr(seen[4], name)


def test_a_callback_that_reads_nothing_copies_and_fetches_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxrl.training.snapshot.jnp.copy", None)
    monkeypatch.setattr("jaxrl.training.snapshot.fetch", None)
    assert train(tiny(tmp_path, total_steps=128), lambda snapshot: snapshot.step < 10**6).step == 128
    with pytest.raises(TypeError):
        train(tiny(tmp_path, "other", total_steps=128), lambda snapshot: bool(snapshot.metrics))


def test_stop_return_ends_the_run(tmp_path):
    result = train(tiny(tmp_path, stop_return=-1e9))
    assert result.step == 0
    assert len(result.evaluations) == 1


def test_a_users_own_environment_and_vector_environment(tmp_path):
    own = train(tiny(tmp_path, "own", env=lambda: Endless(), total_steps=64))
    assert own.evaluations[-1].mean_return == 25
    vector = SyncVectorEnv([lambda: Endless()] * 2, autoreset_mode=AutoresetMode.DISABLED)
    theirs = train(tiny(tmp_path, "vector", env=vector, eval_env=lambda: Endless(), total_steps=64))
    assert theirs.evaluations[-1].mean_return == 25
    with pytest.raises(BadInput, match="eval_env"):
        train(tiny(tmp_path, "none", env=vector))


def test_step_counts_transitions_and_not_the_rows_spent_on_resetting(tmp_path):
    vector = SyncVectorEnv([lambda: Scripted(EPISODES)] * 2, autoreset_mode=AutoresetMode.NEXT_STEP)
    result = train(tiny(tmp_path, env=vector, eval_env=lambda: Scripted(EPISODES), total_steps=90, normalize_obs=False))
    finished = rows(tmp_path / "run" / "episodes.csv", "step", "episode_length")
    total = sum(int(length) for _, length in finished)
    assert result.step - 4 <= total <= result.step < result.state.num_updates * 64


def test_an_unnamed_run_takes_the_next_free_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = dataclasses.replace(TINY, total_steps=64)
    assert [str(train(run).run_dir) for _ in range(2)] == ["runs/ppo-Pendulum-v1-seed0", "runs/ppo-Pendulum-v1-seed0-2"]


def test_settings_survive_json():
    for algo in ("ppo", "ppo_kl"):
        for env in ("CartPole-v1", "HalfCheetah-v5", "Other-v0"):
            run = default_run(algo, env)
            assert run.algo == algo
            assert run_from_json(json.loads(json.dumps(run_to_json(run)))) == run


@pytest.mark.parametrize("kind, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_saves_and_exits_as_documented(tmp_path, kind, code):
    folder = tmp_path / "run"
    command = [sys.executable, "experiments/train.py", "--env", "Pendulum-v1", "--total-steps", "10000000"]
    process = subprocess.Popen(
        [*command, "--run-dir", str(folder)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (folder / "metrics.csv").is_file() or len(rows(folder / "metrics.csv")) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    asked = time.monotonic()
    process.send_signal(kind)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert time.monotonic() - asked < 10
    assert err == ""
    assert "--resume" in out
    saved = load_run(folder)
    step = json.loads(bytes(np.load(folder / "checkpoints" / "latest.npz")["notes"]))["step"]
    resumed = train(dataclasses.replace(saved, total_steps=step + 1))
    assert step < resumed.step <= step + 1024 and resumed.step % 1024 == 0
    assert sorted(os.listdir(folder / "checkpoints")) == ["latest.npz", "previous.npz"]

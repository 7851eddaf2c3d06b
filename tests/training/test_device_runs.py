"""Runs whose environments live on the device: the same record, and the same numbers, whatever a call holds."""

import csv
import dataclasses
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args, get_type_hints

import jax
import numpy as np
import pytest
from device_tasks import WITH_FAULTS, ScriptedOnDevice
from left_behind import tables

from jaxrl import (
    BadInput,
    PPOConfig,
    RunConfig,
    behaviour_policy,
    collect,
    load_policy,
    make_device_envs,
    ppo_init,
    ppo_update,
    train,
    train_many,
)
from jaxrl.cli.arguments import parse_run
from jaxrl.cli.main import evaluate_command, train_command
from jaxrl.data.normalize import normalizer_init
from jaxrl.data.normalize_on_device import normalize_rollout_on_device, normalizer_on_device
from jaxrl.envs.device_backends import DEVICE_BACKENDS
from jaxrl.runs.on_device import is_on_device
from jaxrl.runs.record import load_run
from jaxrl.runs.streams import ENVIRONMENTS, NETWORK, stream_key
from jaxrl.runs.sweep import load_study
from jaxrl.storage.files import load_arrays
from jaxrl.training import on_device

PPO = RunConfig.of(
    "ppo", "CartPole-v1", env_backend="jax", total_steps=16 * 8 * 20, num_envs=8, num_steps=16, hidden_sizes=(8,),
    num_epochs=1, num_minibatches=2, normalize_obs=True, normalize_reward=True, eval_every=1000, eval_episodes=3,
    checkpoint_every=700, log_every=300,
)  # fmt: skip
DDPG = RunConfig.of(
    "ddpg", "Pendulum-v1", env_backend="jax", total_steps=300, num_envs=2, hidden_sizes=(8, 8), learning_starts=100,
    batch_size=8, buffer_size=200, updates_per_step=2, eval_every=150, eval_episodes=2, checkpoint_every=90,
    log_every=50,
)  # fmt: skip
RUNS = {"ppo": PPO, "ddpg": DDPG}


def last(folder):
    """What the last checkpoint holds, its buffer too."""
    checkpoints = Path(folder) / "checkpoints"
    arrays, notes = load_arrays(checkpoints / "latest.npz")
    for first, end, _ in notes["segments"]:
        part, _ = load_arrays(checkpoints / f"replay-{first:012d}-{end:012d}.npz")
        arrays |= {f"replay-{first}.{name}": array for name, array in part.items()}
    return arrays


def digest(folder):
    """SHA-256 over everything that a checkpoint brings back, but for where its buffer's parts begin and end."""
    found, arrays = hashlib.sha256(), last(folder)
    for name in sorted(name for name in arrays if not name.startswith("replay-")):
        found.update(name.encode() + arrays[name].tobytes())
    parts = sorted({int(name.partition(".")[0][7:]) for name in arrays if name.startswith("replay-")})
    for field in sorted({name.partition(".")[2] for name in arrays if name.startswith("replay-")}):
        rows = np.concatenate([arrays[f"replay-{first}.{field}"] for first in parts])[-DDPG.loop.buffer_size :]
        found.update(field.encode() + rows.tobytes())
    return found.hexdigest()


@pytest.fixture(scope="module", params=RUNS)
def whole(request, tmp_path_factory):
    """A run that was never stopped, its calls as long as they like."""
    run = dataclasses.replace(RUNS[request.param], run_dir=str(tmp_path_factory.mktemp("whole") / request.param))
    return train(run)


@pytest.fixture(scope="module")
def ppo(tmp_path_factory):
    return train(dataclasses.replace(PPO, run_dir=str(tmp_path_factory.mktemp("ppo") / "run")))


def test_a_run_that_is_stopped_and_resumed_ends_as_one_that_is_not_whatever_a_call_holds(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(on_device, "MAX_TRANSITIONS", 300)
    cut, steps = dataclasses.replace(whole.run, run_dir=str(tmp_path / "cut"), updates_per_call=3), [0]

    def stop(snapshot):
        steps.append(snapshot.step)
        if snapshot.step >= 0.6 * cut.total_steps:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        train(cut, stop)
    before = digest(cut.run_dir)
    train(dataclasses.replace(load_run(cut.run_dir), updates_per_call=None))
    if cut.algo == "ppo":  # Three of its updates are 384 transitions.
        assert max(np.diff(steps)) == 256
    assert before != digest(cut.run_dir) == digest(whole.run_dir)
    assert tables(cut.run_dir) == tables(whole.run_dir)
    assert len(tables(cut.run_dir)["metrics"]) > 3


def test_a_run_is_the_five_lines_of_a_loop_of_ones_own(ppo):
    """Collect, normalise, update, twenty times, each from outside: the numbers and the episodes of the run."""
    row, envs = PPO.row, make_device_envs("CartPole-v1", 8)
    state = row.init(stream_key(0, NETWORK), PPO.algorithm_config, envs.observation_space, envs.action_space)
    env_state = envs.reset(stream_key(0, ENVIRONMENTS))
    normalizer = normalizer_on_device(normalizer_init(4, 8, True, True))

    @jax.jit
    def once(state, env_state, normalizer):
        env_state, rollout = collect(envs, env_state, behaviour_policy("ppo", state, normalizer), 16)
        normalizer, seen = normalize_rollout_on_device(normalizer, rollout, state.config.gamma)
        state, metrics = row.update(state, seen)
        return state, env_state, normalizer, rollout, metrics

    running, episodes = np.zeros((8, 2)), []
    for update in range(20):
        state, env_state, normalizer, rollout, _ = once(state, env_state, normalizer)
        for t in range(16):
            running += np.stack([rollout.reward[t], np.ones(8)], 1)
            for i in np.flatnonzero(rollout.terminated[t] | rollout.truncated[t]):
                episodes.append([str((update * 16 + t + 1) * 8), repr(float(running[i, 0])), str(int(running[i, 1]))])
                running[i] = 0
    assert_close(ppo.state.actor.params, state.actor.params)
    assert_close(ppo.state.critic.params, state.critic.params)
    np.testing.assert_allclose(ppo.normalizer.obs.mean, normalizer.obs.mean, rtol=1e-5, atol=1e-6)
    assert tables(ppo.run_dir)["episodes"][1:] == episodes
    assert len(episodes) > 20 and ppo.step == 16 * 8 * 20


def assert_close(found, wanted, tolerance=1e-5):
    for one, other in zip(*(numbers(tree) for tree in (found, wanted)), strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def numbers(tree):
    leaves = jax.tree.leaves(tree)
    return [
        jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf for leaf in leaves
    ]


def test_what_a_run_leaves_can_be_evaluated_and_loaded(ppo, capsys):
    recorded = ppo.evaluations
    assert [each.step for each in recorded] == [0, 1024, 2048, 2560]
    assert evaluate_command([str(ppo.run_dir), "--recorded"]) == 0
    assert "the same" in capsys.readouterr().out
    assert evaluate_command([str(ppo.run_dir), "--episodes", "2", "--max-episode-steps", "3"]) == 0
    assert "2 of 2 episodes were cut at 3 steps" in capsys.readouterr().out
    assert evaluate_command([str(ppo.run_dir), "--episodes", "1", "--stochastic"]) == 0  # In Gymnasium's class.
    assert "CartPole-v1: mean return" in capsys.readouterr().out
    assert load_policy(ppo.run_dir)(np.zeros(4, np.float32)) in (0, 1)
    resumed = ["--resume", str(ppo.run_dir), "--updates-per-call"]
    assert [parse_run([*resumed, word]).updates_per_call for word in ("none", "7")] == [None, 7]


FAULTY = PPO.with_settings(env=ScriptedOnDevice(WITH_FAULTS), total_steps=500, eval_every=None)


def test_a_fault_ends_a_run_as_it_was_before(tmp_path):
    """Three of the task's seven scripts have a step that is not finite."""
    run = dataclasses.replace(FAULTY, run_dir=str(tmp_path / "run"))
    seen = []
    with pytest.raises(BadInput, match=r"something that is not finite, environment \d at step .* is saved"):
        train(run, lambda snapshot: seen.append(snapshot))
    saved = last(run.run_dir)
    assert saved["state.num_updates"] == len(seen) == 0 and not saved["env_state.num_faults"].any()
    assert tables(run.run_dir)["episodes"][1:] == []


@pytest.mark.slow
def test_a_seed_that_was_resumed_alone_waits_for_the_random_steps_of_the_others(float64, tmp_path):
    """It is past its own: it must neither act at random again, nor go on without learning."""
    study = dataclasses.replace(DDPG, eval_every=None, checkpoint_every=1000, run_dir=str(tmp_path / "study"))
    train_many(dataclasses.replace(study, num_seeds=2, total_steps=60))
    train(dataclasses.replace(load_run(tmp_path / "study" / "seed-0"), total_steps=140))
    train_many(dataclasses.replace(load_study(tmp_path / "study"), total_steps=200))
    alone = train(dataclasses.replace(study, total_steps=200, run_dir=str(tmp_path / "alone")))
    ends = [last(tmp_path / "study" / f"seed-{seed}") for seed in range(2)]
    assert [int(end["state.num_updates"]) for end in ends] == [100, 100]
    assert_close([ends[0]["env_state.obs"]], [last(alone.run_dir)["env_state.obs"]], 1e-6)


@pytest.mark.slow
def test_faults_are_counted_where_they_are_to_be_reset(tmp_path):
    run = dataclasses.replace(FAULTY, on_fault="reset", run_dir=str(tmp_path / "run"))
    result = train(run)
    with (tmp_path / "run" / "faults.csv").open() as file:
        faults = list(csv.DictReader(file))
    times = sum(int(row["fault"].split()[-2]) if row["fault"].endswith("times") else 1 for row in faults)
    assert times > 10 and result.step == int(result.state.num_updates) * 8 * 16 - times
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(result.state.actor.params)))


def test_seeds_are_one_program_and_each_ends_as_alone(float64, tmp_path):
    """In float64, over ten updates: in float32 an episode soon ends a step sooner or later."""
    run = PPO.with_settings(total_steps=16 * 8 * 10, eval_every=None, num_seeds=3, run_dir=str(tmp_path / "many"))
    results = train_many(run)
    alone = train(dataclasses.replace(run, num_seeds=1, seed=2, run_dir=str(tmp_path / "2")))
    assert_close(results[2].state, alone.state, 1e-8)
    assert tables(results[2].run_dir) == tables(alone.run_dir)
    assert not np.allclose(*(numbers(results[seed].state.actor.params)[1] for seed in (0, 2)))


def begun_alone(key):
    """Where a seed of a loop of one's own begins."""
    envs, (first, second) = make_device_envs("CartPole-v1", 8), jax.random.split(key)
    agent = PPOConfig(hidden_sizes=(8,), num_epochs=1, num_minibatches=2)
    return ppo_init(first, agent, envs.observation_space, envs.action_space), envs.reset(second)


def collected(state, env_state):
    return collect(make_device_envs("CartPole-v1", 8), env_state, behaviour_policy("ppo", state), 16)


def ten_updates(key):
    def update(carry, _):
        state, env_state = carry
        env_state, rollout = collected(state, env_state)
        state, _ = ppo_update(state, rollout)
        return (state, env_state), None

    return jax.lax.scan(update, begun_alone(key), length=10)[0]


def assert_each_is_as_alone(together, alone, tolerance):
    for seed, one in enumerate(alone):
        assert_close(jax.tree.map(lambda leaf, seed=seed: leaf[seed], together), one, tolerance)


def test_sixteen_seeds_by_vmap_are_sixteen_alone(float64):
    keys = jax.random.split(jax.random.key(0), 16)
    alone = [jax.jit(ten_updates)(key) for key in keys]
    assert_each_is_as_alone(jax.jit(jax.vmap(ten_updates))(keys), alone, 1e-8)
    assert int(alone[0][0].num_updates) == 10
    assert not np.allclose(*(numbers(state.actor.params)[1] for state, _ in alone[:2]), atol=1e-5)


def test_sixteen_updates_by_vmap_are_sixteen_alone_in_float32():
    """From the same rollouts: with rollouts of their own, an episode soon ends a step sooner or later."""
    states, env_states = jax.jit(jax.vmap(begun_alone))(jax.random.split(jax.random.key(0), 16))
    _, rollouts = jax.jit(jax.vmap(collected))(states, env_states)
    update = jax.jit(lambda state, rollout: ppo_update(state, rollout)[0])
    each = [jax.tree.map(lambda leaf, seed=seed: leaf[seed], (states, rollouts)) for seed in range(16)]
    assert_each_is_as_alone(jax.jit(jax.vmap(update))(states, rollouts), [update(*one) for one in each], 1e-5)


TRAIN = [sys.executable, "-m", "jaxrl.cli.main", "train"]


def ran(words, variables):
    return subprocess.run(words, env=os.environ | variables, capture_output=True, text=True, check=False)


DEVICES = """
import dataclasses, sys
import jax, numpy as np
from jaxrl import train
from test_device_runs import PPO, assert_close

def run(num_devices, num_updates):
    kept = []
    settings = {"total_steps": 8 * 16 * num_updates, "num_devices": num_devices, "updates_per_call": 2}
    settings |= {"checkpoint_every": 10**6, "eval_every": None, "run_dir": f"{sys.argv[1]}/{num_devices}"}
    result = train(PPO.with_settings(**settings), lambda snapshot: kept.append(snapshot.state.actor.params))
    return jax.device_get(kept[0]), result.state

(one, _), (eight, state) = run(1, 2), run(8, 100)
assert_close(eight, one)
for leaf in jax.tree.leaves((state.actor.params, state.critic.params, state.actor.opt_state)):
    first, *others = [np.asarray(shard.data) for shard in leaf.addressable_shards]
    assert len(others) == 7 and all(np.array_equal(first, other) for other in others)
assert int(state.num_updates) == 100
print("equal")
"""


@pytest.mark.slow
def test_eight_devices_do_as_one(tmp_path):
    """Two updates with equal numbers, to rounding; a hundred after which no device has others than its neighbour."""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    words = [sys.executable, "-c", DEVICES, str(tmp_path)]
    ended = ran(words, flags | {"PYTHONPATH": path})
    assert ended.stdout.splitlines()[-1:] == ["equal"], ended.stderr


@pytest.mark.slow
def test_a_run_goes_on_on_another_number_of_devices(tmp_path):
    flags = "--env CartPole-v1 --env-backend jax --num-envs 8 --num-steps 16 --num-minibatches 2 --eval-every none"
    many = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    for folder, devices in ((tmp_path / "moved", "4"), (tmp_path / "stayed", "1")):
        begin = f"{flags} --no-anneal-learning-rate --num-devices {devices} --total-steps 256 --run-dir {folder}"
        for words in (begin, f"--resume {folder} --num-devices 2 --total-steps 512"):
            ended = ran([*TRAIN, *words.split()], many)
            assert ended.returncode == 0, ended.stderr
    moved, stayed = (last(tmp_path / folder) for folder in ("moved", "stayed"))
    for name, array in moved.items():
        np.testing.assert_allclose(array, stayed[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_runs_that_are_killed_at_any_time_end_as_one_that_is_not(tmp_path):
    """By SIGKILL, twenty times."""
    flags = (
        "--algo ppo --env CartPole-v1 --env-backend jax --hidden-sizes 8 8 --num-envs 8 --num-steps 16 --num-epochs 1"
    )
    flags += " --num-minibatches 2 --normalize-obs --total-steps 60000 --eval-every 5000 --checkpoint-every 400"
    words = [sys.executable, "-m", "jaxrl.cli.main", "train"]

    def begun(*more):
        return subprocess.Popen([*words, *more], cwd=tmp_path, stdout=subprocess.DEVNULL)

    assert begun(*flags.split(), "--run-dir", "whole").wait() == 0
    rng = random.Random(0)
    for number in range(20):
        run = begun(*flags.split(), "--run-dir", str(number))
        while not (tmp_path / str(number) / "checkpoints" / "latest.npz").exists():
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 1.0))
        run.kill()
        run.wait()
        assert begun("--resume", str(number)).wait() == 0
        assert digest(tmp_path / str(number)) == digest(tmp_path / "whole"), number
        assert tables(tmp_path / str(number)) == tables(tmp_path / "whole"), number


def test_every_backend_is_one_that_a_run_can_name():
    assert set(DEVICE_BACKENDS) < set(get_args(get_type_hints(RunConfig)["env_backend"]))
    assert is_on_device(PPO) and not is_on_device(dataclasses.replace(PPO, env_backend="async"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--wrapper a:b", "wrapper wraps environments of Gymnasium's"),
        ("--render", "render cannot show environments with env_backend jax"),
        ("--eval-backend async", "evaluations run on the device"),
        ("--num-envs 6 --num-devices 4", "num_devices 4 does not divide num_envs 6"),
        ("--num-envs 64 --num-devices 64 --num-minibatches 1", "--xla_force_host_platform_device_count=64"),
        ("--env CartPol-v1", "did you mean CartPole-v1"),
        ("--updates-per-call 0", "updates_per_call is 0"),
        ("--env-backend gymnasium --num-devices 2", "num_devices is for environments on the device"),
        ("--env-backend gymnasium --updates-per-call 2", "updates_per_call is for environments on the device"),
        ("--eval-env Acrobot-v1", "they must be those of env"),
        ("--algo ddpg", "action space Discrete is not supported"),
    ],
)
def test_what_cannot_be_on_the_device_is_one_line(flags, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train_command(["--env", "CartPole-v1", "--env-backend", "jax", "--num-envs", "8", *flags.split()]) == 2
    errors = capsys.readouterr().err
    assert words in errors and errors.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_environment_of_ones_own_is_an_object(tmp_path):
    with pytest.raises(BadInput, match="env is an environment for the device: env_backend must be jax"):
        train(RunConfig.of("ppo", ScriptedOnDevice(WITH_FAULTS)))
    with pytest.raises(BadInput, match="env makes environments of Gymnasium's"):
        train(RunConfig.of("ppo", lambda: None, env_backend="jax"))
    with pytest.raises(BadInput, match="env is an environment of your own: env_backend must be jax, not gymnax"):
        train(RunConfig.of("ppo", ScriptedOnDevice(WITH_FAULTS), env_backend="gymnax"))
    with pytest.raises(BadInput, match="eval_env is an environment of your own: env_backend must be jax, not envelope"):
        train(RunConfig.of("ppo", "a::b", eval_env=ScriptedOnDevice(WITH_FAULTS), env_backend="envelope"))

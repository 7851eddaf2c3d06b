"""TD3 and SAC as rows of the table: what the loop makes of them, from the command and from Python."""

import csv
import dataclasses
import math
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxrl import RunConfig, load_policy, make_envs, train
from jaxrl.cli.main import evaluate_command, train_command
from jaxrl.loggers.metrics import MetricsBuffer
from jaxrl.runs.record import load_run
from jaxrl.training.train import train_in

SMALL = {"total_steps": 90, "learning_starts": 30, "batch_size": 8, "buffer_size": 80, "eval_every": 90}
SMALL |= {"eval_episodes": 1, "checkpoint_every": 30, "log_every": 30, "hidden_sizes": (8, 8)}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def learned(result):
    state = result.state.replace(key=jax.random.key_data(result.state.key))
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


@pytest.mark.parametrize("algo", ["td3", "sac"])
def test_a_run_goes_on_to_the_same_bits_and_leaves_a_policy(algo):
    run = RunConfig.of(algo, "Pendulum-v1", **SMALL)
    assert (run.num_envs, run.loop.batch_size) == (1, 8)
    whole = train(dataclasses.replace(run, run_dir="whole"))
    train(dataclasses.replace(run, run_dir="cut"), lambda snapshot: snapshot.step < 60)
    assert learned(train(load_run("cut"))) == learned(whole)
    policy = load_policy("whole")
    action = policy(np.zeros(3, np.float32))
    assert action.shape == (1,) and -2 <= action[0] <= 2
    assert policy.deterministic == (algo != "sac")
    assert evaluate_command(["whole", "--episodes", "1"]) == 0


@pytest.mark.parametrize("algo", ["td3", "sac"])
def test_the_buffer_holds_what_the_environment_got_in_its_units(algo):
    run = RunConfig.of(algo, "Pendulum-v1", **SMALL | {"eval_every": None, "run_dir": "run"})
    envs, given = make_envs("Pendulum-v1", 1, run.seed), []
    step = envs.step
    envs.step = lambda action: (given.append(np.array(action)), step(action))[1]
    [runner] = train_in([run], [envs])
    replay = runner.training.replay
    stored = np.asarray(replay.rows.action)
    last = [np.float32(action).ravel() for action in given[-int(replay.size) :]]
    np.testing.assert_array_equal(np.roll(stored, -int(replay.position), 0), last)
    assert np.abs(stored).max() <= 2 < 2 * np.abs(stored).max()


def test_td3s_actor_metrics_are_means_over_its_own_steps():
    run = RunConfig.of("td3", "Pendulum-v1", **SMALL | {"eval_every": None, "run_dir": "run", "policy_delay": 3})
    train(run)
    with Path("run/metrics.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    for row in rows:
        assert row["actor_steps"] == pytest.approx(1 / 3, abs=0.05)
        assert abs(row["actor_loss"] + row["q_mean"]) < abs(row["q_mean"])  # Of one size, and not a third of it.


def test_a_metric_is_averaged_over_the_updates_that_had_it():
    buffer = MetricsBuffer(("loss", "steps"), averaged_over={"loss": "steps"})
    for metrics in ([4.0, 1.0], [0.0, 0.0], [8.0, 1.0]):
        buffer.add(np.float32(metrics))
    buffer.close_row(3, 1.0)
    buffer.add(np.float32([0.0, 0.0]))
    buffer.close_row(4, 2.0)
    first, second = buffer.rows()
    assert first.metrics == {"loss": 6.0, "steps": pytest.approx(2 / 3)}
    assert math.isnan(second.metrics["loss"]) and second.metrics["steps"] == 0


def test_sac_has_no_noise_to_be_set(capsys):
    assert train_command(["--algo", "sac", "--env", "Pendulum-v1", "--exploration-noise", "0.2"]) == 2
    assert "--exploration-noise" in capsys.readouterr().err
    assert train_command(["--algo", "td3", "--env", "CartPole-v1"]) == 2
    assert "Discrete is not supported by td3" in capsys.readouterr().err

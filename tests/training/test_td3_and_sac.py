"""TD3 and SAC as rows of the table: what the loop makes of them, from the command and from Python."""

import csv
import dataclasses
import math
from pathlib import Path

import gymnasium as gym
import jax
import numpy as np
import pytest
from gymnasium import spaces

from jaxrl import RunConfig, load_policy, make_envs, sac_act, td3_act, train
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
        assert abs(row["actor_loss"] + row["q_mean"]) < abs(row["q_mean"]) / 2  # A third would miss by two thirds.


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


class Probe(gym.Env):
    """One of five tasks whose values are known, each harder in one way than the one before.

    `constant`: one step, reward 1. `observation`: one step, the reward is the observation. `delay`: two steps, the
    reward comes with the second. `endless`: reward 1 for ever, cut every 5 steps; `ended` says that the cut is an end,
    the negative control. `action`: one step, the reward is how near the action comes to half the observation.
    """

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 2.0, (1,), np.float32)

    def __init__(self, kind):
        self._kind = kind

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps = 0
        seen = self.np_random.uniform(-1, 1) if self._kind in ("observation", "action") else 0.0
        self._obs = np.array([seen], np.float32)
        return self._obs, {}

    def step(self, action):
        self._steps += 1
        if self._kind in ("endless", "ended"):
            cut = self._steps == 5
            return self._obs, 1.0, cut and self._kind == "ended", cut and self._kind == "endless", {}
        if self._kind == "delay":
            reward, self._obs = float(self._obs[0]), np.ones(1, np.float32)
            return self._obs, reward, self._steps == 2, False, {}
        near = -float((action[0] - self._obs[0] / 2) ** 2)
        reward = {"constant": 1.0, "observation": float(self._obs[0]), "action": near}[self._kind]
        return self._obs, reward, True, False, {}


ACT = {"td3": td3_act, "sac": sac_act}
OF_ZERO = {"constant": 1, "delay": 0.9, "endless": 10}


@pytest.mark.parametrize("kind", ["constant", "observation", "delay", "endless", "ended", "action"])
@pytest.mark.parametrize("algo", ["td3", "sac"])
def test_the_probe_ladder(algo, kind):
    own = {"alpha_learning_rate": None, "initial_alpha": 0.001} if algo == "sac" else {"policy_noise": 0.05}
    steps = {"action": 2500, "endless": 2500}.get(kind, 900)
    run = RunConfig.of(
        algo, lambda: Probe(kind), total_steps=steps, learning_starts=300, batch_size=64, buffer_size=2500,
        eval_every=None, run_dir="run", hidden_sizes=(32, 32), gamma=0.9, tau=0.05, actor_learning_rate=3e-3,
        critic_learning_rate=5e-3, **own,
    )  # fmt: skip
    state = train(run).state
    obs = np.linspace(-0.9, 0.9, 7, dtype=np.float32)[:, None]

    def policy(obs):
        answer = ACT[algo](state, obs)
        return np.asarray(answer.to_env(answer.mode()) if algo == "sac" else answer)

    def values(obs):
        return np.asarray(state.critic.apply_fn(state.critic.params, obs, policy(obs)))

    if kind == "action":
        np.testing.assert_allclose(policy(obs), obs / 2, atol=0.25)
    elif kind == "observation":
        np.testing.assert_allclose(values(obs), np.stack([obs[:, 0]] * 2), atol=0.15)
    elif kind == "ended":  # A fifth of all steps are ends: at most 1 / (1 - 0.8 * 0.9).
        assert values(0 * obs).max() < 4.5
    else:
        np.testing.assert_allclose(values(0 * obs), OF_ZERO[kind], rtol=0.05)

"""Learning: the probe ladder, the infinite horizon with its negative control, and real tasks through the front door."""

import dataclasses

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from scripted import Endless, Probe
from settings import run_config

from jaxrl import PPOConfig, load_policy, ppo_act, train
from jaxrl.cli.main import train_command
from jaxrl.runs.config import default_run
from jaxrl.training.evaluate import evaluate, make_eval_envs

QUICK = PPOConfig(
    gamma=0.9, num_epochs=10, num_minibatches=2, hidden_sizes=(32,), actor_learning_rate=5e-3, critic_learning_rate=5e-3
)


def learn(tmp_path, env, total_steps, agent=QUICK, **settings):
    """Trains on `env`; returns the value function and the policy."""
    run = run_config(
        env=env, agent=agent, total_steps=total_steps, num_envs=4, num_steps=32, eval_every=10**9, eval_episodes=2,
        run_dir=str(tmp_path / "run"), **settings,
    )  # fmt: skip
    state = train(run).state

    def value(*obs):
        return np.asarray(state.critic.apply_fn(state.critic.params, np.array(obs, np.float32).reshape(-1, 1)))

    return value, lambda obs: ppo_act(state, np.array([[obs]], np.float32))


def test_probe_1_a_constant_reward(tmp_path):
    value, _ = learn(tmp_path, lambda: Probe("constant"), 2_000)
    np.testing.assert_allclose(value(0), [1], atol=0.05)


def test_probe_2_a_reward_that_the_observation_tells(tmp_path):
    value, _ = learn(tmp_path, lambda: Probe("observation"), 4_000)
    np.testing.assert_allclose(value(-1, 1), [-1, 1], atol=0.1)


def test_probe_3_a_reward_that_comes_later(tmp_path):
    value, _ = learn(tmp_path, lambda: Probe("delay"), 6_000)
    np.testing.assert_allclose(value(0, 1), [0.9, 1.0], atol=0.05)


@pytest.mark.parametrize(
    "penalty", [{}, {"clip_eps": None, "kl_coef": 1.0, "kl_target": 0.01}], ids=["clip", "penalty"]
)
def test_probe_4_an_action_that_matters(tmp_path, penalty):
    value, policy = learn(tmp_path, lambda: Probe("action"), 8_000, QUICK.replace(**penalty))
    for obs in (0, 1):
        assert policy(obs).mode()[0] == obs
        assert np.exp(policy(obs).log_prob(np.array([obs])))[0] > 0.9
    np.testing.assert_allclose(value(0, 1), [1, 1], atol=0.3)


CASES = [(mode, False) for mode in AutoresetMode] + [(AutoresetMode.SAME_STEP, True)]


@pytest.mark.parametrize(
    "mode, says_terminated", CASES, ids=[f"{mode.name}{', the negative control' * control}" for mode, control in CASES]
)
def test_infinite_horizon(tmp_path, mode, says_terminated):
    """Reward 1 for ever, gamma 0.98: the value is 1 / (1 - 0.98) = 50, unless a time limit is taken for an end."""
    agent = QUICK.replace(
        gamma=0.98, gae_lambda=0.95, critic_learning_rate=1e-2, anneal_learning_rate=True, max_grad_norm=None
    )
    envs = SyncVectorEnv([lambda: Endless(25, says_terminated)] * 4, autoreset_mode=mode)
    value, _ = learn(tmp_path, envs, 24_000, agent, eval_env=lambda: Endless(25))
    if says_terminated:
        assert value(0) < 25
    else:
        np.testing.assert_allclose(value(0), [50], atol=1)


def final_evaluation(folder, num_episodes=100):
    policy = load_policy(folder / "policy" / "latest")
    returns, _ = evaluate(policy, make_eval_envs(policy.env, num_episodes), num_episodes, 12345)
    return returns.mean()


def test_cartpole_through_the_command_that_users_run(tmp_path):
    folder = tmp_path / "run"
    assert train_command(f"--algo ppo_kl --env CartPole-v1 --stop-return 475 --run-dir {folder}".split()) == 0
    last = (folder / "evaluations.csv").read_text().splitlines()[-1].split(",")
    assert float(last[1]) >= 475
    assert int(last[5]) == 100
    assert final_evaluation(folder) >= 475


@pytest.mark.slow
@pytest.mark.parametrize("variant", [["ppo"], ["ppo_kl"], ["ppo_kl", "--kl-target", "none"]], ids=" ".join)
@pytest.mark.parametrize("seed", range(10))
def test_cartpole_on_ten_seeds(tmp_path, variant, seed):
    folder = tmp_path / "run"
    argv = ["--algo", *variant, "--env", "CartPole-v1", "--total-steps", "100000", "--seed", str(seed)]
    assert train_command([*argv, "--run-dir", str(folder)]) == 0
    assert final_evaluation(folder) >= 475


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["ppo", "ppo_kl"])
@pytest.mark.parametrize("seed", range(3))
def test_pendulum(tmp_path, algo, seed):
    run = dataclasses.replace(
        default_run(algo, "Pendulum-v1"), seed=seed, total_steps=200_000, run_dir=str(tmp_path / "run")
    )
    train(run)
    assert final_evaluation(tmp_path / "run") >= -400

"""Evaluation favours no length, leaves no trace, and a saved policy acts as the one that was saved."""

import dataclasses

import jax
import numpy as np
import pytest
from gymnasium import spaces
from scripted import Scripted
from settings import run_config

from jaxrl import BadInput, DDPGConfig, PPOConfig, load_policy, make_envs, ppo_act, ppo_init, train
from jaxrl.cli.main import evaluate_command
from jaxrl.data.normalize import moments_update, normalizer_init, observer
from jaxrl.storage.policy import save_policy
from jaxrl.training.evaluate import evaluate, make_eval_envs

SHORT, LONG = [(1.0, True, False)], [(1.0, False, False)] * 9 + [(1.0, True, False)]


def test_each_environment_gives_its_quota():
    """Half of the environments have short episodes: the first six to finish would all be short."""
    scripts = iter([SHORT, SHORT, LONG, LONG])
    envs = make_envs(lambda: Scripted([next(scripts)]), 4, 0)
    returns, lengths = evaluate(lambda obs: np.zeros((4, 1)), envs, 6, 0)
    np.testing.assert_array_equal(lengths, [1, 1, 1, 1, 10, 10])
    np.testing.assert_array_equal(returns, lengths)


def test_same_seed_same_episodes_whatever_ran_before():
    envs = make_eval_envs("Pendulum-v1", 5)
    policy = lambda obs: -obs[:, 1:2]  # noqa: E731
    first, _ = evaluate(policy, envs, 5, 3)
    other, _ = evaluate(policy, envs, 5, 4)
    again, _ = evaluate(policy, envs, 5, 3)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    fresh, _ = evaluate(policy, make_eval_envs("Pendulum-v1", 5), 5, 3)
    np.testing.assert_array_equal(first, fresh)


@pytest.mark.parametrize(
    "space", [spaces.Discrete(3, start=2), spaces.Box(np.float32([-1, 0]), np.float32([0, 3]))], ids=["discrete", "box"]
)
@pytest.mark.parametrize("normalized", [False, True])
def test_a_saved_policy_needs_nothing_else_and_acts_the_same(tmp_path, space, normalized):
    observations = spaces.Box(-np.inf, np.inf, (2, 2))
    state = ppo_init(jax.random.key(0), PPOConfig(hidden_sizes=(8, 8), initial_log_std=1.0), observations, space)
    normalizer = normalizer_init(4, 1, normalized, False)
    raw = np.random.default_rng(0).normal(5, 3, (50, 2, 2)).astype(np.float32)
    if normalized:
        normalizer = normalizer._replace(obs=moments_update(normalizer.obs, raw.reshape(-1, 4)))
    save_policy(tmp_path / "p", state.actor, normalizer, "Some-v0", observations, space, {"step": 3})
    policy = load_policy(tmp_path / "p")
    actor = ppo_act(state, observer(normalizer)(raw.reshape(-1, 4)))
    greedy, sampled = np.asarray(actor.mode()), actor.sample(np.random.default_rng(1))
    if isinstance(space, spaces.Box):
        greedy, sampled = np.clip(greedy, space.low, space.high), np.clip(sampled, space.low, space.high)
        assert (sampled == space.low).any()
    np.testing.assert_allclose(policy(raw), greedy, atol=1e-6)
    np.testing.assert_allclose(policy(raw, np.random.default_rng(1)), sampled, atol=1e-5)
    assert policy.env == "Some-v0"
    assert policy.notes["step"] == 3
    policy.check_spaces(observations, space)
    with pytest.raises(BadInput, match="takes"):
        policy.check_spaces(observations, spaces.Discrete(9))


def test_no_policy_no_traceback(tmp_path):
    with pytest.raises(BadInput, match="there is no policy"):
        load_policy(tmp_path)
    (tmp_path / "policy.npz").write_bytes(b"rubbish")
    with pytest.raises(BadInput, match="damaged"):
        load_policy(tmp_path)


RECORDED = {
    "natively vectorised": {"env": "CartPole-v1", "eval_episodes": 7, "normalize_obs": True},
    "one after the other": {"env": "CartPole-v1", "eval_episodes": 12, "on_fault": "reset"},
    "another environment": {"env": "CartPole-v1", "eval_env": "CartPole-v0", "eval_episodes": 3},
    "under a wrapper": {"env": "Pendulum-v1", "wrapper": ("gymnasium.wrappers:RecordEpisodeStatistics",)},
    "ddpg": {"env": "Pendulum-v1", "agent": DDPGConfig(hidden_sizes=(8, 8)), "learning_starts": 100, "batch_size": 8},
}


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("which", ["best", "latest"])
def test_the_recorded_evaluation_is_repeated_exactly(tmp_path, capsys, name, which):
    ppo = {"agent": PPOConfig(hidden_sizes=(8, 8), num_minibatches=2, num_epochs=2), "num_envs": 2, "num_steps": 64}
    settings = RECORDED[name] if name == "ddpg" else ppo | RECORDED[name]
    run = run_config(total_steps=256, eval_every=128, **{"eval_episodes": 2} | settings)
    train(dataclasses.replace(run, run_dir=str(tmp_path / "run")))
    given = ["--wrapper", *run.wrapper] if run.wrapper else []
    capsys.readouterr()
    for again in range(2):
        assert evaluate_command([str(tmp_path / "run" / "policy" / which), "--recorded", *given]) == 0
        out = capsys.readouterr().out
        assert out.endswith(", the same\n") and out.count("return ") == run.eval_episodes + 1, again
    assert evaluate_command([str(tmp_path / "run"), "--recorded", *given, "--seed", "3"]) == 2
    assert "leave --seed off" in capsys.readouterr().err

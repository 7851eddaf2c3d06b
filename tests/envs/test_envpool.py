"""EnvPool behind the adapter, held to Gymnasium's environments from the same states under the same actions."""

import functools

import gymnasium as gym
import numpy as np
import pytest

from jaxrl import BadInput, make_envs
from jaxrl.envs.envpool import ENV_IDS, TERMINATION_RULES

pytestmark = pytest.mark.filterwarnings("ignore:.*out of date:DeprecationWarning", "ignore:.*precision lowered")
pytest.importorskip("envpool", reason="the extra envpool is not installed")

SKIPPED = {"HalfCheetah": 1, "Hopper": 1, "Swimmer": 2, "Walker2d": 1, "Ant": 2, "Humanoid": 2}  # Unseen positions.


def state_of(theirs, task, obs):
    """Positions and speeds from an observation; where the body is on the plane makes no difference."""
    nq, nv, skipped = theirs.model.nq, theirs.model.nv, SKIPPED[task]
    return np.r_[np.zeros(skipped), obs[: nq - skipped]], obs[nq - skipped : nq - skipped + nv]


@pytest.mark.parametrize("env_id", [f"{task}-v{version}" for task in list(SKIPPED)[:4] for version in (4, 5)])
def test_episodes_are_gymnasiums_on_the_same_actions(env_id):
    envs, theirs = make_envs(env_id, 4, 0, "envpool"), gym.make(env_id).unwrapped
    theirs.reset(seed=0)
    firsts, space, rng = envs.vector_env.obs.copy(), envs.action_space, np.random.default_rng(0)
    actions = rng.uniform(space.low, space.high, (20, 4, *space.shape)).astype(np.float32)
    rows, exact = [], []
    for action in actions:
        rows.append(envs.step(action))
        exact.append(envs.vector_env.obs.copy())
    compared = 0
    for i in range(4):
        theirs.set_state(*state_of(theirs, env_id[:-3], firsts[i]))
        for t in range(20):
            next_obs, reward, terminated, _, _ = theirs.step(actions[t, i])
            np.testing.assert_allclose(exact[t][i], next_obs, rtol=1e-8, atol=1e-8)
            assert rows[t].reward[i] == pytest.approx(reward, rel=1e-5, abs=1e-6)
            assert rows[t].terminated[i] == terminated
            compared += 1
            if terminated:
                break
    assert compared > 50


@pytest.mark.parametrize("env_id", [f"{task}-v{version}" for task in ("Ant", "Humanoid") for version in (4, 5)])
def test_one_step_is_close_to_gymnasiums_from_the_same_state(env_id):
    """EnvPool brings a MuJoCo of its own, whose contacts of these two are not ours to the last digit."""
    envs, theirs = make_envs(env_id, 3, 0, "envpool"), gym.make(env_id).unwrapped
    theirs.reset(seed=0)
    space, rng, errors = envs.action_space, np.random.default_rng(0), []
    for _ in range(60):
        obs, action = envs.vector_env.obs.copy(), rng.uniform(space.low, space.high, (3, *space.shape))
        row = envs.step(action.astype(np.float32))
        for i in np.flatnonzero(row.valid):
            state = state_of(theirs, env_id[:-3], obs[i])
            theirs.set_state(*state)
            next_obs, reward, terminated, _, _ = theirs.step(action[i].astype(np.float32))
            seen = (
                sum(map(len, state)) - SKIPPED[env_id[:-3]]
            )  # What follows are forces, which need more than the state.
            errors.append((np.abs(row.next_obs[i][:seen] - next_obs[:seen]).max(), abs(row.reward[i] - reward)))
            assert row.terminated[i] == terminated
    assert len(errors) > 100
    assert (np.median(errors, axis=0) < [1e-4, 2e-3]).all()
    assert (np.quantile(errors, 0.95, axis=0) < [0.1, 0.1]).all()


def test_cartpole_is_gymnasiums_on_the_same_actions():
    envs, theirs = make_envs("CartPole-v1", 4, 0, "envpool"), [gym.make("CartPole-v1").unwrapped for _ in range(4)]
    rng = np.random.default_rng(0)
    for i, env in enumerate(theirs):
        env.reset(seed=0)
        env.state = envs.obs[i].astype(np.float64)
    ended = 0
    for _ in range(100):
        action = rng.integers(0, 2, 4)
        row = envs.step(action)
        for i, env in enumerate(theirs):
            if row.valid[i]:
                next_obs, reward, terminated, _, _ = env.step(action[i])
                np.testing.assert_allclose(row.next_obs[i], next_obs, atol=1e-5)
                assert (row.reward[i], row.terminated[i]) == (reward, terminated)
                ended += terminated
            else:
                env.reset(seed=0)
                env.state = envs.obs[i].astype(np.float64)
    assert ended > 5


@pytest.mark.parametrize("env_id", [env_id for env_id in ENV_IDS if TERMINATION_RULES[env_id[:-3]]])
def test_the_rule_for_an_ended_task_is_gymnasiums(env_id):
    """What the rule says of an observation, beside what the environment itself said with it."""
    envs, rule = make_envs(env_id, 8, 1, "envpool"), TERMINATION_RULES[env_id[:-3]]
    space, rng, ends = envs.action_space, np.random.default_rng(1), 0
    for _ in range(150):
        if isinstance(space, gym.spaces.Discrete):
            action = rng.integers(0, 2, 8)
        else:
            action = rng.uniform(space.low, space.high, (8, *space.shape)).astype(np.float32)
        row = envs.step(action)
        inner = envs.vector_env.obs
        np.testing.assert_array_equal(rule(inner)[row.valid], row.terminated[row.valid])
        ends += row.terminated.sum()
    assert ends > 0


def test_an_end_on_the_step_of_the_time_limit_is_both(monkeypatch):
    """CartPole pushed one way falls after 8 to 11 steps; with the limit there, EnvPool reports the limit alone."""
    import envpool

    monkeypatch.setattr(envpool, "make", functools.partial(envpool.make, max_episode_steps=9))
    envs = make_envs("CartPole-v1", 64, 0, "envpool")
    rows = [envs.step(np.ones(64, np.int64)) for _ in range(9)]
    last = rows[-1]
    fallen = (np.abs(last.next_obs[:, 2]) > 0.2095) & last.valid
    assert fallen.any()
    assert (last.truncated & ~fallen).any()
    np.testing.assert_array_equal(last.terminated, fallen)
    assert last.truncated[fallen].all()


def test_seeds_make_streams_of_their_own():
    first = make_envs("HalfCheetah-v5", 4, 0, "envpool").obs
    np.testing.assert_array_equal(first, make_envs("HalfCheetah-v5", 4, 0, "envpool").obs)
    many = np.concatenate([make_envs("HalfCheetah-v5", 4, seed, "envpool").obs for seed in range(5)])
    assert len(np.unique(many, axis=0)) == 20
    envs = make_envs("HalfCheetah-v5", 4, 7, "envpool")
    envs.step(np.zeros((4, 6), np.float32))
    envs.reset(0)
    np.testing.assert_array_equal(envs.obs, first)


def test_one_environment_is_reset_alone():
    envs = make_envs("Hopper-v5", 3, 0, "envpool", on_fault="reset")
    for _ in range(4):
        row = envs.step(np.zeros((3, 3), np.float32))
    before = envs.obs.copy()
    action = np.zeros((3, 3), np.float32)
    action[1] = np.nan
    row = envs.step(action)
    assert envs.faults == [(1, "was given an action that is not finite")]
    np.testing.assert_array_equal(row.valid, [True, False, True])
    assert np.abs(envs.obs[1] - before[1]).max() > 0
    assert np.abs(envs.obs[1, 5:]).max() < 0.01, "an episode begins almost at rest"
    lengths = []
    rng = np.random.default_rng(0)
    for _ in range(300):
        envs.step(rng.uniform(-1, 1, (3, 3)).astype(np.float32))
        lengths += [(e.env_index, e.episode_length) for e in envs.finished]
    assert len({index for index, _ in lengths}) == 3


def test_what_it_does_not_have_is_refused():
    for env, words in [("Acrobot-v1", "CartPole-v1, "), (lambda: gym.make("CartPole-v1"), "takes an id")]:
        with pytest.raises(BadInput, match=words):
            make_envs(env, 2, 0, "envpool")
    with pytest.raises(BadInput, match="wrappers"):
        make_envs("CartPole-v1", 2, 0, "envpool", wrapper=("gymnasium.wrappers:ClipReward",))


@pytest.mark.parametrize("env_id", ["CartPole-v1", "HalfCheetah-v5"])
def test_it_leaves_neither_words_nor_files(env_id, tmp_path, monkeypatch, capfd, recwarn):
    monkeypatch.chdir(tmp_path)
    envs = make_envs(env_id, 2, 0, "envpool")
    envs.step(np.zeros((2, *envs.action_space.shape), envs.action_space.dtype))
    envs.close()
    assert not list(tmp_path.iterdir())
    assert "".join(capfd.readouterr()) == ""
    assert not [warning for warning in recwarn if "precision" in str(warning.message)]

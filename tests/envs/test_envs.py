"""The adapter: true transitions under every autoreset mode, exact statistics, refusals."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from scripted import EPISODES, Scripted

from jaxrl import BadInput, make_envs

MODES = list(AutoresetMode)
ACTION = np.zeros((2, 1), np.float32)


def second_script():
    """The same episodes in another order, so that two environments are never in step."""
    return Scripted(EPISODES[2:] + EPISODES[:2])


def scripted_envs(mode):
    return make_envs(
        SyncVectorEnv(
            [lambda: Scripted(EPISODES, mode is not AutoresetMode.SAME_STEP), second_script_for(mode)],
            autoreset_mode=mode,
        ),
        2,
        0,
    )


def second_script_for(mode):
    # In SAME_STEP, a vector environment that a user brings hands out final observations uncopied: nothing mends that.
    return lambda: Scripted(EPISODES[2:] + EPISODES[:2], mode is not AutoresetMode.SAME_STEP)


def true_transitions(env, steps):
    """What a plain loop over one environment sees, and its episodes."""
    rows, episodes, total, length = [], [], 0.0, 0
    obs = np.array(env.reset()[0])
    for _ in range(steps):
        raw, reward, terminated, truncated, _ = env.step(np.zeros(1))
        next_obs, total, length = np.array(raw), total + reward, length + 1
        rows.append((obs, reward, next_obs, terminated, truncated))
        obs = next_obs
        if terminated or truncated:
            episodes.append((total, length))
            obs, total, length = np.array(env.reset()[0]), 0.0, 0
    return rows, episodes


@pytest.mark.parametrize("mode", MODES)
def test_transitions_and_episodes_are_those_of_a_plain_loop(mode):
    envs = scripted_envs(mode)
    seen, episodes = ([], []), ([], [])
    for _ in range(60):
        before = envs.obs
        row = envs.step(ACTION)
        for index in range(2):
            if row.valid is None or row.valid[index]:
                np.testing.assert_array_equal(row.obs[index], before[index])
                seen[index].append(
                    tuple(
                        np.array(x[index]) for x in (row.obs, row.reward, row.next_obs, row.terminated, row.truncated)
                    )
                )
        for index, episode_return, length in envs.finished:
            episodes[index].append((episode_return, length))
    for index, env in enumerate((Scripted(EPISODES), second_script())):
        rows, expected = true_transitions(env, len(seen[index]))
        assert len(rows) >= 30
        assert episodes[index] == expected
        for ours, theirs in zip(seen[index], rows, strict=True):
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(a, b)
            assert ours[0][0] == ours[2][0], "a row links two episodes"


def test_built_environments_keep_their_final_observation_though_the_buffer_is_reused():
    envs = make_envs(lambda: Scripted(EPISODES), 2, 0)
    for expected in ([0, 1], [0, 2], [0, 3], [1, 1], [1, 2], [2, 1], [3, 1]):
        np.testing.assert_array_equal(envs.step(ACTION).next_obs[0], expected)


def test_rows_kept_by_the_caller_do_not_change_later():
    envs = make_envs(lambda: Scripted(EPISODES), 2, 0)
    row = envs.step(ACTION)
    kept = [np.array(x) for x in row[:6]]
    for _ in range(5):
        envs.step(ACTION)
    for a, b in zip(row[:6], kept, strict=True):
        np.testing.assert_array_equal(a, b)


def test_box_actions_reach_the_environment_clipped_and_the_transition_as_chosen():
    env = Scripted(EPISODES)
    envs = make_envs(lambda: env, 1, 0)
    assert envs.step(np.array([[3.5]], np.float32)).action == 3.5
    assert env.received[-1] == 1.0


def test_native_cartpole_masks_its_reset_rows():
    envs = make_envs("CartPole-v1", 4, 0)
    assert type(envs.vector_env.unwrapped).__name__ == "CartPoleVectorEnv"
    rows = [envs.step(np.zeros(4, np.int64)) for _ in range(40)]
    ended = np.array([r.terminated | r.truncated for r in rows])
    valid = np.array([r.valid for r in rows])
    np.testing.assert_array_equal(valid[1:], ~ended[:-1])
    assert ended.any()
    obs, next_obs = np.array([r.obs for r in rows]), np.array([r.next_obs for r in rows])
    inside = valid[:, :, None] & np.ones(4, bool)
    # Within an episode a position moves by 0.02 velocity: a row that linked two episodes would not.
    step = (next_obs - obs)[..., 0]
    np.testing.assert_allclose(step[valid], 0.02 * obs[..., 1][valid], atol=1e-6)
    assert inside.any()
    angle = np.abs(next_obs[..., 2])
    assert (angle[ended] > 0.2094).all(), "the final observation is the fallen one, not the next episode's first"


def test_same_seed_same_rows_and_neighbours_share_no_stream():
    def first(seed, num_envs=3):
        return make_envs("Pendulum-v1", num_envs, seed).obs

    np.testing.assert_array_equal(first(5), first(5))
    rows = np.concatenate([first(seed) for seed in range(20)])
    assert len(np.unique(rows, axis=0)) == 60
    envs = make_envs("Pendulum-v1", 3, 5)
    envs.step(np.zeros((3, 1)))
    envs.reset(5)
    np.testing.assert_array_equal(envs.obs, first(5))


def test_an_episode_under_way_is_forgotten_by_reset():
    envs = make_envs(lambda: Scripted([[(1.0, False, False)] * 4 + [(1.0, True, False)]]), 1, 0)
    envs.step(ACTION[:1])
    envs.reset(0)
    finished = [envs.finished for _ in range(5) if envs.step(ACTION[:1])]
    assert finished[-1] == [(0, 5.0, 5)]
    assert not any(finished[:-1])


def test_observations_of_any_shape_are_flattened():
    class Grid(gym.Env):
        observation_space, action_space = spaces.Box(0, 9, (2, 3), np.int64), spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return np.arange(6).reshape(2, 3), {}

        def step(self, action):
            return np.arange(6).reshape(2, 3) + 1, 0.0, True, False, {}

    envs = make_envs(Grid, 2, 0)
    np.testing.assert_array_equal(envs.step(np.zeros(2, int)).next_obs, [range(1, 7)] * 2)
    np.testing.assert_array_equal(envs.obs, [range(6)] * 2)
    assert envs.obs.dtype == np.float32


def test_mujoco_leaves_neither_words_nor_files(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    envs = make_envs("HalfCheetah-v5", 2, 0)
    row = envs.step(np.zeros((2, 6), np.float32))
    assert row.reward.shape == (2,)
    assert not list(tmp_path.iterdir())
    assert "settotalmass" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "env, num_envs, words",
    [
        ("CartPol-v1", 2, "CartPole-v1"),
        ("halfcheetah-v5", 2, "HalfCheetah-v5"),
        ("Zzzzzzzz", 2, "there is no environment"),
        ("nosuchmodule:Thing-v0", 2, "nosuchmodule:Thing-v0"),
        ("CartPole-v1", 0, "num_envs is 0"),
        (SyncVectorEnv([lambda: Scripted(EPISODES)] * 2), 3, "has 2"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(env, num_envs, words):
    with pytest.raises(BadInput, match=words) as caught:
        make_envs(env, num_envs, 0)
    assert "\n" not in str(caught.value)


def test_a_vector_environment_without_a_mode_is_refused():
    envs = SyncVectorEnv([lambda: Scripted(EPISODES)])
    envs.metadata = {}
    with pytest.raises(BadInput, match="autoreset"):
        make_envs(envs, 1, 0)
    with pytest.raises(BadInput, match="backend"):
        make_envs("CartPole-v1", 1, 0, backend="other")


def test_an_id_with_a_module_imports_it(tmp_path, monkeypatch):
    (tmp_path / "my_envs.py").write_text(
        "import gymnasium as gym\nfrom scripted import Endless\ngym.register('Mine-v0', entry_point=Endless)\n"
    )
    (tmp_path / "broken_envs.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert make_envs("my_envs:Mine-v0", 2, 0).obs.shape == (2, 1)
    with pytest.raises(BadInput, match="ZeroDivisionError"):
        make_envs("broken_envs:Mine-v0", 2, 0)


def test_options_act_or_are_refused():
    envs = make_envs("Pendulum-v1", 1, 0, max_episode_steps=3)
    assert [len(envs.finished) for _ in range(3) if envs.step(np.zeros((1, 1)))] == [0, 0, 1]
    with pytest.raises(BadInput, match="max_episode_steps"):
        make_envs(lambda: Scripted(EPISODES), 1, 0, max_episode_steps=3)
    with pytest.raises(BadInput, match="seed"):
        make_envs("Pendulum-v1", 1, -1)

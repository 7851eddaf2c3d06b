"""The built-in tasks for the device against Gymnasium's classes: every step from the same state, and first states in
distribution."""

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from switches import STRICT, switched

from jaxrl.envs.device_backends import BUILT_IN
from jaxrl.envs.on_device import make_device_envs

DRAWS = 10_000
ROUNDING = 2e-6  # Relative: a few times float32's, for a step takes a few dozen operations.

# What brings each task to its end, where random actions do not: from an observation to an action.
SOLVED_BY = {
    "MountainCar-v0": lambda obs: 2 if obs[1] >= 0 else 0,
    "MountainCarContinuous-v0": lambda obs: np.array([1.0 if obs[1] >= 0 else -1.0], np.float32),
    "Acrobot-v1": lambda obs: 2 if obs[5] >= 0 else 0,
}


def steps_of_gymnasium(name):
    """States, actions, and what Gymnasium's class made of them: observations, rewards, terminations."""
    env = gym.make(name).unwrapped
    env.action_space.seed(0)
    env.reset(seed=0)
    rows = []
    for episode in range(30):
        obs, _ = env.reset()
        policy = SOLVED_BY.get(name) if episode % 2 else None
        for _ in range(150):
            action = policy(obs) if policy else env.action_space.sample()
            state = np.array(env.state, np.float32)
            env.state = state.astype(np.float64)  # Both begin from what float32 holds.
            obs, reward, terminated, _, _ = env.step(action)
            rows.append((state, np.asarray(action), np.array(obs), float(reward), terminated))
            if terminated:
                break
    return [np.stack(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_step_is_that_of_gymnasium(name):
    state, action, obs, reward, terminated = steps_of_gymnasium(name)
    assert len(state) > 500 and terminated.any() == (name != "Pendulum-v1")
    env = BUILT_IN[name]()
    _, our_obs, our_reward, our_end = jax.jit(jax.vmap(env.step, (0, 0, None)))(state, action, None)
    scale = np.abs(obs).max(0)
    np.testing.assert_allclose(our_obs / scale, obs / scale, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(our_reward, reward, rtol=ROUNDING, atol=ROUNDING)
    np.testing.assert_array_equal(our_end, terminated)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("name", BUILT_IN)
def test_no_step_promotes_types_by_itself(name, wide):
    with switched({"jax_enable_x64": wide}):
        env = BUILT_IN[name]()
        state, _ = env.reset(jax.random.key(0))
        action = jax.device_put(np.zeros(env.action_space.shape, env.action_space.dtype))
        with switched(STRICT):
            _, found, reward, _ = jax.jit(env.step)(state, action, None)
        _, right, *_ = env.step(state, action, None)
    assert found.dtype == (np.float64 if wide else np.float32) and jnp.ndim(reward) == 0
    np.testing.assert_allclose(found, right, rtol=1e-6)


@pytest.mark.parametrize("name", BUILT_IN)
def test_an_action_may_be_of_any_type(name):
    """MountainCar's 0 is a push to the left. In eight bits without a sign, 0 - 1 would be a long way to the right."""
    env = BUILT_IN[name]()
    state, _ = env.reset(jax.random.key(0))
    for number in (0, 1):
        plain = np.full(env.action_space.shape, number, env.action_space.dtype)
        _, right, *_ = env.step(state, plain, None)
        for action in (plain.tolist(), plain.astype(np.uint8), plain.astype(np.float32), jnp.asarray(plain, jnp.uint8)):
            _, found, *_ = env.step(state, action, None)
            np.testing.assert_array_equal(found, right)


def test_a_task_that_is_a_little_different_does_not_pass():
    """The pole's mass times its length, where another implementation took their sum."""
    state, action, obs, *_ = steps_of_gymnasium("CartPole-v1")
    _, x_dot, theta, theta_dot = state.T.astype(np.float64)
    for product, passes in ((0.1 * 0.5, True), (0.1 + 0.5, False)):
        push = (np.where(action == 1, 10.0, -10.0) + product * theta_dot**2 * np.sin(theta)) / 1.1
        acceleration = (9.8 * np.sin(theta) - np.cos(theta) * push) / (0.5 * (4 / 3 - 0.1 * np.cos(theta) ** 2 / 1.1))
        speed = x_dot + 0.02 * (push - product * acceleration * np.cos(theta) / 1.1)
        assert (np.abs(speed - obs[:, 1]).max() < ROUNDING) == passes


@pytest.mark.parametrize("name", BUILT_IN)
def test_spaces_and_limits_are_those_of_gymnasium(name):
    env, ours = gym.make(name), make_device_envs(name, 2)
    assert ours.observation_space == env.observation_space and ours.action_space == env.action_space
    assert ours.time_limit == env.spec.max_episode_steps


@pytest.mark.parametrize("name", BUILT_IN)
def test_first_states_are_distributed_as_those_of_gymnasium(name):
    env = gym.make(name).unwrapped
    env.reset(seed=1)
    theirs = np.stack([env.reset()[0] for _ in range(DRAWS)])
    ours = np.asarray(make_device_envs(name, DRAWS).reset(jax.random.key(1)).obs)
    for place in range(ours.shape[1]):
        assert stats.ks_2samp(ours[:, place], theirs[:, place]).pvalue > 1e-3
    for rows in (ours, theirs):  # And no number says anything of another, but for the cosine and the sine.
        varying = rows[:, rows.std(0) > 0]
        correlation = np.corrcoef(varying.T) if varying.shape[1] > 1 else np.eye(1)
        assert np.abs(correlation - np.eye(len(correlation))).max() < 0.05


def test_the_test_of_distributions_sees_a_range_that_is_a_tenth_wider():
    ours = np.asarray(make_device_envs("CartPole-v1", DRAWS).reset(jax.random.key(1)).obs)
    rng = np.random.default_rng(0)
    assert stats.ks_2samp(ours[:, 0], rng.uniform(-0.05, 0.05, DRAWS)).pvalue > 1e-3
    assert stats.ks_2samp(ours[:, 0], rng.uniform(-0.055, 0.055, DRAWS)).pvalue < 1e-6


def test_pendulum_stays_exact_after_many_turns():
    env = BUILT_IN["Pendulum-v1"]()
    turns = jnp.array([0.0, 200.0]) * 2 * np.pi
    states, rewards = [], []
    for start in turns:
        state, _, reward, _ = env.step(jnp.stack([0.5 + start, jnp.array(8.0)]), jnp.zeros(1), None)
        states.append(state)
        rewards.append(reward)
    np.testing.assert_allclose(states[0], states[1], atol=2e-4)
    assert all(abs(float(state[0])) < np.pi + 0.5 for state in states)

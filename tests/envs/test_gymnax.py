"""gymnax's tasks on the device. They need the extra `gymnax`, whose packages are older than those of the other tests:
run them in an environment of its own, `python -m pytest -m slow tests/envs/test_gymnax.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import make_device_envs
from jaxrl.envs.gymnax_tasks import GymnaxTask
from jaxrl.envs.on_device import collect_counted

gymnax = pytest.importorskip("gymnax")
pytestmark = pytest.mark.slow

N = 3
NEEDS_A_DOWNLOAD = "MNISTBandit-bsuite"
TASKS = [name for name in gymnax.registered_envs if name != NEEDS_A_DOWNLOAD]


def random_actions(space):
    def act(key, obs):
        if hasattr(space, "n"):
            action = jax.random.randint(key, (N,), 0, int(space.n))
        else:
            action = jax.random.uniform(key, (N, *space.shape), minval=space.low, maxval=space.high)
        return action, action

    return act


@pytest.mark.parametrize("name", TASKS)
def test_every_task_gives_true_transitions(name):
    """Its `step_env` and `is_truncated` are the oracle: at each state that was met, with the same key and action,
    they say the same of the successor and of both ends."""
    envs = make_device_envs(name, N, "gymnax")
    env, params = envs.env.env, envs.env.params
    act = random_actions(envs.action_space)

    def step(state, _):
        action, _ = act(jax.random.fold_in(state.key, 0), state.obs)
        _, step_key, _ = jax.random.split(state.key, 3)  # As `DeviceEnvs` does.
        keys = jax.random.split(step_key, N)
        obs, inner, reward, terminated, _ = jax.vmap(env.step_env, (0, 0, 0, None))(keys, state.inner, action, params)
        oracle = obs, reward, terminated, jax.vmap(env.is_truncated, (0, None))(inner, params)
        state, transition = envs.step(state, action)
        return state, (transition, oracle, state.episode_length)

    num_steps = min(envs.time_limit, 300) + 5
    run = jax.jit(lambda key: jax.lax.scan(step, envs.reset(key), length=num_steps)[1])
    rows, (obs, reward, terminated, truncated), length = jax.tree.map(np.asarray, run(jax.random.key(0)))
    flat = np.eye(envs.observation_space.n)[obs] if obs.ndim == 2 else obs.reshape(num_steps, N, -1)
    np.testing.assert_allclose(rows.next_obs, flat, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rows.reward, reward, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(rows.terminated, terminated)
    np.testing.assert_array_equal(rows.truncated, truncated)
    ended = terminated | truncated
    assert rows.valid.all() and (length[ended] == 0).all()
    assert ended.any() or envs.time_limit > 300
    # What one row ends with the next begins with, unless an episode is over.
    going = ~ended[:-1]
    np.testing.assert_array_equal(rows.obs[1:][going], rows.next_obs[:-1][going])


def test_cartpole_is_our_own():
    theirs, ours = (make_device_envs("CartPole-v1", N, backend) for backend in ("gymnax", "jax"))
    start = theirs.reset(jax.random.key(0))
    act = random_actions(theirs.action_space)
    _, rollout, _ = jax.jit(lambda s: collect_counted(theirs, s, act, 200))(start)
    rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rollout)
    _, obs, reward, terminated = jax.vmap(ours.env.step, (0, 0, None))(rows.obs, rows.action, None)
    np.testing.assert_allclose(rows.next_obs, obs, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(rows.reward, jnp.broadcast_to(reward, rows.reward.shape))
    np.testing.assert_array_equal(rows.terminated, terminated)
    assert rows.terminated.sum() > 10


def test_equal_names_are_one_environment_and_parameters_of_ones_own_are_taken():
    assert make_device_envs("Acrobot-v1", 2, "gymnax") == make_device_envs("Acrobot-v1", 2, "gymnax")
    env, params = gymnax.make("CartPole-v1")
    envs = make_device_envs(GymnaxTask(env, params.replace(max_steps_in_episode=7)), 2)
    assert envs.time_limit == 7

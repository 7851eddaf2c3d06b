"""MuJoCo Playground's tasks on the device. They need the extra `playground`; run them in an environment of its own,
`python -m pytest -m slow tests/envs/test_playground.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import BadInput, make_device_envs
from jaxrl.envs.on_device import DeviceEnvs
from jaxrl.envs.playground_tasks import PlaygroundTask, find_task

registry = pytest.importorskip("mujoco_playground").registry
pytestmark = pytest.mark.slow

N, T = 4, 12


@pytest.fixture(scope="module")
def task():
    return find_task("CartpoleBalance")


def test_transitions_are_those_of_the_raw_environment(task):
    """Playground's own `step`, from each state that was met, is the oracle; a limit of 5 steps brings resets."""
    envs = DeviceEnvs(task, N, 5, 2)

    def step(state, _):
        action = jax.random.uniform(jax.random.fold_in(state.key, 0), (N, 1), minval=-3.0, maxval=3.0)
        stepped = jax.vmap(task.env.step)(state.inner, jnp.clip(action, -1, 1))
        state, transition = envs.step(state, action)
        return state, (transition, stepped.obs, stepped.reward, state.inner.info["rng"])

    run = jax.jit(lambda key: jax.lax.scan(step, envs.reset(key), length=T)[1])
    rows, obs, reward, keys = jax.tree.map(np.asarray, run(jax.random.key(0)))
    np.testing.assert_allclose(rows.next_obs, obs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rows.reward, reward, rtol=1e-5, atol=1e-6)
    assert rows.valid.all() and not rows.terminated.any() and (rows.truncated == (np.arange(T) % 5 == 4)[:, None]).all()
    going = ~rows.truncated[:-1]
    np.testing.assert_array_equal(rows.obs[1:][going], rows.next_obs[:-1][going])
    assert not np.allclose(rows.obs[1:][~going], rows.next_obs[:-1][~going])
    # Of the two first states several environments begin with one, and none with the key of another after a step.
    assert len(np.unique(rows.obs[5], axis=0)) <= 2
    assert len(np.unique(keys[6], axis=0)) == N


def test_a_state_that_is_not_a_number_is_a_fault_and_no_termination(task):
    envs = DeviceEnvs(task, 2, 5, 2)
    state = jax.jit(envs.reset)(jax.random.key(0))
    data = state.inner.data
    state = state._replace(inner=state.inner.replace(data=data.replace(qpos=data.qpos.at[1].set(jnp.nan))))
    state, transition = jax.jit(envs.step)(state, jnp.zeros((2, 1)))
    assert transition.valid.tolist() == [True, False] and not transition.terminated.any()
    assert jnp.isfinite(state.obs).all() and state.num_faults.tolist() == [0, 1]


def test_equal_names_are_one_environment(task):
    assert find_task("CartpoleBalance") is task and isinstance(task, PlaygroundTask)
    assert task.time_limit == registry.get_default_config("CartpoleBalance").episode_length == 1000


def test_a_task_that_is_none():
    with pytest.raises(BadInput, match="backend playground has no environment CartPole-v1: did you mean Cartpole"):
        make_device_envs("CartPole-v1", 2, "playground")

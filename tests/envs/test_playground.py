"""MuJoCo Playground's tasks on the device. They need the extra `playground`; run them in an environment of its own,
`python -m pytest -m slow tests/envs/test_playground.py`."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import BadInput, RunConfig, load_policy, make_device_envs, train
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


BALANCE = RunConfig.of(
    "ppo", "CartpoleBalance", env_backend="playground", normalize_obs=True, num_envs=N, num_steps=4, hidden_sizes=(8,),
    num_epochs=1, num_minibatches=2, total_steps=8 * N, eval_every=4 * N, eval_episodes=2, eval_max_steps=5,
)  # fmt: skip


def test_a_run_leaves_what_every_run_leaves(task, tmp_path):
    """Two updates, evaluations and a policy: whether it learns is the next test's question."""
    result = train(dataclasses.replace(BALANCE, run_dir=str(tmp_path / "run")))
    assert int(result.state.num_updates) == 2 and [each.step for each in result.evaluations] == [0, 4 * N, 8 * N]
    assert all(0 < each.mean_return < 5.001 for each in result.evaluations)  # Five rewards from 0 to 1.
    action = load_policy(tmp_path / "run")(np.zeros(task.observation_space.shape, np.float32))
    assert action.shape == (1,) and np.abs(action).max() <= 1


def test_ppo_balances_the_pole(tmp_path):
    """The last twenty episodes of an evaluation, of at most 1,000 steps with a reward of at most 1 each."""
    run = RunConfig.of(
        "ppo", "CartpoleBalance", env_backend="playground", total_steps=3_000_000, num_envs=256, num_steps=32,
        num_epochs=8, num_minibatches=16, gamma=0.995, actor_learning_rate=1e-3, critic_learning_rate=1e-3,
        anneal_learning_rate=True, normalize_obs=True, eval_every=500_000, eval_episodes=20, log_every=100_000,
        run_dir=str(tmp_path / "run"),
    )  # fmt: skip
    began = time.perf_counter()
    result = train(run)
    minutes = (time.perf_counter() - began) / 60
    last = result.evaluations[-1]
    print(f"{last.mean_return:.0f} of 1,000, {result.step / minutes / 60:,.0f} steps/s, {minutes:.1f} minutes")
    assert last.mean_return >= 900 and last.episodes == 20

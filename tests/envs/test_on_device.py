"""N environments on the device: true transitions, the same as Gymnasium's under `Envs`; streams of random numbers;
pools of first states; faults; evaluation."""

import functools

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from device_tasks import SCRIPTS, WITH_FAULTS, EndlessOnDevice, Noisy, ScriptedOnDevice, ScriptedOnHost
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from switches import STRICT, switched

from jaxrl import PPOConfig, Transition, behaviour_policy, ppo_init, ppo_update
from jaxrl.envs.device_spaces import to_env_actions
from jaxrl.envs.episodes import DEFAULT_MAX_STEPS
from jaxrl.envs.evaluate_on_device import evaluate_on_device
from jaxrl.envs.make import make_envs
from jaxrl.envs.on_device import collect, collect_counted, make_device_envs
from jaxrl.envs.vector import Envs

N, T = 4, 80


def wide_actions(key, obs):
    """Actions of which many leave the bounds, recorded in other units than the environment's. All are such that sums
    of rewards are exact."""
    action = jax.random.randint(key, (len(obs), 1), -16, 17) / 8
    return action / 8, action


@functools.cache
def played(scripts):
    """A rollout of the scripted task, its episodes, and what Gymnasium is to play: of each environment the episodes in
    their order, and some more for the resets that the end of the rollout brings."""
    envs = make_device_envs(ScriptedOnDevice(scripts), N)
    start = envs.reset(jax.random.key(1))
    end, rollout, episodes = jax.jit(lambda s: collect_counted(envs, s, wide_actions, T))(start)
    rollout, episodes = (type(each)(*map(np.asarray, each)) for each in (rollout, episodes))
    tags = np.concatenate([rollout.obs[:, :, :2], np.asarray(end.obs)[None, :, :2]])
    orders = []
    for i in range(N):
        changes = [0, *(t for t in range(1, T + 1) if (tags[t, i] != tags[t - 1, i]).any())]
        orders.append([tags[t, i] for t in changes] + [np.zeros(2)] * 3)
    return rollout, episodes, orders


def on_host(envs, actions):
    """What `Envs` makes of the same actions: valid rows of each environment, and its finished episodes."""
    rows, finished = [[] for _ in range(N)], [[] for _ in range(N)]
    used = np.zeros(N, int)
    while used.min() < T:
        action = np.stack([actions[min(used[i], T - 1), i] for i in range(N)])
        transition = envs.step(action)
        resetting = np.zeros(N, bool) if transition.valid is None else ~transition.valid & ~faulty(envs)
        for i in np.flatnonzero(~resetting & (used < T)):
            rows[i].append([None if field is None else field[i] for field in transition])
        for episode in envs.finished:
            if used[episode.env_index] < T:
                finished[episode.env_index].append((episode.episode_return, episode.episode_length))
        used += ~resetting
    return rows, finished


def faulty(envs):
    return np.isin(np.arange(N), [fault.env_index for fault in envs.faults])


def linked(rollout):
    """How many rows have a successor of another episode, or not the next one of their own."""
    valid = np.asarray(rollout.valid)
    step = rollout.next_obs[..., 2] - rollout.obs[..., 2]
    return int(((rollout.obs[..., 1] != rollout.next_obs[..., 1]) | (step != 1))[valid].sum())


def check_equal(rollout, episodes, actions, rows, finished):
    """Row by row and episode by episode the same; `actions` are those that the environments got."""
    for i in range(N):
        host = Transition(
            *(np.stack([row[k] for row in rows[i]]) if rows[i][0][k] is not None else None for k in range(7))
        )
        for name in ("obs", "next_obs", "reward", "terminated"):
            np.testing.assert_array_equal(getattr(host, name), getattr(rollout, name)[:, i], err_msg=name)
        np.testing.assert_array_equal(host.action, actions[:, i])
        if host.valid is not None:
            np.testing.assert_array_equal(host.valid, rollout.valid[:, i])
        ended = episodes.ended[:, i]
        own = list(zip(episodes.episode_return[ended, i], episodes.episode_length[ended, i], strict=True))
        assert finished[i] == own


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
def test_transitions_are_those_of_gymnasium(mode):
    rollout, episodes, orders = played(SCRIPTS)
    both, cut = rollout.terminated & rollout.truncated, rollout.truncated & ~rollout.terminated
    short = episodes.ended & (episodes.episode_length == 1)
    assert min(both.sum(), cut.sum(), short.sum(), (rollout.terminated & ~rollout.truncated).sum()) > 5
    assert linked(rollout) == 0
    makers = [lambda order=order: gym.wrappers.TimeLimit(ScriptedOnHost(SCRIPTS, order), 4) for order in orders]
    envs = Envs(gym.vector.SyncVectorEnv(makers, autoreset_mode=mode), 0)
    rows, finished = on_host(envs, rollout.action * 8)
    check_equal(rollout, episodes, rollout.action * 8, rows, finished)
    for i in range(N):
        np.testing.assert_array_equal([row[5] for row in rows[i]], rollout.truncated[:, i])


def test_a_fault_resets_its_environment_alone_as_on_the_host():
    rollout, episodes, orders = played(WITH_FAULTS)
    faults = ~rollout.valid
    assert faults.sum() > 10 and faults[1:].any() and linked(rollout) == 0
    places = iter(orders)
    envs = make_envs(
        lambda: gym.wrappers.TimeLimit(ScriptedOnHost(WITH_FAULTS, next(places)), 4), N, 0, on_fault="reset"
    )
    rows, finished = on_host(envs, rollout.action * 8)
    check_equal(rollout, episodes, rollout.action * 8, rows, finished)
    # The loop on the host truncates the row before a fault, unless an episode ended there.
    for i in range(N):
        truncated = np.array([row[5] for row in rows[i]])
        for t in np.flatnonzero(faults[1:, i]) + 1:
            truncated[t - 1] |= rows[i][t - 1][6] and not rows[i][t - 1][4]
        np.testing.assert_array_equal(truncated, rollout.truncated[:, i])
        assert truncated.sum() > np.sum([row[5] for row in rows[i]])
    assert not (rollout.terminated | rollout.truncated)[faults].any()
    assert np.isfinite(rollout.next_obs).all() and np.isfinite(rollout.reward).all()


def test_the_check_of_links_finds_what_an_autoreset_gives():
    """There, the successor of an episode's last row is the first observation of the next one."""
    rollout, episodes, _ = played(SCRIPTS)
    successors = np.concatenate([rollout.obs[1:], rollout.next_obs[-1:]])
    assert linked(rollout._replace(next_obs=successors)) == episodes.ended[:-1].sum() > 50


def test_an_action_that_is_none_is_a_fault():
    envs = make_device_envs(EndlessOnDevice(), 4)
    start = envs.reset(jax.random.key(0))
    state, transition = envs.step(start, jnp.array([0.0, 2.0, 0.5, jnp.nan]))
    np.testing.assert_array_equal(transition.valid, [True, False, False, False])
    np.testing.assert_array_equal(state.inner, [1, 0, 0, 0])
    np.testing.assert_array_equal(state.num_faults, [0, 1, 1, 1])
    np.testing.assert_array_equal(state.episode_length, [1, 0, 0, 0])


def test_no_key_is_used_twice_and_a_stream_goes_on_bit_for_bit():
    def act(key, obs):
        action = jax.random.normal(key, (len(obs), 1))
        return action, action

    envs = make_device_envs(Noisy(), 8)
    run = jax.jit(lambda s: collect(envs, s, act, 20))
    start = envs.reset(jax.random.key(0))
    middle, first = run(start)
    # What a checkpoint holds of it: arrays, and the key's data.
    stored = jax.tree.map(lambda x: np.asarray(x), middle._replace(key=jax.random.key_data(middle.key)))
    restored = jax.tree.map(jnp.asarray, stored)._replace(key=jax.random.wrap_key_data(jnp.asarray(stored.key)))
    _, second = run(middle)
    for one, other in zip(second, run(restored)[1], strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(second.obs[0], middle.obs)
    whole = jax.tree.map(lambda *parts: np.concatenate(parts), first, second)
    starts = np.asarray(whole.obs)[np.arange(40) % 5 == 0]  # Every fifth row is a first one.
    noise = np.asarray(whole.next_obs - whole.obs)
    for draws in (np.asarray(whole.action), starts, noise):
        assert len(np.unique(draws.round(5))) > 0.99 * draws.size
    assert len(np.unique(np.concatenate([starts.ravel(), np.asarray(whole.action).ravel()]))) == starts.size + 320


def test_first_states_come_from_a_pool_that_each_rollout_renews():
    envs = make_device_envs(Noisy(num_first_states=2), 16)
    run = jax.jit(lambda s: collect(envs, s, lambda key, obs: (obs, obs), 10))
    start = envs.reset(jax.random.key(0))
    assert len(np.unique(start.obs)) == 2
    middle, first = run(start)
    _, second = run(middle)
    pools = [set(np.asarray(rollout.obs)[5].ravel().tolist()) for rollout in (first, second)]
    assert [len(pool) for pool in pools] == [2, 2] and not pools[0] & pools[1]
    # Those that begin from one state differ after a step.
    assert len(np.unique(first.next_obs[0])) == 16


def test_vmap_over_seeds_gives_what_each_gives_alone():
    envs = make_device_envs("MountainCarContinuous-v0", 4)

    def run(key):
        return collect(envs, envs.reset(key), wide_actions, 30)[1]

    keys = jax.random.split(jax.random.key(5), 3)
    together = jax.jit(jax.vmap(run))(keys)
    for place, key in enumerate(keys):
        for field, alone in zip(together, jax.jit(run)(key), strict=True):
            np.testing.assert_allclose(field[place], alone, rtol=1e-5, atol=1e-6)


def test_equal_environments_share_a_program():
    traces = []

    @jax.jit
    def step(envs, state, action):
        traces.append(1)
        return envs.step(state, action)

    state = make_device_envs("Pendulum-v1", 3).reset(jax.random.key(0))
    for _ in range(3):
        state, _ = step(make_device_envs("Pendulum-v1", 3), state, jnp.zeros((3, 1)))
    assert len(traces) == 1


def test_evaluation_takes_the_first_episodes_of_each_environment():
    """The oracle steps the same stream, and takes the first ones of each environment in Python: taking the first of all
    would favour the short ones."""
    envs, action = make_device_envs(ScriptedOnDevice(), N), jnp.ones((N, 1))
    run = jax.jit(lambda key: evaluate_on_device(envs, lambda obs: action, key, 10))
    returns, lengths = run(jax.random.key(7))
    state, step, taken = envs.reset(jax.random.key(7)), jax.jit(envs.step_counted), [[] for _ in range(N)]
    for _ in range(20):
        state, _, episodes = step(state, action)
        for i in np.flatnonzero(episodes.ended):
            taken[i].append((float(episodes.episode_return[i]), int(episodes.episode_length[i])))
    wanted = [episode for own, quota in zip(taken, (3, 3, 2, 2), strict=True) for episode in own[:quota]]
    assert list(zip(returns.tolist(), lengths.tolist(), strict=True)) == wanted
    assert len(set(wanted)) > 2


def test_evaluation_is_bounded():
    def still(obs):
        return jnp.zeros((len(obs), 1))

    run = jax.jit(lambda envs, key: evaluate_on_device(envs, still, key, 3))
    returns, lengths = run(make_device_envs(Noisy(time_limit=None), 8), jax.random.key(0))
    assert lengths.tolist() == [DEFAULT_MAX_STEPS] * 3 == returns.tolist()

    class Broken(Noisy):
        def step(self, state, action, key):
            return state, state, jnp.nan, False

    returns, lengths = run(make_device_envs(Broken(), 8), jax.random.key(0))
    assert np.isnan(returns).all() and lengths.tolist() == [0, 0, 0]


def test_ppo_values_the_infinite_horizon_task_at_50():
    """The whole training is one program. The control takes the limit for an end, where the value must be lower."""
    envs = make_device_envs(EndlessOnDevice(), 4)
    config = PPOConfig(gamma=0.98, critic_learning_rate=1e-2, num_epochs=2, num_minibatches=2, hidden_sizes=(16,))
    state = ppo_init(jax.random.key(0), config, envs.observation_space, envs.action_space)

    @jax.jit
    def value_of(merges_flags):
        def update(carry, _):
            state, env_state = carry
            env_state, rollout = collect(envs, env_state, behaviour_policy("ppo", state), 64)
            merged = rollout.terminated | (merges_flags & rollout.truncated)
            state, metrics = ppo_update(state, rollout._replace(terminated=merged))
            return (state, env_state), metrics["skipped_updates"]

        (trained, _), skipped = jax.lax.scan(update, (state, envs.reset(jax.random.key(1))), length=300)
        return trained.critic.apply_fn(trained.critic.params, jnp.zeros((1, 1)))[0], skipped.sum()

    value, skipped = value_of(False)
    assert abs(value - 50) < 1 and skipped == 0
    assert abs(value_of(True)[0] - 50) > 10


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.int64, np.float32])
def test_actions_of_any_type_are_held_against_whole_bounds(dtype, wide):
    """299 is no number of eight bits, and types are not changed in passing."""
    cases = [
        (spaces.Discrete(300, start=-1), [0, 100], [True, True]),
        (spaces.MultiDiscrete([2, 300]), [[1, 100], [2, 3]], [True, False]),
        (spaces.MultiBinary(2), [[1, 0], [2, 0]], [True, False]),
    ]
    for space, action, expected in cases:
        with switched({"jax_enable_x64": wide}):
            given = jax.device_put(np.array(action, dtype))
            with switched(STRICT):
                found, fits = jax.jit(lambda action, space=space: to_env_actions(space, action, 2))(given)
        assert found.dtype == (space.dtype if wide or space.dtype.itemsize < 8 else np.int32)
        np.testing.assert_array_equal(found, action)
        np.testing.assert_array_equal(fits, expected)

"""How rows act inside JAX: what is recorded, what the environment gets, and how the two are distributed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from jaxrl import Algorithm, BadInput, OffPolicySettings, behaviour_policy
from jaxrl.algos.exploration import add_noise
from jaxrl.data.normalize import Moments, Normalizer
from jaxrl.ops.distributions import Deterministic
from jaxrl.runs.algorithms import find
from jaxrl.runs.behaviour import greedy_policy

ROWS = 20_000
OBS_SPACE = spaces.Box(-1, 1, (2,), np.float32)
BOX = spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([3.0, 10.0], np.float32))
OBS = jnp.tile(jnp.array([[0.3, -0.2]]), (ROWS, 1))


def acted(algo, space, **numbers):
    """Many actions at one observation, the policy that gave them, and the row."""
    row = find(algo)
    state = row.init(jax.random.key(0), row.config(hidden_sizes=(8, 8)), OBS_SPACE, space)

    @jax.jit
    def run(numbers):
        settings = dataclasses.replace(row.settings(), **numbers)
        both = behaviour_policy(row, state, settings=settings)(jax.random.key(1), OBS)
        return *both, greedy_policy(row, state)(OBS), row.act(state, OBS)

    return row, run


def test_ppo_samples_its_distribution():
    action, env_action, greedy, policy = map(jax.device_get, acted("ppo", spaces.Discrete(3, start=5))[1]({}))
    np.testing.assert_array_equal(action, env_action)
    wanted = np.exp(policy.logits[0]) / np.exp(policy.logits[0]).sum()
    np.testing.assert_allclose(np.bincount(action - 5, minlength=3) / ROWS, wanted, atol=0.015)  # Four deviations.
    assert (greedy == 5 + wanted.argmax()).all()


def test_noise_is_in_units_of_half_the_range_and_stays_within_it():
    _, run = acted("td3", BOX)
    action, env_action, mode, _ = map(np.asarray, run({"exploration_noise": 0.05}))
    np.testing.assert_array_equal(action, env_action)
    np.testing.assert_allclose((action - mode).std(0), 0.05 * np.array([2.0, 5.0]), rtol=0.03)
    np.testing.assert_allclose((action - mode).mean(0), 0, atol=0.01)
    loud = np.asarray(run({"exploration_noise": 2.0})[0])
    assert (loud >= BOX.low).all() and (loud <= BOX.high).all() and (loud == BOX.low).any() and (loud == BOX.high).any()


def test_sac_records_actions_in_the_environments_units():
    row, run = acted("sac", BOX)
    action, env_action, greedy, policy = map(jax.device_get, run({}))
    np.testing.assert_array_equal(action, env_action)
    assert (action > BOX.low).all() and (action < BOX.high).all() and action[:, 1].max() > 5
    host, _ = row.explore(policy, np.random.default_rng(0), row.settings(), None)
    np.testing.assert_allclose(action.mean(0), host.mean(0), atol=0.1)
    np.testing.assert_allclose(action.std(0), host.std(0), rtol=0.03)
    np.testing.assert_allclose(greedy, policy.to_env(policy.mode()), rtol=1e-5)


def test_observations_are_standardised_before_the_policy_sees_them():
    row = find("ppo")
    state = row.init(jax.random.key(0), row.config(hidden_sizes=(8,)), OBS_SPACE, spaces.Discrete(2))
    moments = Moments(jnp.array(9.0), jnp.array([1.0, -2.0]), jnp.array([4.0, 0.25]))
    normalizer = Normalizer(moments, None, jnp.zeros(3))
    raw, key = jnp.array([[3.0, -2.5], [1.0, -2.0], [0.0, 90.0]]), jax.random.key(3)
    seen = jnp.array([[1.0, -1.0], [0.0, 0.0], [-0.5, 10.0]])
    for policy in (behaviour_policy, greedy_policy):
        arguments = (key,) if policy is behaviour_policy else ()
        given, wanted = policy("ppo", state, normalizer)(*arguments, raw), policy("ppo", state)(*arguments, seen)
        np.testing.assert_array_equal(jax.tree.leaves(given)[0], jax.tree.leaves(wanted)[0])


def test_a_row_of_ones_own_needs_bounds_for_noise():
    row = Algorithm(
        "mine", object, OffPolicySettings, None, lambda state, obs: Deterministic(obs), None, (), "off_policy",
        explore=add_noise,
    )  # fmt: skip
    with pytest.raises(BadInput, match="the state of mine has no task with low and high"):
        behaviour_policy(row, object())

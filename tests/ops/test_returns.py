"""GAE and the TD target against sums written out from the papers, against rlax, and in cases whose answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from jaxrl import gae, td_target

T, N = 13, 4


def rollout(seed=0, ends=True):
    rng = np.random.default_rng(seed)
    terminated = (rng.random((T, N)) < 0.15) & ends
    truncated = (rng.random((T, N)) < 0.15) & ends  # Both at once happens too.
    return rng.normal(size=(T, N)), rng.normal(size=(T, N)), rng.normal(size=(T, N)), terminated, truncated


def gae_by_the_sum(reward, value, next_value, terminated, truncated, gamma, gae_lambda, valid=None):
    """Equation 16 of the paper as it stands: A_t = sum_l (gamma lambda)^l delta_{t+l}, up to the episode's end."""
    advantage = np.zeros((T, N))
    for n in range(N):
        steps = [t for t in range(T) if valid is None or valid[t, n]]
        for k, t in enumerate(steps):
            weight = 1.0
            for later in steps[k:]:
                bootstrap = 0.0 if terminated[later, n] else next_value[later, n]
                delta = reward[later, n] + gamma * bootstrap - value[later, n]
                advantage[t, n] += weight * delta
                weight *= gamma * gae_lambda
                if terminated[later, n] or truncated[later, n]:
                    break
    return advantage


def to_jax(arrays):
    return [jnp.asarray(x) if x.dtype == bool else jnp.asarray(x, float) for x in arrays]


@pytest.mark.parametrize("gamma, gae_lambda", [(0.99, 0.95), (0.9, 0.5), (1.0, 1.0), (0.98, 0.0), (0.0, 0.9)])
def test_gae_is_the_papers_sum(tolerance, gamma, gae_lambda):
    for seed in range(3):
        data = rollout(seed)
        expected = gae_by_the_sum(*data, gamma, gae_lambda)
        np.testing.assert_allclose(gae(*to_jax(data), gamma, gae_lambda), expected, rtol=tolerance, atol=tolerance)


def test_gae_agrees_with_rlax_where_rlax_can(tolerance):
    reward, value, _, terminated, _ = rollout(1)
    last = np.full((1, N), 0.7)
    values = np.concatenate([value, last])  # rlax knows no truncation: the successor's value is the next row's.
    ours = gae(*to_jax([reward, value, values[1:], terminated, np.zeros((T, N), bool)]), 0.97, 0.9)
    for n in range(N):
        column = [jnp.asarray(x, float) for x in (reward[:, n], 0.97 * (1 - terminated[:, n]), values[:, n])]
        theirs = rlax.truncated_generalized_advantage_estimation(column[0], column[1], 0.9, column[2])
        np.testing.assert_allclose(ours[:, n], theirs, rtol=tolerance, atol=tolerance)


def test_lambda_0_is_the_td_error(tolerance):
    reward, value, next_value, terminated, truncated = rollout(2)
    expected = reward + 0.9 * np.where(terminated, 0, next_value) - value
    result = gae(*to_jax([reward, value, next_value, terminated, truncated]), 0.9, 0.0)
    np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance)


def test_lambda_1_is_the_discounted_return_minus_the_value(tolerance):
    reward, value, _, terminated, truncated = rollout(3, ends=False)
    next_value = np.concatenate([value[1:], np.full((1, N), 2.0)])
    powers = 0.9 ** np.arange(T + 1)
    returns = np.array(
        [[np.dot(powers[: T - t], reward[t:, n]) + powers[T - t] * 2 for n in range(N)] for t in range(T)]
    )
    result = gae(*to_jax([reward, value, next_value, terminated, truncated]), 0.9, 1.0)
    np.testing.assert_allclose(result, returns - value, rtol=tolerance, atol=tolerance)


def test_the_two_ends_differ_by_the_bootstrap_and_nothing_flows_through_either(float64):
    reward, value, next_value, _, _ = to_jax(rollout(4))
    never = jnp.zeros((T, N), bool)
    here = never.at[5].set(True)
    cut, ended = (
        gae(reward, value, next_value, never, here, 0.9, 0.95),
        gae(reward, value, next_value, here, never, 0.9, 0.95),
    )
    np.testing.assert_allclose(cut[5] - ended[5], 0.9 * next_value[5], rtol=1e-12)
    for flags in ((never, here), (here, never)):
        changed = gae(reward.at[6:].add(100.0), value, next_value, *flags, 0.9, 0.95)
        np.testing.assert_array_equal(changed[:6], gae(reward, value, next_value, *flags, 0.9, 0.95)[:6])
        assert not np.allclose(changed[6:], gae(reward, value, next_value, *flags, 0.9, 0.95)[6:])


def test_rows_that_are_not_valid_are_as_if_not_there(tolerance):
    data = rollout(5)
    valid = np.random.default_rng(5).random((T, N)) < 0.7
    expected = gae_by_the_sum(*data, 0.95, 0.9, valid)
    reward = np.where(valid, data[0], np.nan)  # What stands there may be anything.
    result = gae(*to_jax([reward, *data[1:]]), 0.95, 0.9, jnp.asarray(valid))
    np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance)
    assert (np.asarray(result)[~valid] == 0).all()


def test_a_terminated_successor_may_be_anything(float64):
    target = td_target(jnp.array([1.0, 2.0]), jnp.array([jnp.nan, 3.0]), jnp.array([True, False]), 0.5)
    np.testing.assert_allclose(target, [1.0, 3.5])


def test_td_target_keeps_the_bootstrap_of_a_truncated_step(float64):
    reward, _, next_value, terminated, _ = to_jax(rollout(6))
    expected = [
        [r + 0.9 * (0 if d else v) for r, v, d in zip(*row, strict=True)]
        for row in zip(reward, next_value, terminated, strict=True)
    ]
    np.testing.assert_allclose(td_target(reward, next_value, terminated, 0.9), expected, rtol=1e-12)


@pytest.mark.parametrize("position, name", [(1, "value"), (2, "next_value"), (3, "terminated"), (4, "truncated")])
def test_a_wrong_shape_is_named(position, name):
    data = to_jax(rollout())
    data[position] = data[position][:, :1]
    with pytest.raises(AssertionError, match=name):
        jax.jit(gae)(*data, 0.9, 0.9)
    with pytest.raises(AssertionError, match="terminated"):
        td_target(data[0], data[0], jnp.zeros((T, 1), bool), 0.9)
    with pytest.raises(AssertionError, match="reward"):
        gae(*(x[:, 0] for x in to_jax(rollout())), 0.9, 0.9)

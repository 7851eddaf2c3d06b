"""Advantages and log-probabilities of whole sequences against plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.ops.sequences import leave_one_out, sequence_entropy, sequence_log_prob

GROUP = np.array([7, -2, 7, 0, 5, -2, 7, 5, 7, 3])  # Of 4, 2, 1, 2 and 1 rows, in no order.


def loop(reward, group, valid):
    """The paper's sum, row by row."""
    advantage = np.zeros(len(reward))
    for i in range(len(reward)):
        others = [reward[j] for j in range(len(reward)) if j != i and group[j] == group[i] and valid[j]]
        if valid[i] and others:
            advantage[i] = reward[i] - np.mean(others)
    return advantage


def test_advantages_are_those_of_a_plain_loop(tolerance):
    rng = np.random.default_rng(0)
    for _ in range(20):
        order, reward, valid = rng.permutation(10), rng.normal(size=10), rng.random(10) < 0.8
        expected = loop(reward[order], GROUP[order], valid[order])
        hidden = np.where(valid, reward, np.nan)[order]
        found = leave_one_out(hidden, GROUP[order], valid[order])
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def test_a_mean_that_includes_the_row_itself_would_be_noticed():
    """The negative control of the comparison above."""
    reward, group = np.arange(4.0), np.array([0, 0, 1, 1])
    including = reward - np.array([0.5, 0.5, 2.5, 2.5])
    assert np.abs(including - leave_one_out(reward, group)).max() > 0.4


def test_two_rows_are_compared_with_each_other():
    np.testing.assert_array_equal(leave_one_out(np.array([3, 1, 0, 5]), np.array([0, 1, 0, 1])), [3, -4, -3, 4])


def test_equal_rewards_and_constants_are_exactly_nothing():
    reward = np.full(10, 0.1, np.float32)
    np.testing.assert_array_equal(leave_one_out(reward, GROUP), np.zeros(10))
    whole = np.arange(10) % 3
    shifted = whole + np.where(GROUP == 7, 1000, np.where(GROUP == 5, -40, 0))
    np.testing.assert_array_equal(leave_one_out(shifted, GROUP), leave_one_out(whole, GROUP))


@pytest.mark.parametrize("name", ["group", "valid"])
def test_a_wrong_shape_is_named(name):
    others = {"group": np.zeros(3, int), "valid": np.ones(3, bool)}
    others[name] = others[name][:2]
    with pytest.raises(AssertionError, match=name):
        leave_one_out(np.zeros(3), **others)
    with pytest.raises(AssertionError, match="logits must be"):
        sequence_log_prob(jnp.zeros((2, 4, 3)), np.zeros((2, 5), int), np.ones((2, 5), bool))


def rows(seed=0, b=4, length=6, v=5):
    rng = np.random.default_rng(seed)
    mask = rng.random((b, length)) < 0.5
    mask[:, 0], mask[:, 3] = False, True
    return rng.normal(size=(b, length, v)), rng.integers(0, v, (b, length)), mask


def test_log_probabilities_and_entropies_are_those_of_a_plain_loop(tolerance):
    logits, tokens, mask = rows()
    for temperature in (1.0, 0.5):
        log_prob, entropy = np.zeros(4), np.zeros(4)
        for i in range(4):
            for t in range(1, 6):
                if mask[i, t]:
                    p = np.exp(logits[i, t - 1] / temperature)
                    p /= p.sum()
                    log_prob[i] += np.log(p[tokens[i, t]])
                    entropy[i] -= (p * np.log(p)).sum()
        found = sequence_log_prob(jnp.asarray(logits), tokens, mask, temperature)
        np.testing.assert_allclose(found, log_prob, rtol=tolerance)
        np.testing.assert_allclose(sequence_entropy(jnp.asarray(logits), mask, temperature), entropy, rtol=tolerance)


def test_logits_count_where_the_next_token_is_the_completions_and_nowhere_else():
    """The off-by-one: the last prompt token's logits count, the end token's own and those of padding do not."""
    logits, tokens, mask = rows()
    predicts = np.concatenate([mask[:, 1:], np.zeros((4, 1), bool)], 1)
    for function in (lambda x: sequence_log_prob(x, tokens, mask), lambda x: sequence_entropy(x, mask)):
        poisoned = jnp.asarray(np.where(predicts[..., None], logits, np.nan))
        np.testing.assert_array_equal(function(poisoned), function(jnp.asarray(logits)))
        grads = jax.grad(lambda x: function(x).sum())(poisoned)  # noqa: B023
        np.testing.assert_array_equal(np.abs(grads).max(-1) > 0, predicts)


def test_a_token_that_is_ruled_out_has_no_part_in_the_entropy():
    logits = jnp.array([[[0.0, 0.0, -jnp.inf], [0.0, 0.0, 0.0]]])
    mask = np.array([[False, True]])
    np.testing.assert_allclose(sequence_entropy(logits, mask), np.log(2), rtol=1e-6)
    assert np.isfinite(jax.grad(lambda x: sequence_log_prob(x, np.array([[0, 1]]), mask).sum())(logits)).all()


def test_a_networks_half_precision_ends_at_its_logits():
    logits, tokens, mask = rows(v=300)
    half = jnp.asarray(logits, jnp.bfloat16)
    found = sequence_log_prob(half, tokens, mask)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, sequence_log_prob(half.astype(jnp.float32), tokens, mask), rtol=1e-6)

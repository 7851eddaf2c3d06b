"""Surrogate, value loss, KL rule and weighted statistics against the papers' formulas in NumPy and against rlax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from jaxrl import adapt_kl_coef, clipped_surrogate
from jaxrl.ops.losses import clipped_value_loss, explained_variance, standardize, weighted_mean


def sample(seed=0, size=200):
    rng = np.random.default_rng(seed)
    return rng.normal(-1, 0.5, size), rng.normal(-1, 0.5, size), rng.normal(size=size)


def surrogate_case_by_case(log_prob, old_log_prob, advantage, clip_eps):
    """Equation 7, read as its figure 1: a good action gains up to 1 + eps, a bad one loses from 1 - eps on."""
    objective = []
    for new, old, a in zip(log_prob, old_log_prob, advantage, strict=True):
        ratio = np.exp(new - old)
        objective.append(a * (min(ratio, 1 + clip_eps) if a >= 0 else max(ratio, 1 - clip_eps)))
    return np.array(objective)


def test_clipped_surrogate_is_the_papers(tolerance):
    data = sample()
    expected = surrogate_case_by_case(*data, 0.2)
    result = clipped_surrogate(*map(jnp.asarray, data), 0.2)
    np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance)
    ratio = jnp.exp(jnp.asarray(data[0]) - jnp.asarray(data[1]))
    theirs = rlax.clipped_surrogate_pg_loss(ratio, jnp.asarray(data[2]), 0.2)
    np.testing.assert_allclose(-result.mean(), theirs, rtol=10 * tolerance)


def test_without_clipping_it_is_the_plain_ratio(tolerance):
    log_prob, old, advantage = sample(1)
    expected = np.exp(log_prob - old) * advantage
    for clip_eps in (None, 1e6):
        result = clipped_surrogate(*map(jnp.asarray, (log_prob, old, advantage)), clip_eps)
        np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "ratio, advantage, slope",
    [
        (1.0, 2.0, 2.0),
        (1.0, -2.0, -2.0),
        (1.1, 2.0, 2.2),
        (1.3, 2.0, 0.0),
        (1.3, -2.0, -2.6),
        (0.7, 2.0, 1.4),
        (0.7, -2.0, 0.0),
    ],
)
def test_gradient_through_ratio_and_clip(float64, ratio, advantage, slope):
    """d/dlogp of ratio * A is ratio * A where the clip does not bind, and 0 where it does."""
    gradient = jax.grad(lambda lp: clipped_surrogate(lp, jnp.zeros(()), jnp.asarray(advantage), 0.2))(jnp.log(ratio))
    np.testing.assert_allclose(gradient, slope, rtol=1e-12, atol=1e-12)


def test_value_loss(tolerance):
    rng = np.random.default_rng(2)
    value, old, returns = rng.normal(size=(3, 100))
    expected = [
        0.5 * max((v - r) ** 2, (o + np.clip(v - o, -0.3, 0.3) - r) ** 2)
        for v, o, r in zip(value, old, returns, strict=True)
    ]
    arrays = [jnp.asarray(x) for x in (value, old, returns)]
    np.testing.assert_allclose(clipped_value_loss(*arrays, 0.3), expected, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(
        clipped_value_loss(*arrays, None), 0.5 * (value - returns) ** 2, rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize(
    "kl, factor",
    [
        (0.0, 0.5),
        (0.0199, 0.5),
        (0.0201, 1.0),
        (0.03, 1.0),
        (0.0449, 1.0),
        (0.0451, 2.0),
        (5.0, 2.0),
        (np.nan, 1.0),
        (np.inf, 2.0),
    ],
)
def test_the_kl_rule_on_both_sides_of_both_thresholds(tolerance, kl, factor):
    np.testing.assert_allclose(adapt_kl_coef(jnp.asarray(0.8), jnp.asarray(kl), 0.03), 0.8 * factor, rtol=tolerance)


def test_weighted_statistics_equal_plain_ones_over_the_rows_that_count(tolerance):
    rng = np.random.default_rng(3)
    x, returns, keep = rng.normal(size=50), rng.normal(size=50), rng.random(50) < 0.6
    weight = jnp.asarray(keep, float)
    np.testing.assert_allclose(weighted_mean(jnp.asarray(x), weight), x[keep].mean(), rtol=tolerance)
    expected = (x[keep] - x[keep].mean()) / (x[keep].std() + 1e-8)
    np.testing.assert_allclose(np.asarray(standardize(jnp.asarray(x), weight))[keep], expected, rtol=10 * tolerance)
    variance = 1 - np.var(returns[keep] - x[keep]) / np.var(returns[keep])
    np.testing.assert_allclose(
        explained_variance(jnp.asarray(x), jnp.asarray(returns), weight), variance, rtol=10 * tolerance
    )
    assert weighted_mean(jnp.ones(3), jnp.zeros(3)) == 0


def test_explained_variance_of_a_perfect_a_constant_and_an_opposite_value(float64):
    returns = jnp.arange(5.0)
    assert explained_variance(returns, returns) == 1
    assert explained_variance(jnp.full(5, 7.0), returns) == 0
    np.testing.assert_allclose(explained_variance(-returns, returns), -3)
    assert jnp.isnan(explained_variance(returns, jnp.ones(5)))


def test_a_wrong_shape_is_named():
    good, column = jnp.zeros(3), jnp.zeros((3, 1))
    with pytest.raises(AssertionError, match="old_log_prob"):
        clipped_surrogate(good, column, good, 0.2)
    with pytest.raises(AssertionError, match="advantage"):
        clipped_surrogate(good, good, column, 0.2)
    with pytest.raises(AssertionError, match="returns"):
        clipped_value_loss(good, good, column, None)
    with pytest.raises(AssertionError, match="weight"):
        weighted_mean(good, column)

"""Both distributions against scipy, distrax and their own samples."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxrl import kl_divergence
from jaxrl.distributions import Categorical, DiagGaussian


def logits(seed, rows=6, k=4):
    return np.random.default_rng(seed).normal(size=(rows, k)) * 2


def gaussian(seed, rows=6, a=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, a)), rng.normal(size=(rows, a)) * 0.5


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def test_categorical_against_scipy(tolerance):
    p, q = softmax(logits(0)), softmax(logits(1))
    old, new = Categorical(jnp.asarray(logits(0)), 5), Categorical(jnp.asarray(logits(1)), 5)
    np.testing.assert_allclose(kl_divergence(old, new), stats.entropy(p, q, axis=-1), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(old.entropy(), stats.entropy(p, axis=-1), rtol=tolerance)
    action = np.array([5, 6, 7, 8, 5, 6])
    expected = [stats.rv_discrete(values=(np.arange(5, 9), row)).logpmf(a) for row, a in zip(p, action, strict=True)]
    np.testing.assert_allclose(old.log_prob(jnp.asarray(action)), expected, rtol=tolerance)
    np.testing.assert_array_equal(old.mode(), p.argmax(-1) + 5)


def test_gaussian_against_scipy(tolerance):
    (m, s), (n, t) = gaussian(0), gaussian(1)
    old, new = DiagGaussian(*map(jnp.asarray, (m, s))), DiagGaussian(*map(jnp.asarray, (n, t)))
    action = np.random.default_rng(2).normal(size=m.shape)
    np.testing.assert_allclose(
        old.log_prob(jnp.asarray(action)), stats.norm(m, np.exp(s)).logpdf(action).sum(-1), rtol=tolerance
    )
    np.testing.assert_allclose(old.entropy(), stats.norm(m, np.exp(s)).entropy().sum(-1), rtol=tolerance)
    np.testing.assert_array_equal(old.mode(), old.mean)
    # KL(p || q) as the integral that defines it, component by component.
    expected = np.zeros(len(m))
    for row in range(len(m)):
        for i in range(m.shape[1]):
            p, q = stats.norm(m[row, i], np.exp(s[row, i])), stats.norm(n[row, i], np.exp(t[row, i]))
            grid = m[row, i] + np.exp(s[row, i]) * np.linspace(-15, 15, 20_001)
            expected[row] += np.trapezoid(p.pdf(grid) * (p.logpdf(grid) - q.logpdf(grid)), grid)
    np.testing.assert_allclose(kl_divergence(old, new), expected, rtol=max(tolerance, 1e-9))


def test_both_against_distrax(tolerance):
    old, new = Categorical(jnp.asarray(logits(3))), Categorical(jnp.asarray(logits(4)))
    theirs = distrax.Categorical(logits=old.logits).kl_divergence(distrax.Categorical(logits=new.logits))
    np.testing.assert_allclose(kl_divergence(old, new), theirs, rtol=10 * tolerance, atol=tolerance)
    one, two = (DiagGaussian(*map(jnp.asarray, gaussian(seed))) for seed in (3, 4))
    a, b = (distrax.MultivariateNormalDiag(each.mean, jnp.exp(each.log_std)) for each in (one, two))
    np.testing.assert_allclose(kl_divergence(one, two), a.kl_divergence(b), rtol=10 * tolerance)
    np.testing.assert_allclose(one.log_prob(two.mean), a.log_prob(two.mean), rtol=10 * tolerance)


def test_kl_of_a_distribution_from_itself_is_0_and_has_no_slope(float64):
    for make, parameters in ((Categorical, [logits(5)]), (DiagGaussian, gaussian(5))):
        arrays = [jnp.asarray(x) for x in parameters]
        fixed = make(*arrays)
        np.testing.assert_allclose(kl_divergence(fixed, fixed), 0, atol=1e-15)
        slope = jax.grad(lambda xs, make=make, fixed=fixed: kl_divergence(fixed, make(*xs)).sum())(arrays)
        np.testing.assert_allclose(jnp.concatenate([g.ravel() for g in slope]), 0, atol=1e-12)


def test_a_small_gaussian_kl_keeps_its_digits_in_float32():
    mean, log_std = jnp.zeros((1, 1)), jnp.zeros((1, 1))
    kl = kl_divergence(DiagGaussian(mean, log_std), DiagGaussian(mean, log_std + 1e-3))
    np.testing.assert_allclose(kl, [0.5 * (np.exp(-2e-3) - 1) + 1e-3], rtol=1e-2)


def test_ruled_out_actions_give_no_nan(float64):
    masked, plain = Categorical(jnp.array([[0.0, -jnp.inf, 1.0]])), Categorical(jnp.array([[0.0, 1.0, 1.0]]))
    p = softmax(np.array([0.0, 1.0]))
    np.testing.assert_allclose(masked.entropy(), [stats.entropy(p)])
    assert jnp.isfinite(kl_divergence(masked, plain)).all()
    assert jnp.isposinf(kl_divergence(plain, masked)).all()
    assert jnp.isneginf(masked.log_prob(jnp.array([1]))).all()


def test_sampling_follows_the_probabilities_and_the_generator():
    p = np.array([0.1, 0.2, 0.3, 0.4])
    draws = Categorical(jnp.tile(jnp.log(p), (40_000, 1)), -1).sample(np.random.default_rng(0))
    assert stats.chisquare(np.bincount(draws + 1), 40_000 * p).pvalue > 1e-3
    policy = DiagGaussian(jnp.full((40_000, 2), 3.0), jnp.full((40_000, 2), np.log(0.5)))
    draws = policy.sample(np.random.default_rng(0))
    assert draws.dtype == np.float32
    assert stats.kstest(draws[:, 1], stats.norm(3, 0.5).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.02
    np.testing.assert_array_equal(draws, policy.sample(np.random.default_rng(0)))
    assert not np.array_equal(draws, policy.sample(np.random.default_rng(1)))


def test_an_action_that_is_none_has_no_probability():
    assert jnp.isneginf(Categorical(jnp.zeros((2, 3)), 1).log_prob(jnp.array([0, 4]))).all()


def test_two_kinds_do_not_mix():
    with pytest.raises(TypeError, match="Categorical and DiagGaussian"):
        kl_divergence(Categorical(jnp.zeros((1, 2))), DiagGaussian(jnp.zeros((1, 2)), jnp.zeros((1, 2))))
    with pytest.raises(AssertionError, match="action"):
        Categorical(jnp.zeros((3, 2))).log_prob(jnp.zeros((3, 1), int))
    with pytest.raises(AssertionError, match="action"):
        DiagGaussian(jnp.zeros((3, 2)), jnp.zeros((3, 2))).log_prob(jnp.zeros((3,)))

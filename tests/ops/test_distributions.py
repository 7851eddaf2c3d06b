"""The distributions against scipy, distrax, numerical integration and their own samples."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxrl import kl_divergence
from jaxrl.ops.distributions import Categorical, DiagGaussian, MultiCategorical, TanhGaussian


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


def several(seed, sizes=(3, 2, 4), rows=6):
    """Logits of components with different numbers of values, ruled out where a component has fewer."""
    padded = np.full((rows, len(sizes), max(sizes)), -np.inf)
    for i, size in enumerate(sizes):
        padded[:, i, :size] = logits(seed + i, rows, size)
    return padded


def test_several_categoricals_are_the_product_of_each(tolerance):
    starts = (0, -2, 5)
    old, new = (MultiCategorical(jnp.asarray(several(seed)), starts) for seed in (0, 10))
    parts = [
        (Categorical(jnp.asarray(several(0)[:, i, :n]), start), Categorical(jnp.asarray(several(10)[:, i, :n]), start))
        for i, (n, start) in enumerate(zip((3, 2, 4), starts, strict=True))
    ]
    action = np.array([[0, -2, 5], [2, -1, 8], [1, -1, 6], [1, -2, 7], [0, -1, 8], [2, -2, 5]])
    expected = sum(old.log_prob(jnp.asarray(action[:, i])) for i, (old, _) in enumerate(parts))
    np.testing.assert_allclose(old.log_prob(jnp.asarray(action)), expected, rtol=tolerance)
    np.testing.assert_allclose(old.entropy(), sum(old.entropy() for old, _ in parts), rtol=tolerance)
    divergence = sum(kl_divergence(*pair) for pair in parts)
    np.testing.assert_allclose(kl_divergence(old, new), divergence, rtol=10 * tolerance, atol=tolerance)
    np.testing.assert_array_equal(old.mode(), np.stack([old.mode() for old, _ in parts], -1))
    # All actions together have probability 1, and an action that a component does not have has none.
    every = np.stack(np.meshgrid(*(range(s, s + n) for n, s in zip((3, 2, 4), starts, strict=True))), -1).reshape(-1, 3)
    one = MultiCategorical(jnp.tile(old.logits[:1], (len(every), 1, 1)), starts)
    np.testing.assert_allclose(np.exp(one.log_prob(jnp.asarray(every))).sum(), 1, rtol=tolerance)
    assert jnp.isneginf(old.log_prob(jnp.asarray(action + np.array([0, 2, 0])))).all()


def test_several_categoricals_have_finite_slopes_and_sample_what_they_say(float64):
    fixed = MultiCategorical(jnp.asarray(several(0)), (0, 0, 0))

    def loss(x):
        policy = MultiCategorical(jnp.where(np.isfinite(several(0)), x, -jnp.inf), (0, 0, 0))
        return (policy.entropy() + policy.log_prob(jnp.zeros((6, 3), int)) + kl_divergence(fixed, policy)).sum()

    assert jnp.isfinite(jax.grad(loss)(jnp.ones((6, 3, 4)))).all()
    policy = MultiCategorical(np.tile(several(3, rows=1), (20_000, 1, 1)), (1, 0, 2))
    draws = policy.sample(np.random.default_rng(0)) - [1, 0, 2]
    for i, n in enumerate((3, 2, 4)):
        expected = softmax(several(3, rows=1)[0, i, :n])
        assert stats.chisquare(np.bincount(draws[:, i], minlength=n), 20_000 * expected).pvalue > 1e-3


LOW, HIGH = (-1.0, 0.5, -3.0), (1.0, 2.0, 7.0)


def squashed(seed, spread=0.0):
    mean, log_std = gaussian(seed)
    return TanhGaussian(jnp.asarray(mean), jnp.asarray(log_std + spread), LOW, HIGH)


def test_squashed_log_prob_is_the_density_of_what_the_environment_gets(float64):
    """Integrated over the bounds it is 1; against distrax it is equal; and kl, mode and sample are those of u."""
    policy = squashed(0)
    half = (np.array(HIGH) - np.array(LOW)) / 2
    base = distrax.MultivariateNormalDiag(policy.mean, jnp.exp(policy.log_std))
    theirs = distrax.Transformed(base, distrax.Block(distrax.Tanh(), 1))
    u = np.random.default_rng(1).normal(size=(6, 3))
    expected = theirs.log_prob(jnp.tanh(jnp.asarray(u))) - np.log(half).sum()
    np.testing.assert_allclose(policy.log_prob(jnp.asarray(u)), expected, rtol=1e-8)
    one = TanhGaussian(jnp.full((40_001, 1), 0.3), jnp.full((40_001, 1), -0.2), (0.5,), (2.0,))
    u = np.linspace(-12, 12, 40_001)[:, None]
    np.testing.assert_allclose(np.trapezoid(np.exp(one.log_prob(jnp.asarray(u))), one.to_env(u)[:, 0]), 1, rtol=1e-6)
    plain = DiagGaussian(policy.mean, policy.log_std)
    other = squashed(1)
    np.testing.assert_allclose(
        kl_divergence(policy, other), kl_divergence(plain, DiagGaussian(other.mean, other.log_std)), rtol=1e-12
    )
    np.testing.assert_array_equal(policy.sample(np.random.default_rng(0)), plain.sample(np.random.default_rng(0)))
    with pytest.raises(TypeError, match="TanhGaussian and DiagGaussian"):
        kl_divergence(policy, plain)


@pytest.mark.parametrize("size", [20.0, -20.0, 80.0])
def test_squashed_log_prob_is_finite_far_out(tolerance, size):
    dtype = jnp.float64 if tolerance < 1e-6 else jnp.float32
    policy = TanhGaussian(jnp.zeros((1, 3), dtype), jnp.zeros((1, 3), dtype), LOW, HIGH)
    u = jnp.full((1, 3), size, dtype)
    log_prob, slope = jax.value_and_grad(lambda u: policy.log_prob(u).sum())(u)
    # Far out the slope's logarithm is log 4 - 2 |u|.
    half = (np.array(HIGH) - np.array(LOW)) / 2
    expected = stats.norm.logpdf(size) * 3 - (np.log(half) + np.log(4) - 2 * abs(size)).sum()
    np.testing.assert_allclose(log_prob, expected, rtol=tolerance)
    assert jnp.isfinite(slope).all()
    action = policy.to_env(np.asarray(u))
    assert ((action >= LOW) & (action <= HIGH)).all()


def test_squashed_entropy_is_minus_the_mean_log_prob(float64):
    for spread, allowed in ((-1.0, 1e-4), (0.0, 2e-3), (1.0, 0.1)):
        policy = squashed(2, spread)
        grid = np.linspace(-14, 14, 20_001)
        expected = 0.0
        for i in range(3):
            mean, std = np.asarray(policy.mean)[:, i], np.exp(np.asarray(policy.log_std)[:, i])
            u = mean[:, None] + std[:, None] * grid
            one = TanhGaussian(
                jnp.asarray(mean[:, None, None]), jnp.log(std)[:, None, None], LOW[i : i + 1], HIGH[i : i + 1]
            )
            one = jax.tree.map(lambda x: jnp.broadcast_to(x, (6, 20_001, 1)), one)
            log_prob = np.asarray(one.log_prob(jnp.asarray(u[..., None])))
            expected = expected - np.trapezoid(stats.norm.pdf(grid) * log_prob, grid, axis=-1)
        np.testing.assert_allclose(policy.entropy(), expected, atol=allowed)


def test_squashed_actions_fill_the_bounds_and_stay_in_them():
    policy = TanhGaussian(np.zeros((20_000, 3), np.float32), np.full((20_000, 3), 1.0, np.float32), LOW, HIGH)
    actions = policy.to_env(policy.sample(np.random.default_rng(0)))
    assert actions.dtype == np.float32
    assert ((actions >= LOW) & (actions <= HIGH)).all()
    np.testing.assert_allclose(actions.min(0), LOW, atol=0.01)
    np.testing.assert_allclose(actions.max(0), HIGH, atol=0.01)
    unit = (actions - np.array(LOW)) / (np.array(HIGH) - np.array(LOW)) * 2 - 1
    for i in range(3):
        assert stats.kstest(np.arctanh(np.clip(unit[:, i], -1 + 1e-6, 1 - 1e-6)), stats.norm(0, np.e).cdf).pvalue > 1e-3

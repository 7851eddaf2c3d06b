"""The normaliser on the device against the host's, rollout by rollout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.data.normalize import moments_init, normalize_rollout, normalizer_init, observer
from jaxrl.data.normalize_on_device import (
    moments_update_on_device,
    normalize_rollout_on_device,
    normalizer_on_device,
    observer_on_device,
)
from jaxrl.data.transition import Transition

T, N, S, GAMMA = 16, 3, 2, 0.9


def rollouts(with_faults):
    """Raw rollouts as environments on the device give them, far from mean 0 and variance 1."""
    rng = np.random.default_rng(0)
    for _ in range(6):
        obs = (rng.normal(size=(T, N, S)) * [3.0, 0.01] + [5.0, -100.0]).astype(np.float32)
        reward = rng.normal(size=(T, N)).astype(np.float32) * 7 + 2
        terminated, truncated = rng.random((2, T, N)) < 0.1
        valid = np.ones((T, N), bool)
        if with_faults:
            valid = rng.random((T, N)) > 0.15
            terminated, truncated, reward = terminated & valid, truncated & valid, np.where(valid, reward, 0)
            truncated[:-1] |= ~valid[1:] & valid[:-1] & ~terminated[:-1]  # The row before a fault.
            obs[~valid] = np.nan
        yield Transition(obs, obs[..., :1], reward, obs + 1, terminated, truncated, valid)


run = jax.jit(normalize_rollout_on_device)


@pytest.mark.parametrize("with_faults", [False, True])
def test_it_is_the_hosts_to_rounding(with_faults, tolerance):
    host = normalizer_init(S, N, True, True)
    device = normalizer_on_device(host)
    for raw in rollouts(with_faults):
        host.discounted[~raw.valid[0]] = 0.0  # As the loop on the host does where a rollout begins with a fault.
        host, wanted = normalize_rollout(host, raw, GAMMA)
        device, given = run(device, Transition(*map(jnp.asarray, raw)), GAMMA)
        for ours, theirs in zip(jax.tree.leaves(device), jax.tree.leaves(host), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=10 * tolerance, atol=10 * tolerance)
        # Standardising -100 +- 0.01 in float32 leaves two digits, on the host as here.
        np.testing.assert_allclose(given.obs[..., 0], wanted.obs[..., 0], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(given.reward, wanted.reward, rtol=1e-4, atol=1e-4)
        assert given.reward.dtype == jnp.float32 and (given.valid == raw.valid).all()


def test_what_is_not_finite_leaves_the_statistics_alone():
    device = normalizer_on_device(normalizer_init(S, N, True, True))
    first, second, *_ = rollouts(False)
    device, _ = run(device, first, GAMMA)
    second.obs[3, 1, 0] = np.inf
    after, _ = run(device, second, GAMMA)
    for name in ("obs", "returns"):
        for new, old in zip(getattr(after, name), getattr(device, name), strict=True):
            np.testing.assert_array_equal(new, old)
    assert (after.discounted == 0).all() and (device.discounted != 0).any()


def test_a_large_mean_and_many_rows_do_not_cost_the_variance():
    """In float32, a mean of squares minus the square of a mean would be off by more than the variance itself."""
    rng = np.random.default_rng(1)
    moments = normalizer_on_device(moments_init((1,)))
    update = jax.jit(moments_update_on_device)
    for _ in range(50):
        rows = (1000 + rng.normal(size=(4096, 1))).astype(np.float32)
        moments = update(moments, rows, jnp.ones(4096))
    assert moments.seen == 50 * 4096
    np.testing.assert_allclose(moments.var, 1, rtol=0.02)
    np.testing.assert_allclose(moments.mean, 1000, rtol=1e-5)


def test_off_is_the_identity():
    device = normalizer_on_device(normalizer_init(S, N, False, False))
    raw = next(rollouts(False))
    after, given = normalize_rollout_on_device(device, Transition(*map(jnp.asarray, raw)), GAMMA)
    for ours, theirs in zip(given, raw, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert after.obs is None and after.returns is None
    obs = np.ones((2, S), np.float32)
    np.testing.assert_array_equal(observer_on_device(None)(obs), observer(normalizer_init(S, N, False, False))(obs))

"""Running moments against NumPy over everything seen, and what a rollout becomes."""

import numpy as np
import pytest

from jaxrl import Transition
from jaxrl.data.normalize import moments_init, moments_update, normalize_rollout, normalizer_init, observer

T, N, S = 6, 3, 2


def rollout(seed, masked=False):
    rng = np.random.default_rng(seed)
    shape = (T, N)
    return Transition(
        (rng.normal(size=(*shape, S)) * [1, 50] + [0, 1000]).astype(np.float32),
        np.zeros(shape),
        rng.normal(size=shape).astype(np.float32) * 7,
        (rng.normal(size=(*shape, S)) * [1, 50] + [0, 1000]).astype(np.float32),
        rng.random(shape) < 0.15,
        rng.random(shape) < 0.15,
        rng.random(shape) < 0.8 if masked else None,
    )


def test_moments_are_numpys_over_everything_seen():
    rng = np.random.default_rng(0)
    batches = [rng.normal(1e6, 3.0, (size, 4)) for size in (1, 7, 0, 500, 2)]
    moments = moments_init((4,))
    for batch in batches:
        moments = moments_update(moments, batch)
    everything = np.concatenate(batches)
    np.testing.assert_allclose(moments.mean, everything.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.var, everything.var(0), rtol=1e-6)
    assert moments.seen == 510


@pytest.mark.parametrize("masked", [False, True])
def test_observations_count_once_each_and_are_seen_as_the_policy_saw_them(masked):
    normalizer = normalizer_init(S, N, True, False)
    rollouts = [rollout(seed, masked) for seed in range(3)]
    for data in rollouts:
        before = observer(normalizer)
        normalizer, seen = normalize_rollout(normalizer, data, 0.99)
        np.testing.assert_array_equal(seen.obs, before(data.obs))
        np.testing.assert_array_equal(seen.next_obs, before(data.next_obs))
        np.testing.assert_array_equal(seen.reward, data.reward)
    acted_on = np.concatenate([r.obs[r.valid] if masked else r.obs.reshape(-1, S) for r in rollouts]).astype(np.float64)
    np.testing.assert_allclose(normalizer.obs.mean, acted_on.mean(0), rtol=1e-10)
    np.testing.assert_allclose(normalizer.obs.var, acted_on.var(0), rtol=1e-8)
    standardized = observer(normalizer)(acted_on.astype(np.float32))
    np.testing.assert_allclose(standardized.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(standardized.std(0), 1, atol=1e-3)
    assert observer(normalizer)(np.full((1, S), 1e9, np.float32)).max() == 10


@pytest.mark.parametrize("masked", [False, True])
def test_reward_scale_is_the_spread_of_the_discounted_return_and_forgets_at_either_end(masked):
    normalizer = normalizer_init(S, N, False, True)
    rollouts = [rollout(seed, masked) for seed in range(3)]
    returns, running = [], np.zeros(N)
    for data in rollouts:
        normalizer, seen = normalize_rollout(normalizer, data, 0.9)
        for t in range(T):
            for n in range(N):
                if masked and not data.valid[t, n]:
                    continue
                running[n] = data.reward[t, n] + 0.9 * running[n]
                returns.append(running[n])
                if data.terminated[t, n] or data.truncated[t, n]:
                    running[n] = 0
        scale = np.sqrt(np.var(returns) + 1e-8)
        np.testing.assert_allclose(seen.reward, np.clip(data.reward / scale, -10, 10), rtol=1e-5)
        np.testing.assert_array_equal(seen.obs, data.obs)
    np.testing.assert_allclose(normalizer.discounted, running, rtol=1e-6)


def test_off_means_untouched():
    data = rollout(0)
    normalizer, seen = normalize_rollout(normalizer_init(S, N, False, False), data, 0.9)
    assert normalizer.obs is None and normalizer.returns is None
    for a, b in zip(seen, data, strict=True):
        assert a is b


@pytest.mark.parametrize("field", ["obs", "reward"])
def test_what_is_not_finite_leaves_the_statistics_alone(field):
    normalizer, _ = normalize_rollout(normalizer_init(S, N, True, True), rollout(0), 0.9)
    spoilt = rollout(1)
    getattr(spoilt, field)[2, 1] = np.nan
    after, seen = normalize_rollout(normalizer, spoilt, 0.9)
    for name in ("obs", "returns"):
        for a, b in zip(getattr(after, name), getattr(normalizer, name), strict=True):
            np.testing.assert_array_equal(a, b)
    assert np.isnan(getattr(seen, field)).any(), "the update must see it, and reject the rollout"
    healed, _ = normalize_rollout(after, rollout(2), 0.9)
    assert np.isfinite(np.concatenate([healed.obs.mean, healed.discounted, [healed.returns.var]])).all()

"""The JAX half of `jaxrl.data.normalize`: the same statistics, frozen and taken in at the same times, inside a program.

A Normalizer of JAX arrays is one of the host's in JAX's default floating type, usually float32. Numbers differ from the
host's by rounding alone.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxrl.data.normalize import CLIP, EPSILON, Moments, Normalizer
from jaxrl.data.transition import Transition


def normalizer_on_device(normalizer: Normalizer) -> Normalizer:
    """The same statistics as JAX arrays, in JAX's default floating type."""
    return jax.tree.map(lambda x: jnp.asarray(x, float), normalizer)


def observer_on_device(normalizer: Normalizer | None) -> Callable[[Array], Array]:
    """The function from raw observations `(..., S)` to those the networks see, under frozen statistics.

    `clip((obs - mean) / sqrt(var + 1e-8), -10, 10)`; the identity where observations are not normalised.
    """
    if normalizer is None or normalizer.obs is None:
        return lambda obs: obs
    mean, scale = jnp.asarray(normalizer.obs.mean), 1 / jnp.sqrt(normalizer.obs.var + EPSILON)

    def standardized(obs: Array) -> Array:
        centre, by = (jnp.expand_dims(each.astype(obs.dtype), range(obs.ndim - 1)) for each in (mean, scale))
        return jnp.clip((obs - centre) * by, -CLIP, CLIP)

    return standardized


def moments_update_on_device(moments: Moments, x: Array, weight: Array) -> Moments:
    """Takes in rows, as `moments_update` does.

    With `s = B / (n + B)`: `mean = m + s (m_x - m)`, `var = v + s (v_x - v + (1 - s) (m_x - m)^2)`. So written, no
    large numbers are subtracted from each other.

    Args:
      moments: of JAX arrays.
      x: `(..., *shape)`.
      weight: `(...)`, 1 for a row that counts and 0 for another, whose numbers do not matter.

    Returns:
      The new moments; the same where no row counts.
    """
    x = x.astype(moments.mean.dtype)
    rows = weight.reshape(-1, *(1,) * moments.mean.ndim)
    x = jnp.where(rows > 0, x.reshape(-1, *moments.mean.shape), 0)
    count = rows.sum()
    mean = x.sum(0) / jnp.maximum(count, 1)
    var = (rows * jnp.square(x - mean[None])).sum(0) / jnp.maximum(count, 1)
    seen = moments.seen + count
    share, shift = count / jnp.maximum(seen, 1), mean - moments.mean
    new_var = moments.var + share * (var - moments.var + (1 - share) * jnp.square(shift))
    return Moments(seen, moments.mean + share * shift, new_var)


def normalize_rollout_on_device(
    normalizer: Normalizer, rollout: Transition, gamma: Any
) -> tuple[Normalizer, Transition]:
    """The rollout that the update gets, from a raw one, and the normaliser after it, as `normalize_rollout` says.

    A row that is not valid ends the discounted return: it comes from a fault, or follows an episode's end.

    Args:
      normalizer: as it was while the rollout was collected; from `normalizer_on_device` or the last call.
      rollout: raw, leading axes `(T, N)`.
      gamma: the agent's discount.

    Returns:
      The next normaliser, and the rollout for the update.
    """
    see = observer_on_device(normalizer)
    seen = rollout._replace(obs=see(rollout.obs), next_obs=see(rollout.next_obs))
    reward = rollout.reward
    valid = jnp.ones(reward.shape, bool) if rollout.valid is None else rollout.valid
    old: Any = normalizer
    if old.obs is not None:
        weight = valid.astype(old.obs.mean.dtype)
        normalizer = normalizer._replace(obs=moments_update_on_device(old.obs, rollout.obs, weight))
    if old.returns is not None:
        going = valid & ~(rollout.terminated | rollout.truncated)

        def step(discounted: Array, row: tuple[Array, Array, Array]) -> tuple[Array, Array]:
            reward_t, valid_t, going_t = row
            returned = jnp.where(valid_t, reward_t + gamma * discounted, 0)
            return jnp.where(going_t, returned, 0), returned

        discounted, returns = jax.lax.scan(step, old.discounted, (reward.astype(old.discounted.dtype), valid, going))
        moments = moments_update_on_device(old.returns, returns, valid.astype(returns.dtype))
        normalizer = normalizer._replace(returns=moments, discounted=discounted)
    # A number that is not finite leaves the statistics as they were: they would never recover.
    obs_finite = jnp.isfinite(rollout.obs).all(-1)
    finite = jnp.where(valid, obs_finite & jnp.isfinite(reward), True).all()
    untouched = old._replace(discounted=jnp.zeros_like(old.discounted))
    normalizer = jax.tree.map(lambda new, before: jnp.where(finite, new, before), normalizer, untouched)
    if normalizer.returns is not None:
        scaled = reward / jnp.sqrt(normalizer.returns.var + EPSILON)
        scaled = jnp.where(finite, jnp.clip(scaled, -CLIP, CLIP), reward)
        seen = seen._replace(reward=scaled.astype(reward.dtype))
    return normalizer, seen

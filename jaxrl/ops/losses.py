"""The terms of PPO's objective and its statistics: surrogate, value loss, the KL coefficient's rule, weighted means.

Each is a program of its own where it is called eagerly, so that its constants are no transfers to the device. Inside
another program it is as if it was written there.
"""

import chex
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxrl.device import compiled


@compiled
def clipped_surrogate(log_prob: Array, old_log_prob: Array, advantage: Array, clip_eps: ArrayLike | None) -> Array:
    """PPO's pessimistic surrogate objective, per sample, to be maximised.

    `ratio = exp(log_prob - old_log_prob)`
    `min(ratio * A, clip(ratio, 1 - eps, 1 + eps) * A)`; without clipping, `ratio * A`.

    Args:
      log_prob, old_log_prob: log-probabilities (nats) of the taken actions under the new and the old policy; any shape.
      advantage: shaped like `log_prob`.
      clip_eps: half-width of the trusted band around ratio 1; None for no clipping.

    Returns:
      The objective of each sample, shaped like `log_prob`.

    Raises:
      AssertionError: shapes differ; the message names the argument.

    Example, of an action twice as probable as before, good and bad:
      >>> import numpy as np
      >>> new, old = np.log(np.float32([0.5, 0.5])), np.log(np.float32([0.25, 0.25]))
      >>> clipped_surrogate(new, old, np.float32([1, -1]), clip_eps=0.25).round(3).tolist()
      [1.25, -2.0]

    Source: Schulman et al. 2017 (arXiv 1707.06347), equations 6 and 7.
    """
    for name, argument in {"old_log_prob": old_log_prob, "advantage": advantage}.items():
        chex.assert_shape(argument, jnp.shape(log_prob), custom_message=f"{name} must be shaped like log_prob")
    ratio = jnp.exp(log_prob - old_log_prob)
    if clip_eps is None:
        return ratio * advantage
    return jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip_eps, 1 + clip_eps) * advantage)


@compiled
def clipped_value_loss(value: Array, old_value: Array, returns: Array, value_clip_eps: ArrayLike | None) -> Array:
    """Half the squared error of a value, per sample, to be minimised; pessimistic where the value moved far.

    `0.5 * max((V - R)^2, (V_old + clip(V - V_old, -eps, eps) - R)^2)`; without clipping, `0.5 * (V - R)^2`.

    Args:
      value, old_value: values now and before the update; any shape.
      returns: what the values regress on, shaped like `value`.
      value_clip_eps: how far a value may move and still gain, in the units of the return; None for no clipping.

    Returns:
      The loss of each sample, shaped like `value`.

    Raises:
      AssertionError: shapes differ; the message names the argument.

    Source: Schulman et al. 2017 (arXiv 1707.06347), equation 9; the clipped form is of the same authors' code.
    """
    for name, argument in {"old_value": old_value, "returns": returns}.items():
        chex.assert_shape(argument, jnp.shape(value), custom_message=f"{name} must be shaped like value")
    error = jnp.square(value - returns)
    if value_clip_eps is not None:
        near = old_value + jnp.clip(value - old_value, -jnp.asarray(value_clip_eps), value_clip_eps)
        error = jnp.maximum(error, jnp.square(near - returns))
    return 0.5 * error


@compiled
def adapt_kl_coef(kl_coef: Array, kl: Array, kl_target: ArrayLike) -> Array:
    """The KL penalty's coefficient for the next update.

    Halved if `kl < kl_target / 1.5`, doubled if `kl > kl_target * 1.5`, else kept; a NaN `kl` keeps it.

    Args:
      kl_coef: coefficient of the update that just ended.
      kl: mean KL divergence (nats) that it led to.
      kl_target: the KL divergence (nats) that an update should cause.

    Returns:
      The coefficient to use from the next update on.

    Example:
      >>> [float(adapt_kl_coef(1.0, kl, kl_target=0.01)) for kl in (0.001, 0.011, 0.1)]
      [0.5, 1.0, 2.0]

    Source: Schulman et al. 2017 (arXiv 1707.06347), section 4.
    """
    return kl_coef * jnp.where(kl < kl_target / 1.5, 0.5, jnp.where(kl > kl_target * 1.5, 2.0, 1.0))


@compiled
def weighted_mean(x: Array, weight: Array) -> Array:
    """`sum(w * x) / sum(w)` over all axes; 0 where every weight is 0. `weight` is shaped like `x`."""
    chex.assert_shape(weight, jnp.shape(x), custom_message="weight must be shaped like x")
    total = weight.sum()
    return (weight * x).sum() / jnp.where(total > 0, total, 1)


@compiled
def standardize(x: Array, weight: Array) -> Array:
    """`(x - mean) / (std + 1e-8)` with the weighted mean and the weighted population standard deviation."""
    centred = x - weighted_mean(x, weight)
    return centred / (jnp.sqrt(weighted_mean(jnp.square(centred), weight)) + 1e-8)


@compiled
def explained_variance(value: Array, returns: Array, weight: Array | None = None) -> Array:
    """Share of the returns' variance that the values explain: 1 is perfect, 0 no better than a constant.

    `1 - Var[R - V] / Var[R]`; NaN where the returns do not vary.

    Args:
      value, returns: any shape, equal.
      weight: shaped like `value`, or None for equal weights.

    Returns:
      A scalar, at most 1.
    """
    weight = jnp.ones_like(value) if weight is None else weight

    def variance(x: Array) -> Array:
        return weighted_mean(jnp.square(x - weighted_mean(x, weight)), weight)

    spread = variance(returns)
    return jnp.where(spread > 0, 1 - variance(returns - value) / jnp.where(spread > 0, spread, 1), jnp.nan)

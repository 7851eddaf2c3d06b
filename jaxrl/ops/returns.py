"""Targets for values: the one-step target and generalised advantage estimation. Both keep the two episode ends apart:
`terminated` cuts the bootstrap, and either flag cuts the recursion over time.

Each is a program of its own where it is called eagerly, so that its constants are no transfers to the device. Inside
another program it is as if it was written there.
"""

import chex
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from jaxrl.device import compiled


@compiled
def td_target(reward: Array, next_value: Array, terminated: Array, gamma: ArrayLike) -> Array:
    """The one-step return that a value regresses on.

    `y = r + gamma * (1 - terminated) * V(s')`; a truncated step keeps its bootstrap.

    Args:
      reward: any shape.
      next_value: value of the true successor, shaped like `reward`. Ignored, NaN included, where `terminated`.
      terminated: boolean (or 0 and 1), shaped like `reward`.
      gamma: discount in [0, 1].

    Returns:
      The targets, shaped like `reward`.

    Raises:
      AssertionError: shapes differ; the message names the argument.

    Example, of two steps of which the second ended its episode:
      >>> import numpy as np
      >>> reward, next_value = np.float32([1, 1]), np.float32([4, 4])
      >>> td_target(reward, next_value, np.array([False, True]), gamma=0.5).tolist()
      [3.0, 1.0]

    Source: Lillicrap et al. 2016 (arXiv 1509.02971), algorithm 1; Pardo et al. 2018 (arXiv 1712.00378) for time limits.
    """
    for name, argument in {"next_value": next_value, "terminated": terminated}.items():
        chex.assert_shape(argument, jnp.shape(reward), custom_message=f"{name} must be shaped like reward")
    return reward + gamma * jnp.where(jnp.asarray(terminated, bool), 0.0, next_value)


@compiled
def gae(
    reward: Array,
    value: Array,
    next_value: Array,
    terminated: Array,
    truncated: Array,
    gamma: ArrayLike,
    gae_lambda: ArrayLike,
    valid: Array | None = None,
) -> Array:
    """Generalised advantage estimation over a rollout, time first.

    `delta_t = r_t + gamma * (1 - terminated_t) * V(s'_t) - V(s_t)`
    `A_t = delta_t + gamma * lambda * (1 - (terminated_t or truncated_t)) * A_{t+1}`, with `A_T = 0`.

    Args:
      reward, value, next_value: `(T, N)`; `next_value[t]` is the value of the true successor of step t, which differs
        from `value[t + 1]` at an episode's end.
      terminated, truncated: `(T, N)`, boolean (or 0 and 1).
      gamma: discount in [0, 1].
      gae_lambda: lambda in [0, 1]: 0 gives the TD error, 1 the discounted return minus the value.
      valid: `(T, N)`, boolean (or 0 and 1), or None. The sum runs over a row that is not valid as if it were not there;
        the advantage at such a row is 0.

    Returns:
      Advantages, `(T, N)`. `advantage + value` is the lambda-return that the critic regresses on.

    Raises:
      AssertionError: a shape differs from that of `reward`, or it is not `(T, N)`; the message names the argument.

    Example, of one environment whose first step was the last one of a time limit, and whose second step terminated:
      >>> import numpy as np
      >>> reward, value, next_value = np.float32([[1], [1]]), np.float32([[0], [0]]), np.float32([[8], [2]])
      >>> terminated, truncated = np.array([[False], [True]]), np.array([[True], [False]])
      >>> gae(reward, value, next_value, terminated, truncated, gamma=0.5, gae_lambda=0.5).tolist()
      [[5.0], [1.0]]

    Source: Schulman et al. 2016 (arXiv 1506.02438), equation 16.
    """
    chex.assert_rank(reward, 2, custom_message="reward must be (T, N)")
    others = {"value": value, "next_value": next_value, "terminated": terminated, "truncated": truncated}
    for name, argument in others.items() if valid is None else [*others.items(), ("valid", valid)]:
        chex.assert_shape(argument, jnp.shape(reward), custom_message=f"{name} must be shaped like reward")
    terminated, truncated = (jnp.asarray(flag, bool) for flag in (terminated, truncated))
    delta = td_target(reward, next_value, terminated, gamma) - value
    decay = jnp.where(terminated | truncated, 0.0, gamma * gae_lambda).astype(delta.dtype)
    if valid is not None:  # advantage_t = 0 + 1 * advantage_{t+1}: the row hands on what follows it.
        valid = jnp.asarray(valid, bool)
        delta, decay = jnp.where(valid, delta, 0.0), jnp.where(valid, decay, 1.0)

    def step(advantage: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        delta_t, decay_t = row
        advantage = delta_t + decay_t * advantage
        return advantage, advantage

    _, advantages = jax.lax.scan(step, jnp.zeros_like(delta[0]), (delta, decay), reverse=True)
    return advantages if valid is None else jnp.where(valid, advantages, 0.0)

"""Running mean and variance, and what PPO does with them: observations standardised, rewards scaled. NumPy only; all of
it is a pytree, so a checkpoint stores it like any other state.

Statistics stay as they are while a rollout is collected and take it in once, afterwards. So the policy that acted is
the policy that the update recomputes, and each observation that was acted upon counts once, however it came about.

Rounding to zero or to infinity is as harmless here as elsewhere, so that `np.seterr` of a user's does not act here.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxrl.data.transition import Transition

CLIP = 10.0  # Standardised observations and scaled rewards are kept within plus and minus this.
EPSILON = 1e-8


class Moments(NamedTuple):
    """Number, mean and population variance of the vectors seen so far, in float64."""

    seen: np.ndarray
    mean: np.ndarray
    var: np.ndarray


class Normalizer(NamedTuple):
    """The statistics of a normaliser: `obs` and `returns` are None where it is off.

    Attributes:
      obs: moments of the raw observations, `(S,)`.
      returns: moments of the discounted return, `()`.
      discounted: `(N,)`, each environment's discounted return up to now.
    """

    obs: Moments | None
    returns: Moments | None
    discounted: np.ndarray


def moments_init(shape: tuple[int, ...]) -> Moments:
    """Moments of nothing: mean 0 and variance 1, so that standardising with them changes nothing."""
    return Moments(np.zeros(()), np.zeros(shape), np.ones(shape))


@np.errstate(all="ignore")
def moments_update(moments: Moments, x: np.ndarray) -> Moments:
    """Takes in the rows of `x`, `(B, *shape)`, each once.

    `mean = (n m + B m_x) / (n + B)`, `var = (n v + B v_x + n B / (n + B) (m_x - m)^2) / (n + B)`

    Source: Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance", equation 2.1.
    """
    if len(x) == 0:
        return moments
    x = np.asarray(x, np.float64)
    n, b = moments.seen, len(x)
    shift = x.mean(0) - moments.mean
    mean = moments.mean + shift * (b / (n + b))
    var = (n * moments.var + b * x.var(0) + np.square(shift) * (n * b / (n + b))) / (n + b)
    return Moments(n + b, mean, var)


def normalizer_init(obs_dim: int, num_envs: int, normalize_obs: bool, normalize_reward: bool) -> Normalizer:
    """A normaliser that has seen nothing yet, for `num_envs` environments with observations of `obs_dim` numbers."""
    return Normalizer(
        moments_init((obs_dim,)) if normalize_obs else None,
        moments_init(()) if normalize_reward else None,
        np.zeros(num_envs),
    )


@np.errstate(all="ignore")
def observer(normalizer: Normalizer) -> Callable[[np.ndarray], np.ndarray]:
    """The function from raw observations `(..., S)` to those the networks see, float32, under frozen statistics.

    `clip((obs - mean) / sqrt(var + 1e-8), -10, 10)`; the identity where observations are not normalised.
    """
    if normalizer.obs is None:
        return lambda obs: obs
    mean = normalizer.obs.mean.astype(np.float32)
    scale = (1 / np.sqrt(normalizer.obs.var + EPSILON)).astype(np.float32)

    @np.errstate(all="ignore")
    def standardized(obs: np.ndarray) -> np.ndarray:
        return np.minimum(np.maximum((obs - mean) * scale, -CLIP), CLIP)

    return standardized


@np.errstate(all="ignore")
def normalize_rollout(normalizer: Normalizer, rollout: Transition, gamma: float) -> tuple[Normalizer, Transition]:
    """The rollout that the update gets, from a raw one, and the normaliser that has taken it in.

    Observations are standardised with the statistics from before the rollout, as the policy saw them. Rewards are
    divided by the standard deviation of the discounted return `G_t = r_t + gamma G_{t-1}`, this rollout's included;
    it forgets the past after either kind of episode end. A rollout that holds anything not finite leaves the statistics
    as they were: the update will reject it, and they would never recover.

    Args:
      normalizer: as it was while the rollout was collected.
      rollout: raw, NumPy, leading axes `(T, N)`. It is not written to.
      gamma: the agent's discount.

    Returns:
      The next normaliser, and the rollout for the update.
    """
    see = observer(normalizer)
    valid = np.ones(rollout.reward.shape, bool) if rollout.valid is None else rollout.valid
    seen = rollout._replace(obs=see(rollout.obs), next_obs=see(rollout.next_obs))
    obs_moments, return_moments, discounted = normalizer
    if not (np.isfinite(rollout.obs[valid]).all() and np.isfinite(rollout.reward[valid]).all()):
        return normalizer._replace(discounted=np.zeros_like(discounted)), seen
    if obs_moments is not None:
        obs_moments = moments_update(obs_moments, rollout.obs[valid])
    if return_moments is not None:
        returns = np.empty(rollout.reward.shape)
        end = rollout.terminated | rollout.truncated
        for t in range(len(returns)):
            returns[t] = np.where(valid[t], rollout.reward[t] + gamma * discounted, discounted)
            discounted = np.where(end[t] & valid[t], 0.0, returns[t])
        return_moments = moments_update(return_moments, returns[valid])
        reward = rollout.reward / np.sqrt(return_moments.var + EPSILON)
        seen = seen._replace(reward=np.clip(reward, -CLIP, CLIP).astype(np.float32))
    return Normalizer(obs_moments, return_moments, discounted), seen

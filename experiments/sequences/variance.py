"""The variance of three estimates of the policy gradient on the same completions, and the variance that a rough sum
predicts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.data.completions import Completions
from jaxrl.ops.sequences import sequence_log_prob

ESTIMATES = "no baseline", "batch mean", "leave one out"


class Spread(NamedTuple):
    """One estimate from K completions of one prompt; that from many prompts varies as much, divided by their number.

    Attributes:
      completions: K.
      estimate: one of `ESTIMATES`.
      measured: the trace of its covariance, in units of the mean squared norm of `grad log pi(y)`.
      error: the standard error of `measured` over prompts.
      sampled: the part of it that comes from the completions, the prompt given. The rest are differences between the
        gradients of prompts, which no baseline and no number of completions takes away.
      predicted: `sampled`, to first order: if that norm had nothing to do with the reward.
    """

    completions: int
    estimate: str
    measured: float
    error: float
    sampled: float
    predicted: float


def moments(reward: np.ndarray) -> tuple[float, float, float]:
    """Of rewards `(P, N)`, N of each prompt: their variance within prompts, that between the prompts' means, and the
    square of the mean; without bias but for the last."""
    within = reward.var(axis=1, ddof=1).mean()
    between = reward.mean(1).var(ddof=1) - within / reward.shape[1]
    return float(within), float(between), float(reward.mean() ** 2)


def predicted(estimate: str, count: int, within: float, between: float, squared_mean: float) -> float:
    """`s2 / (K - 1)` with the mean of the others, `(s2 + t2) / K` with that of the batch, and `(s2 + t2 + m2) / K`
    without a baseline, where s2 is the variance within prompts, t2 that between them and m2 the squared mean."""
    if estimate == "leave one out":
        return within / (count - 1)
    return (within + between + (squared_mean if estimate == "no baseline" else 0)) / count


def advantages(estimate: str, reward: np.ndarray, mean: float) -> np.ndarray:
    """The factor of each completion's `grad log pi(y)`; `reward` is `(groups, K)`, `mean` that of the batch."""
    if estimate == "no baseline":
        return reward
    if estimate == "batch mean":
        return reward - mean
    others = (reward.sum(1, keepdims=True) - reward) / (reward.shape[1] - 1)
    return reward - others


def spreads(policy: Any, params: Any, rows: Completions, each: int, counts: tuple[int, ...]) -> list[Spread]:
    """The spread of every estimate for each K in `counts`.

    Args:
      policy, params: as of `rloo_init`.
      rows: completions with their rewards, `each` of every prompt, one prompt after the other.
      each: completions of a prompt, a multiple of twice each K: they are taken as `each / K` groups.
      counts: the Ks.
    """

    def log_prob(params: Any, tokens: Any, mask: Any, attention: Any) -> jax.Array:
        logits = policy(params, tokens[None], attention[None])
        return sequence_log_prob(logits, tokens[None], mask[None])[0]

    @jax.jit
    def scores(params: Any, *fields: Any) -> jax.Array:
        grads = jax.vmap(jax.grad(log_prob), in_axes=(None, 0, 0, 0))(params, *fields)
        return jnp.concatenate([x.reshape(each, -1) for x in jax.tree.leaves(grads)], axis=1)

    reward = np.asarray(rows.reward, np.float64).reshape(-1, each)
    prompts, kinds = len(reward), [(count, estimate) for count in counts for estimate in ESTIMATES]
    squares = {kind: np.zeros(prompts) for kind in kinds}  # The mean squared norm of the estimates of each prompt.
    sampled = dict.fromkeys(kinds, 0.0)  # The variance of these within a prompt, the mean over prompts.
    sums: dict[tuple[int, str], Any] = dict.fromkeys(kinds, 0.0)
    norm = 0.0
    for at in range(prompts):
        here = slice(at * each, (at + 1) * each)
        score = np.asarray(scores(params, rows.tokens[here], rows.mask[here], rows.attention[here]))
        norm += np.square(score).sum() / len(rows.reward)
        for count, estimate in kinds:
            groups = reward[at].reshape(-1, count)
            weights = advantages(estimate, groups, reward.mean()) / count
            found = np.einsum("gk,gkd->gd", weights, score.reshape(len(groups), count, -1))
            squares[count, estimate][at] = np.square(found).sum(1).mean()
            sampled[count, estimate] += found.var(axis=0, ddof=1).sum() / prompts
            sums[count, estimate] = sums[count, estimate] + found.mean(0) / prompts
    result = []
    for count, estimate in kinds:
        square = squares[count, estimate]
        variance = square.mean() - np.square(sums[count, estimate]).sum()
        error = square.std(ddof=1) / np.sqrt(prompts)
        expected = predicted(estimate, count, *moments(reward))
        measured, error, inside = (float(x / norm) for x in (variance, error, sampled[count, estimate]))
        result.append(Spread(count, estimate, measured, error, inside, expected))
    return result

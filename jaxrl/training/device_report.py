"""The report of a device call to the host: metrics of its updates, episodes that ended, faults. Inside the call it is
a pytree of a fixed size; on the host it becomes the same rows and lines as those of any run."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxrl.envs.episodes import FinishedEpisode

MAX_LOGGED_ENVS = 64  # Of so many environments each episode is logged: of thousands, no file could hold them all.
MAX_LOGGED_EPISODES = 2**14  # In one call. Those that end after them are not logged.


class Report(NamedTuple):
    """The report of a call, for U updates at most and N environments.

    Attributes:
      num_updates: int32, how many were made: all that were asked for, unless a fault has ended the run.
      metrics: `(U, M)`, a row for each update.
      steps: `(U,)` int32, transitions that each update's environments have made.
      num_episodes: int32, how many episodes the following arrays were given; those beyond their size are dropped.
      episode_step: `(K,)` int32, transitions of this call up to the episode's end.
      episode_env, episode_return, episode_length: `(K,)`, whose it was, the sum of its rewards, its number of steps.
      faults: `(N,)` int32, how many steps of each environment were no transitions.
      fault_step: int32, transitions that the step of the first fault, had all been well, would have made it.
      halted: boolean, whether a fault has ended the run: nothing was done after the update before it.
    """

    num_updates: Array
    metrics: Array
    steps: Array
    num_episodes: Array
    episode_step: Array
    episode_env: Array
    episode_return: Array
    episode_length: Array
    faults: Array
    fault_step: Array
    halted: Array


def empty_report(max_updates: int, num_metrics: int, num_envs: int, dtype: Any) -> Report:
    """A report of nothing; `dtype` is the type of returns."""
    count = jnp.zeros((), jnp.int32)
    per_episode = jnp.zeros(MAX_LOGGED_EPISODES, jnp.int32)
    return Report(
        count,
        jnp.zeros((max_updates, num_metrics), jnp.float32),
        jnp.zeros(max_updates, jnp.int32),
        count,
        per_episode,
        per_episode,
        per_episode.astype(dtype),
        per_episode,
        jnp.zeros(num_envs, jnp.int32),
        count,
        jnp.zeros((), bool),
    )


def noted(report: Report, update: Array, metrics: Array, valid: Array, episodes: Any, stops: bool) -> Report:
    """The report with one update more.

    Args:
      report: that of the call up to now, not halted before this update.
      update: its number in this call.
      metrics: `(M,)`.
      valid: `(T, N)`, which of its rows are transitions.
      episodes: those that ended, `(T, N)`.
      stops: whether a fault ends the run. Then an update that has one was not made.
    """
    bad = ~valid
    halted = report.halted | (bad.any() if stops else False)
    before, counts = report.steps.sum(dtype=jnp.int32), valid.sum(1, dtype=jnp.int32)
    logged = slice(0, MAX_LOGGED_ENVS)
    ended = (episodes.ended & ~halted)[:, logged]
    # Each ended episode's rank says where it goes. All else is sent out of bounds, where a write is dropped.
    rank = jnp.cumsum(ended.ravel(), dtype=jnp.int32).reshape(ended.shape) - 1
    place = jnp.where(ended, report.num_episodes + rank, MAX_LOGGED_EPISODES)
    step = jnp.broadcast_to((before + jnp.cumsum(counts, dtype=jnp.int32))[:, None], ended.shape)
    env = jnp.broadcast_to(jnp.arange(ended.shape[1], dtype=jnp.int32)[None], ended.shape)

    def put(array: Array, values: Array) -> Array:
        return array.at[place].set(values.astype(array.dtype), mode="drop")

    first_fault = (bad.any(1).argmax().astype(jnp.int32) + 1) * valid.shape[1]
    return Report(
        report.num_updates + (~halted).astype(jnp.int32),
        report.metrics.at[update].set(jnp.where(halted, 0, metrics)),
        report.steps.at[update].set(jnp.where(halted, 0, counts.sum(dtype=jnp.int32))),
        report.num_episodes + ended.sum(dtype=jnp.int32),
        put(report.episode_step, step),
        put(report.episode_env, env),
        put(report.episode_return, episodes.episode_return[:, logged]),
        put(report.episode_length, episodes.episode_length[:, logged]),
        report.faults + jnp.where(report.halted, 0, bad.sum(0, dtype=jnp.int32)),
        jnp.where(report.halted, report.fault_step, before + first_fault),
        halted,
    )


def finished_episodes(report: Report) -> Iterator[tuple[int, list[FinishedEpisode]]]:
    """The episodes of a report that was fetched, step by step: the transitions of the call up to that step, and the
    episodes that ended on it."""
    count = min(int(report.num_episodes), MAX_LOGGED_EPISODES)
    parts = report.episode_env, report.episode_return, report.episode_length
    steps, *columns = (np.asarray(part)[:count].tolist() for part in (report.episode_step, *parts))
    rows = [FinishedEpisode(*row) for row in zip(*columns, strict=True)]
    begin = 0
    for end in range(1, count + 1):
        if end == count or steps[end] != steps[begin]:
            yield steps[begin], rows[begin:end]
            begin = end

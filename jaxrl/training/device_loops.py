"""The loops as programs of the device: collect, learn, repeat, several times in one call. Environments, learner,
statistics and buffer are one pytree, the carry, which a call takes and gives back."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from gymnasium import spaces
from jax import Array

from jaxrl.algos.exploration import next_noise
from jaxrl.data.normalize_on_device import normalize_rollout_on_device
from jaxrl.data.replay import Replay, replay_add, replay_sample
from jaxrl.envs.on_device import DeviceEnvs, DeviceEnvState, collect_counted
from jaxrl.runs.behaviour import exploring_policy
from jaxrl.runs.config import RunConfig
from jaxrl.training.device_report import Report, empty_report, noted
from jaxrl.training.off_policy import mean_metrics
from jaxrl.training.scheduler import metrics_row


class Carry(NamedTuple):
    """All that one update hands to the next.

    Attributes:
      state: the learner.
      env_state: where the environments stand.
      normalizer: statistics of observations and returns.
      replay: the buffer, where there is one.
      sampling_key: what batches of the buffer are drawn by.
    """

    state: Any
    env_state: DeviceEnvState
    normalizer: Any
    replay: Replay | None = None
    sampling_key: Array | None = None


Call = Callable[[Carry, Array, Mapping[str, Array]], tuple[Carry, Report]]


def on_policy_call(run: RunConfig, envs: DeviceEnvs, max_updates: int) -> Call:
    """A call of PPO and its like: a rollout with the current policy, an update, and again.

    Args:
      run: the settings; but for numbers, those of each run that the call serves.
      envs: the environments.
      max_updates: how many updates a call makes at most.

    Returns:
      `(carry, count, numbers) -> (carry, report)`: so many updates, with those settings of the loop that may vary from
      run to run in `numbers`.
    """
    row, stops = run.row, run.on_fault == "stop"

    def update(carry: Carry, report: Report, settings: Any) -> tuple[Carry, Any]:
        act = exploring_policy(row, carry.state, carry.normalizer, settings)
        env_state, rollout, episodes = collect_counted(envs, carry.env_state, act, settings.num_steps)

        def learn(carry: Carry) -> tuple[Carry, Array]:
            gamma = getattr(carry.state.config, "gamma", 0.0)
            # Where a fault ends the run, all rows of a rollout that is learned from are valid.
            whole = rollout._replace(valid=None) if stops else rollout
            normalizer, seen = normalize_rollout_on_device(carry.normalizer, whole, gamma)
            state, metrics = row.update(carry.state, seen)
            return carry._replace(state=state, env_state=env_state, normalizer=normalizer), metrics_row(row, metrics)

        carry, metrics = _unless(stops, report.halted | ~rollout.valid.all(), learn, carry, len(row.metrics))
        return carry, (metrics, rollout.valid, episodes)

    return _call(run, update, max_updates)


def off_policy_call(run: RunConfig, envs: DeviceEnvs, max_updates: int, is_random: bool = False) -> Call:
    """A call of DDPG and its like: a step of every environment into the buffer, updates from it, and again.

    Args:
      run, envs: as of `on_policy_call`.
      max_updates: how many steps of all environments a call makes at most.
      is_random: whether the actions are uniform between the bounds, and nothing is learned: how a run begins.

    Returns:
      As `on_policy_call`. The metrics are means over the updates of a step.
    """
    row, stops = run.row, run.on_fault == "stop"

    def update(carry: Carry, report: Report, settings: Any) -> tuple[Carry, Any]:
        assert carry.replay is not None and carry.sampling_key is not None
        env_state = carry.env_state
        if is_random:
            act = uniform_policy(envs)
        else:
            env_state = _with_next_noise(env_state, settings.noise_correlation)
            act = exploring_policy(row, carry.state, None, settings, env_state.noise)
        env_state, rollout, episodes = collect_counted(envs, env_state, act, 1)
        halts = report.halted | ~rollout.valid.all() if stops else jnp.zeros((), bool)
        rows = jax.tree.map(lambda column: column[0], rollout)
        replay, sampling_key = replay_add(carry.replay, rows._replace(valid=rows.valid & ~halts)), carry.sampling_key

        def learn(part: Carry) -> tuple[Carry, Array]:
            def once(state: Any, _: None) -> tuple[Any, Array]:
                key = jax.random.fold_in(sampling_key, state.num_updates)
                state, metrics = row.update(state, replay_sample(replay, key, settings.batch_size))
                return state, metrics_row(row, metrics)

            if is_random:
                return part._replace(env_state=env_state), jnp.zeros(len(row.metrics), jnp.float32)
            state, metrics = jax.lax.scan(once, part.state, length=settings.updates_per_step)
            return part._replace(state=state, env_state=env_state), mean_metrics(row, metrics)

        # Without the buffer: it is never copied.
        part, metrics = _unless(stops, halts, learn, carry._replace(replay=None), len(row.metrics))
        return part._replace(replay=replay), (metrics, rollout.valid, episodes)

    return _call(run, update, max_updates)


def uniform_policy(envs: DeviceEnvs) -> Callable[[Array, Array], tuple[Array, Array]]:
    """Actions that are uniform between the bounds of a Box."""
    space = envs.action_space
    assert isinstance(space, spaces.Box)
    low, high = (jnp.asarray(bound.ravel()) for bound in (space.low, space.high))

    def act(key: Array, obs: Array) -> tuple[Array, Array]:
        action = jax.random.uniform(key, (len(obs), len(low)), low.dtype, low, high)
        return action, action

    return act


def _with_next_noise(env_state: DeviceEnvState, correlation: float) -> DeviceEnvState:
    """Where noise lasts from step to step, that of the next step."""
    if env_state.noise is None:
        return env_state
    key, noise_key = jax.random.split(env_state.key)
    fresh = jax.random.normal(noise_key, env_state.noise.shape, env_state.noise.dtype)
    return env_state._replace(key=key, noise=next_noise(env_state.noise, fresh, correlation))


def _unless(
    stops: bool, halts: Array, learn: Callable[[Carry], tuple[Carry, Array]], carry: Carry, num_metrics: int
) -> tuple[Carry, Array]:
    """What `learn` makes of the carry; where a fault stops the run and there is one, the carry as it was."""
    if not stops:
        return learn(carry)
    return jax.lax.cond(halts, lambda carry: (carry, jnp.zeros(num_metrics, jnp.float32)), learn, carry)


def _call(run: RunConfig, update: Callable[..., Any], max_updates: int) -> Call:
    """`update(carry, report, settings)` several times."""
    stops = run.on_fault == "stop"

    def call(carry: Carry, count: Array, numbers: Mapping[str, Array]) -> tuple[Carry, Report]:
        settings = dataclasses.replace(run.loop, **numbers)

        def once(at: tuple[Array, Carry, Report]) -> tuple[Array, Carry, Report]:
            number, carry, report = at
            carry, (metrics, valid, episodes) = update(carry, report, settings)
            return number + 1, carry, noted(report, number, metrics, valid, episodes, stops)

        returns = carry.env_state.episode_return
        report = empty_report(max_updates, len(run.row.metrics), len(returns), returns.dtype)
        start = jnp.zeros((), jnp.int32), carry, report
        _, carry, report = jax.lax.while_loop(lambda at: at[0] < count, once, start)
        return carry, report

    return call

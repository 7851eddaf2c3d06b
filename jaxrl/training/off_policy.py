"""The loop of DDPG and its like: act with noise, learn from the buffer while the environments step, store, repeat."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from gymnasium import spaces
from jax.flatten_util import ravel_pytree

from jaxrl.algos.algorithm import Algorithm
from jaxrl.algos.checks import is_pixels
from jaxrl.algos.exploration import Noise, check_takes_noise, next_noise
from jaxrl.algos.networks import policy_of
from jaxrl.data.normalize import normalizer_init
from jaxrl.data.replay import Replay, replay_add, replay_init, replay_sample
from jaxrl.envs.vector import Envs
from jaxrl.errors import BadInput
from jaxrl.runs.config import RunConfig
from jaxrl.runs.stack import Stack
from jaxrl.runs.state import Training
from jaxrl.runs.streams import EXPLORATION, stream
from jaxrl.timer import timer
from jaxrl.training.runner import Runner
from jaxrl.training.scheduler import (
    Loop,
    Programs,
    Store,
    Update,
    action_bounds,
    fresh_state,
    metrics_row,
    take_step,
)


def prepare(run: RunConfig, envs: Envs) -> Training:
    """Where a run begins."""
    state = fresh_state(run, envs)
    if not isinstance(envs.action_space, spaces.Box):
        kind = type(envs.action_space).__name__
        raise BadInput(f"action space {kind} is not supported by the loop off_policy, which takes Box actions")
    obs_dim, action_dim = envs.obs.shape[1], math.prod(envs.action_space.shape or ())
    obs_dtype = np.uint8 if is_pixels(envs.observation_space) else np.float32  # Which are kept as they are.
    memory = Stack([replay_init(run.loop.buffer_size, obs_dim, action_dim, obs_dtype=obs_dtype)])
    rng = np.random.default_rng(stream(run.seed, EXPLORATION))
    normalizer = normalizer_init(obs_dim, run.num_envs, False, False)
    noise = None
    if run.loop.noise_correlation:
        check_takes_noise(run.row, policy_of(state.actor, state.actor.params)(envs.obs))
        noise = rng.standard_normal((envs.num_envs, action_dim), np.float32)
    # Updates go by steps: a vector environment that spends rows on resetting takes fewer than it has rows.
    return Training(Stack([state]), normalizer, rng, envs, memory, steps_due=envs.num_envs, noise=noise)


def programs(run: RunConfig, state: Any) -> Programs:
    """The device's part: updates from batches of the buffer, and storing a step.

    An update leaves the actor's parameters behind as one vector. One array costs a sixth of what six cost to fetch, and
    that at every step.
    """
    row, loop = run.row, run.loop

    def update(state: Any, replay: Replay, sampling_key: jax.Array) -> Any:
        def once(state: Any, _: None) -> tuple[Any, jax.Array]:
            key = jax.random.fold_in(sampling_key, state.num_updates)
            state, metrics = row.update(state, replay_sample(replay, key, loop.batch_size))
            return state, metrics_row(row, metrics)

        state, metrics = jax.lax.scan(once, state, length=loop.updates_per_step)
        return state, (mean_metrics(row, metrics), _flat(state))

    return Programs(update, replay_add, _flat, _unraveller(state.actor.params))


def mean_metrics(row: Algorithm, metrics: jax.Array) -> jax.Array:
    """The metrics of a step's updates, `(updates_per_step, M)`, as those of one."""
    mean = metrics.mean(0)
    if "skipped_updates" in row.metrics:  # A count, and no mean.
        mean = mean.at[row.metrics.index("skipped_updates")].multiply(len(metrics))
    return mean


def off_policy(
    run: RunConfig, training: Training, runner: Runner, policy_now: Callable[[], Callable[[np.ndarray], Any]]
) -> Iterator[Update | Store]:
    """Acts, learns and stores, step by step.

    Each step's update is handed to the device before the step is taken, and runs while the environments do: it samples
    from all transitions but the one that is just being made. The action comes from the policy before it: so the device
    never waits for the environments.
    """
    if run.resume is None:
        runner.say(plan(run))
    bounds = action_bounds(training.envs)
    assert bounds is not None
    while runner.after_update():
        policy, is_random = policy_now(), training.step < run.loop.learning_starts
        due = not is_random and training.steps_due >= training.envs.num_envs
        training.steps_due -= training.envs.num_envs if due else 0
        yield Update(due=due)
        if is_random:
            action = env_action = _random(training, bounds)
        else:
            with timer("policy"):
                output = policy(training.envs.obs)
            action, env_action = run.row.explore(output, _generator_or_noise(run, training), run.loop, bounds)
        before = training.step
        transition = take_step(training, runner, env_action)._replace(action=action)
        training.steps_due += 0 if is_random else training.step - before
        yield Store(transition)


LOOP = Loop(prepare, programs, off_policy)


def _generator_or_noise(run: RunConfig, training: Training) -> np.random.Generator | Noise:
    """What the next action is drawn with: a generator, or noise that lasts from step to step."""
    if training.noise is None:
        return training.rng
    fresh = training.rng.standard_normal(training.noise.shape, np.float32)
    training.noise = next_noise(training.noise, fresh, run.loop.noise_correlation)
    return Noise(training.noise)


def _random(training: Training, bounds: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Actions that are uniform between the bounds."""
    with np.errstate(all="ignore"):
        return training.rng.uniform(*bounds, (training.envs.num_envs, len(bounds[0]))).astype(np.float32)


def _flat(state: Any) -> jax.Array:
    return ravel_pytree(state.actor.params)[0]


def _unraveller(params: Any) -> Callable[[np.ndarray], Any]:
    """The inverse of `ravel_pytree` for trees like `params`, in NumPy and without a copy."""
    leaves, structure = jax.tree.flatten(params)
    shapes = [leaf.shape for leaf in leaves]
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]

    def unravel(flat: np.ndarray) -> Any:
        parts = zip(np.split(flat, ends), shapes, strict=True)
        return jax.tree.unflatten(structure, [part.reshape(shape) for part, shape in parts])

    return unravel


def plan(run: RunConfig) -> str:
    """How many steps are random, and how many updates follow."""
    starts, updates = run.loop.learning_starts, run.loop.updates_per_step
    if run.total_steps <= starts:
        return f"all {run.total_steps:,} steps are random: learning would start after {starts:,}"
    return (
        f"{starts:,} random steps, then {updates} updates per {run.num_envs} steps: "
        f"a ratio of {updates / run.num_envs:g} updates to a step"
    )

"""DDPG's loop: act with noise, learn from the buffer while the environments step, store, repeat."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jax.flatten_util import ravel_pytree

from jaxrl.algos.ddpg import METRICS, DDPGConfig, DDPGState, ddpg_init, ddpg_update
from jaxrl.algos.networks import host_policy
from jaxrl.data.normalize import normalizer_init
from jaxrl.data.replay import Replay, replay_add, replay_init, replay_sample
from jaxrl.data.transition import Transition
from jaxrl.envs.vector import Envs
from jaxrl.errors import EnvironmentFault, EnvironmentLost
from jaxrl.runs.config import RunConfig
from jaxrl.runs.stack import Stack, each, from_host, in_turn, joined, on_host, to_host
from jaxrl.runs.state import Training
from jaxrl.timer import timed, timer
from jaxrl.training.runner import EXPLORATION, NETWORK, SAMPLING, Callback, Session, Sessions, stream, stream_key


def train_ddpg(
    runs: Sequence[RunConfig], all_envs: Sequence[Envs], callback: Callback | None = None, here: Path = Path()
) -> Sessions:
    """Trains each of `runs` in environments of its own until its session says stop; returns the sessions. Relative
    paths in `runs` start from the folder `here`.

    Each step's update is handed to the device before the step is taken, and runs while the environments do: it samples
    from all transitions but the one that is just being made. The action comes from the policy before it, whose
    parameters every update leaves behind as one vector: so the device never waits for the environments.
    """
    trainings, run = [_training(run, envs) for run, envs in zip(runs, all_envs, strict=True)], runs[0]
    sampling = [stream_key(run.seed, SAMPLING) for run in runs]

    def learn_one(state: DDPGState, replay: Replay, sampling_key: jax.Array) -> tuple[DDPGState, Any]:
        def once(state: DDPGState, _: None) -> tuple[DDPGState, jax.Array]:
            key = jax.random.fold_in(sampling_key, state.num_updates)
            state, metrics = ddpg_update(state, replay_sample(replay, key, run.batch_size))
            return state, jnp.stack([metrics[name].astype(jnp.float32) for name in METRICS])

        state, metrics = jax.lax.scan(once, state, length=run.updates_per_step)
        metrics = metrics.mean(0).at[METRICS.index("skipped_updates")].multiply(run.updates_per_step)
        return state, (metrics, _flat(state.actor.params))

    with Sessions(runs, trainings, METRICS, callback, here) as sessions:
        sessions.begin()
        if run.resume is None:
            for session in sessions:
                session.say(_plan(session.run))
        stacks = sessions.stacked()
        size = len(stacks[0])
        learn = from_host(jax.jit(each(learn_one, size), donate_argnums=0))
        add = from_host(jax.jit(replay_add if size == 1 else jax.vmap(replay_add), donate_argnums=0))
        keys = iter(sampling)
        in_turn(_learn(stack, Stack([next(keys) for _ in stack]).tree, learn, add) for stack in stacks)
    return sessions


def _training(run: RunConfig, envs: Envs) -> Training:
    assert isinstance(run.agent, DDPGConfig)
    state = ddpg_init(stream_key(run.seed, NETWORK), run.agent, envs.observation_space, envs.action_space)
    obs_dim, action_dim = envs.obs.shape[1], math.prod(envs.action_space.shape or ())
    memory = Stack([replay_init(run.buffer_size, obs_dim, action_dim)])
    rng = np.random.default_rng(stream(run.seed, EXPLORATION))
    normalizer = normalizer_init(obs_dim, run.num_envs, False, False)
    # Updates go by steps: a vector environment that spends rows on resetting takes fewer than it has rows.
    return Training(Stack([state]), normalizer, rng, envs, memory, steps_due=envs.num_envs)


def _learn(stack: Sequence[Session], keys: Any, learn: Callable[..., Any], add: Callable[..., Any]) -> Iterator[None]:
    """The loop, for runs that are updated together; it pauses after each step, while an update is under way."""
    trainings, run = [session.training for session in stack], stack[0].run
    learner, memory = trainings[0].learner, trainings[0].memory
    assert memory is not None
    apply_fn, params = learner.tree.actor.apply_fn, learner.tree.actor.params
    flat = _flat(params) if learner.size == 1 else jax.vmap(_flat)(params)
    unravel = _unraveller(on_host(learner, lambda state: state.actor.params)[0])
    due = np.zeros(len(stack), bool)
    latest: list[Any] = [None] * len(stack)  # What each of them did last.
    while any(going := [session.goes_on() for session in stack]):
        acting = flat
        for at, training in enumerate(trainings):
            learns = going[at] and training.step >= run.learning_starts
            due[at] = learns and training.steps_due >= training.envs.num_envs
            training.steps_due -= training.envs.num_envs if due[at] else 0
        if due.any():
            learner.tree, (metrics, flat) = learn(learner.tree, due.copy(), memory.tree, keys)
            for at, session in enumerate(stack):
                if due[at]:
                    session.learned(metrics)
        failure = None
        for at, session in enumerate(stack):
            stepped = False
            try:
                if going[at] and failure is None:
                    is_random = session.training.step < run.learning_starts
                    with timer("wait for the actor"):
                        params = None if is_random else unravel(np.atleast_2d(to_host(acting))[at])
                    latest[at], stepped = _step(session, params and host_policy(apply_fn, params)), True
            except (EnvironmentFault, EnvironmentLost) as error:
                failure = error  # The others' steps are whole, and kept.
            if len(stack) > 1 and latest[at] is not None:
                rows = np.full(run.num_envs, stepped) if latest[at].valid is None else latest[at].valid & stepped
                latest[at] = latest[at]._replace(valid=rows)
        if all(transition is not None for transition in latest) and (failure is None or len(stack) > 1):
            memory.tree = add(memory.tree, joined(latest))
        if failure is not None:
            raise failure
        yield


@timed("step")
def _step(session: Session, policy: Callable[[np.ndarray], Any] | None) -> Transition:
    """One step of a run's environments, with noise on what its policy says, or at random where there is none yet."""
    run, training, envs, rng = session.run, session.training, session.training.envs, session.training.rng
    assert isinstance(envs.action_space, spaces.Box)
    low, high = envs.action_space.low.ravel(), envs.action_space.high.ravel()
    with np.errstate(all="ignore"):
        if policy is None:
            action = rng.uniform(low, high, (envs.num_envs, len(low)))
        else:
            noise = run.exploration_noise * (high - low) / 2 * rng.standard_normal((envs.num_envs, len(low)))
            with timer("policy"):
                action = policy(envs.obs).mode()
            action = np.clip(action + noise, low, high)
        action = action.astype(np.float32)
    transition = envs.step(action)
    taken = envs.num_envs if transition.valid is None else int(np.count_nonzero(transition.valid))
    training.steps_due += taken if training.step >= run.learning_starts else 0
    training.step += taken
    session.episodes()
    return transition


def _flat(params: Any) -> jax.Array:
    return ravel_pytree(params)[0]


def _unraveller(params: Any) -> Callable[[np.ndarray], Any]:
    """The inverse of `ravel_pytree` for trees like `params`, in NumPy and without a copy. One array costs a sixth of
    what six cost to fetch, and that at every step."""
    leaves, structure = jax.tree.flatten(params)
    shapes = [leaf.shape for leaf in leaves]
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]

    def unravel(flat: np.ndarray) -> Any:
        parts = zip(np.split(flat, ends), shapes, strict=True)
        return jax.tree.unflatten(structure, [part.reshape(shape) for part, shape in parts])

    return unravel


def _plan(run: RunConfig) -> str:
    if run.total_steps <= run.learning_starts:
        return f"all {run.total_steps:,} steps are random: learning would start after {run.learning_starts:,}"
    ratio = run.updates_per_step / run.num_envs
    return (
        f"{run.learning_starts:,} random steps, then {run.updates_per_step} updates per {run.num_envs} steps: "
        f"a ratio of {ratio:g} updates to a step"
    )

"""DDPG's loop: act with noise, learn from the buffer while the environments step, store, repeat."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces
from jax.flatten_util import ravel_pytree

from jaxrl.config import RunConfig
from jaxrl.ddpg import METRICS, DDPGConfig, DDPGState, ddpg_init, ddpg_update
from jaxrl.envs import Envs
from jaxrl.networks import host_policy
from jaxrl.normalize import normalizer_init
from jaxrl.replay import Replay, replay_add, replay_init, replay_sample
from jaxrl.session import EXPLORATION, NETWORK, SAMPLING, Callback, Session, Training, stream, stream_key


def train_ddpg(run: RunConfig, envs: Envs, callback: Callback | None) -> tuple[Training, Session]:
    """Trains until the session says stop; returns where training stands then, and the session.

    Each step's update is handed to the device before the step is taken, and runs while the environments do: it samples
    from all transitions but the one that is just being made. The action comes from the policy before it, whose
    parameters every update leaves behind as one vector: so the device never waits for the environments.
    """
    assert isinstance(run.agent, DDPGConfig)
    state = ddpg_init(stream_key(run.seed, NETWORK), run.agent, envs.observation_space, envs.action_space)
    assert isinstance(envs.action_space, spaces.Box)
    low, high = envs.action_space.low.ravel(), envs.action_space.high.ravel()
    spread = run.exploration_noise * (high - low) / 2
    replay = replay_init(run.buffer_size, envs.obs.shape[1], len(low))
    rng = np.random.default_rng(stream(run.seed, EXPLORATION))
    normalizer = normalizer_init(envs.obs.shape[1], run.num_envs, False, False)
    # Updates go by steps: a vector environment that spends rows on resetting takes fewer than it has rows.
    training = Training(state, normalizer, rng, envs, replay, steps_due=envs.num_envs)
    unravel = _unraveller(state.actor.params)
    sampling_key = stream_key(run.seed, SAMPLING)
    add = jax.jit(replay_add, donate_argnums=0)

    @functools.partial(jax.jit, donate_argnums=0)
    def learn(state: DDPGState, replay: Replay) -> tuple[DDPGState, jax.Array, jax.Array]:
        def once(state: DDPGState, _: None) -> tuple[DDPGState, jax.Array]:
            key = jax.random.fold_in(sampling_key, state.num_updates)
            state, metrics = ddpg_update(state, replay_sample(replay, key, run.batch_size))
            return state, jnp.stack([metrics[name].astype(jnp.float32) for name in METRICS])

        state, metrics = jax.lax.scan(once, state, length=run.updates_per_step)
        metrics = metrics.mean(0).at[METRICS.index("skipped_updates")].multiply(run.updates_per_step)
        return state, metrics, ravel_pytree(state.actor.params)[0]

    with Session(run, envs.observation_space, envs.action_space, METRICS, callback) as session:
        session.begin(training)
        if run.resume is None:
            session.say(_plan(run))
        metrics, next_acting = None, ravel_pytree(training.state.actor.params)[0]
        while session.goes_on(training, metrics):
            metrics = None
            if training.step < run.learning_starts:
                action = rng.uniform(low, high, (envs.num_envs, len(low)))
            else:
                acting = next_acting
                if training.steps_due >= envs.num_envs:
                    training.state, metrics, next_acting = learn(training.state, training.replay)
                    training.steps_due -= envs.num_envs
                noise = spread * rng.standard_normal((envs.num_envs, len(low)))
                policy = host_policy(state.actor.apply_fn, unravel(np.asarray(acting)))
                action = np.clip(policy(envs.obs).mode() + noise, low, high)
            transition = envs.step(action.astype(np.float32))
            taken = envs.num_envs if transition.valid is None else int(np.count_nonzero(transition.valid))
            training.replay = add(training.replay, transition)
            training.steps_due += taken if training.step >= run.learning_starts else 0
            training.step += taken
            session.episodes(training.step, envs)
    return training, session


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

"""DDPG's loop: act with noise, learn from the buffer while the environments step, store, repeat."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from jaxrl.config import RunConfig
from jaxrl.ddpg import METRICS, DDPGConfig, DDPGState, ddpg_init, ddpg_update
from jaxrl.envs import Envs, check_finite
from jaxrl.networks import host_policy
from jaxrl.normalize import normalizer_init
from jaxrl.replay import Replay, replay_add, replay_init, replay_sample
from jaxrl.session import ENVIRONMENTS, EXPLORATION, NETWORK, SAMPLING, Callback, Session, Training, stream


def train_ddpg(run: RunConfig, envs: Envs, callback: Callback | None) -> tuple[Training, Session]:
    """Trains until the session says stop; returns where training stands then, and the session.

    The update of a step runs while the environments take that step: it samples from all transitions but the one that
    is just being made. The action is always the newest policy's.
    """
    assert isinstance(run.agent, DDPGConfig)
    state = ddpg_init(_key(run.seed, NETWORK), run.agent, envs.observation_space, envs.action_space)
    assert isinstance(envs.action_space, spaces.Box)
    low, high = envs.action_space.low, envs.action_space.high
    replay = replay_init(run.buffer_size, envs.obs.shape[1], len(low))
    rng = np.random.default_rng(stream(run.seed, EXPLORATION))
    training = Training(state, normalizer_init(envs.obs.shape[1], run.num_envs, False, False), rng, replay)
    sampling_key = _key(run.seed, SAMPLING)
    add = jax.jit(replay_add, donate_argnums=0)

    @functools.partial(jax.jit, donate_argnums=0)
    def learn(state: DDPGState, replay: Replay) -> tuple[DDPGState, jax.Array]:
        def once(state: DDPGState, _: None) -> tuple[DDPGState, jax.Array]:
            key = jax.random.fold_in(sampling_key, state.num_updates)
            state, metrics = ddpg_update(state, replay_sample(replay, key, run.batch_size))
            return state, jnp.stack([metrics[name].astype(jnp.float32) for name in METRICS])

        state, metrics = jax.lax.scan(once, state, length=run.updates_per_step)
        return state, metrics.mean(0).at[METRICS.index("skipped_updates")].multiply(run.updates_per_step)

    with Session(run, envs.observation_space, envs.action_space, METRICS, callback) as session:
        session.begin(training)
        session.say(_plan(run))
        envs.reset(stream(run.seed, ENVIRONMENTS, training.step))
        metrics = None
        while session.goes_on(training, metrics):
            if training.step < run.learning_starts:
                action = rng.uniform(low, high, (envs.num_envs, len(low)))
            else:
                policy = host_policy(training.state.actor.apply_fn, training.state.actor.params)
                noise = run.exploration_noise * (high - low) / 2 * rng.standard_normal((envs.num_envs, len(low)))
                action = np.clip(policy(envs.obs).mode() + noise, low, high)
                training.state, metrics = learn(training.state, training.replay)
            transition = envs.step(action.astype(np.float32))
            check_finite(transition, run.env_name, training.step)
            training.replay = add(training.replay, transition)
            training.step += envs.num_envs if transition.valid is None else int(np.count_nonzero(transition.valid))
            session.episodes(training.step, envs.finished)
    return training, session


def _key(seed: int, purpose: int) -> jax.Array:
    return jax.random.key(int(stream(seed, purpose).generate_state(1)[0]))


def _plan(run: RunConfig) -> str:
    if run.total_steps <= run.learning_starts:
        return f"all {run.total_steps:,} steps are random: learning would start after {run.learning_starts:,}"
    ratio = run.updates_per_step / run.num_envs
    return (
        f"{run.learning_starts:,} random steps, then {run.updates_per_step} updates per {run.num_envs} steps: "
        f"a ratio of {ratio:g} updates to a step"
    )

"""PPO's loop: collect a rollout with the current policy, update once, repeat."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.config import RunConfig
from jaxrl.envs import Envs
from jaxrl.errors import BadInput
from jaxrl.memory import free_bytes
from jaxrl.networks import host_policy
from jaxrl.normalize import normalize_rollout, normalizer_init, observer
from jaxrl.ppo import METRICS, PPOConfig, PPOState, ppo_init, ppo_update
from jaxrl.session import EXPLORATION, NETWORK, Callback, Session, Training, stream, stream_key
from jaxrl.transition import Transition


def train_ppo(run: RunConfig, envs: Envs, callback: Callback | None) -> tuple[Training, Session]:
    """Trains until the session says stop; returns where training stands then, and the session."""
    config = run.algorithm_config
    assert isinstance(config, PPOConfig)
    gamma = float(config.gamma)
    state = ppo_init(stream_key(run.seed, NETWORK), config, envs.observation_space, envs.action_space)
    normalizer = normalizer_init(envs.obs.shape[1], envs.num_envs, run.normalize_obs, run.normalize_reward)
    rng = np.random.default_rng(stream(run.seed, EXPLORATION))
    training = Training(state, normalizer, rng, envs, rollout=_empty_rollout(state, envs, run.num_steps))

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: PPOState, rollout: Transition) -> tuple[PPOState, jax.Array]:
        state, metrics = ppo_update(state, rollout)
        return state, jnp.stack([metrics[name].astype(jnp.float32) for name in METRICS])

    spaces = envs.observation_space, envs.action_space
    with Session(run, *spaces, METRICS, callback) as session:
        session.begin(training)
        metrics = None
        while session.goes_on(training, metrics):
            metrics = None
            rollout = _collect(envs, training, session)
            if session.stopped_by is None:
                training.normalizer, seen = normalize_rollout(training.normalizer, rollout, gamma)
                training.state, metrics = update(training.state, seen)
                training.rows = 0
    return training, session


def _empty_rollout(state: PPOState, envs: Envs, num_steps: int) -> Transition:
    """Arrays `(T, N)` for what the environments give."""
    action = host_policy(state.actor.apply_fn, state.actor.params)(envs.obs).sample(np.random.default_rng(0))
    number, flag = np.zeros(envs.num_envs, np.float32), np.zeros(envs.num_envs, bool)
    rows = envs.obs, action, number, envs.obs, flag, flag, flag if envs.marks_valid else None
    size, free = num_steps * sum(row.nbytes for row in rows if row is not None), free_bytes()
    if size > free:
        raise BadInput(
            f"a rollout of num_steps {num_steps:,} x num_envs {envs.num_envs:,} takes {size / 2**30:,.1f} GiB, and "
            f"{free / 2**30:,.1f} are free"
        )
    return Transition(*(None if row is None else np.zeros((num_steps, *row.shape), row.dtype) for row in rows))


def _collect(envs: Envs, training: Training, session: Session) -> Transition:
    """Acts until the rollout of `training` is full or the run is asked to stop; returns it, raw, `(T, N)`. It begins
    where it left off.

    The last update may still be reading the rollout's arrays when this begins. Fetching its parameters waits for its
    end, so nothing is written before it is through.
    """
    rollout = training.rollout
    assert rollout is not None
    see, policy = observer(training.normalizer), host_policy(training.state.actor.apply_fn, training.state.actor.params)
    for t in range(training.rows, len(rollout.reward)):
        distribution = policy(see(envs.obs))
        action = distribution.sample(training.rng)
        transition = envs.step(distribution.to_env(action))._replace(action=action)
        for column, row in zip(rollout, transition, strict=True):
            if column is not None:
                column[t] = row
        for index, _ in envs.faults:
            _break_off(rollout, t, index, training)
        training.step += envs.num_envs if transition.valid is None else int(np.count_nonzero(transition.valid))
        training.rows = t + 1
        session.episodes(training.step, envs)
        if session.stopped_by is not None:
            break
    return rollout


def _break_off(rollout: Transition, t: int, index: int, training: Training) -> None:
    """Ends an episode before row t, where its environment failed: what follows that row is another episode, and neither
    advantages nor discounted returns may run on into it. A row of no weight, as that one is, would not stop them."""
    if rollout.valid[t, index]:
        return  # The episode was over, and it was the next one that began badly.
    if t > 0:
        rollout.truncated[t - 1, index] = True
    else:
        training.normalizer.discounted[index] = 0.0

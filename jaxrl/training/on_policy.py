"""PPO's loop: collect a rollout with the current policy, update once, repeat. The critic learns from a rollout while
the next one is collected: acting needs the actor alone."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from jaxrl.algos.checks import check_fits
from jaxrl.algos.networks import host_policy
from jaxrl.algos.ppo import METRICS, Lesson, PPOConfig, PPOState, fit_value, improve_policy, num_outputs, ppo_init
from jaxrl.data.normalize import normalize_rollout, normalizer_init, observer
from jaxrl.data.transition import Transition
from jaxrl.envs.vector import Envs
from jaxrl.runs.config import RunConfig
from jaxrl.runs.stack import Stack, each, from_host, in_turn, joined, on_host
from jaxrl.runs.state import Training
from jaxrl.timer import timed, timer
from jaxrl.training.runner import EXPLORATION, NETWORK, Callback, Session, Sessions, stream, stream_key


def train_ppo(
    runs: Sequence[RunConfig], all_envs: Sequence[Envs], callback: Callback | None = None, here: Path = Path()
) -> Sessions:
    """Trains each of `runs` in environments of its own until its session says stop; returns the sessions. Relative
    paths in `runs` start from the folder `here`."""
    trainings = [_training(run, envs) for run, envs in zip(runs, all_envs, strict=True)]

    def fit(state: PPOState, lesson: Lesson) -> tuple[PPOState, jax.Array]:
        state, metrics = fit_value(state, lesson)
        return state, jnp.stack([metrics[name].astype(jnp.float32) for name in METRICS])

    with Sessions(runs, trainings, METRICS, callback, here) as sessions:
        sessions.begin()
        stacks = sessions.stacked()
        halves = [from_host(jax.jit(each(half, len(stacks[0])), donate_argnums=0)) for half in (improve_policy, fit)]
        in_turn(_learn(stack, sessions, *halves) for stack in stacks)
    return sessions


def _training(run: RunConfig, envs: Envs) -> Training:
    config = run.algorithm_config
    assert isinstance(config, PPOConfig)
    state = ppo_init(stream_key(run.seed, NETWORK), config, envs.observation_space, envs.action_space)
    normalizer = normalizer_init(envs.obs.shape[1], envs.num_envs, run.normalize_obs, run.normalize_reward)
    rng = np.random.default_rng(stream(run.seed, EXPLORATION))
    return Training(Stack([state]), normalizer, rng, envs, rollout=_empty_rollout(state, envs, run.num_steps))


def _learn(
    stack: Sequence[Session], sessions: Sessions, improve: Callable[..., Any], fit: Callable[..., Any]
) -> Iterator[None]:
    """The loop, for runs that are updated together; it pauses while an update is under way."""
    learner = stack[0].training.learner
    seen = [session.training.rollout for session in stack]
    while any(going := [session.goes_on() for session in stack]):
        with timer("wait for the actor"):
            acting = on_host(learner, lambda state: state.actor.params)
        for place, session in enumerate(stack):
            if going[place]:
                _collect(session.training, session, sessions, acting[place])
        if sessions.stopped_by is None:
            for place, session in enumerate(stack):
                if going[place]:
                    seen[place] = _taken_in(session)
            improved, lesson = improve(learner.tree, np.array(going), joined(seen))
            # Without the actor, or it would be known no sooner than the critic.
            fitted, metrics = fit(improved.replace(actor=None), np.array(going), lesson)
            learner.tree = fitted.replace(actor=improved.actor)
            for place, session in enumerate(stack):
                if going[place]:
                    session.learned(metrics)
            yield


@timed("normaliser")
def _taken_in(session: Session) -> Transition:
    """The rollout as the update gets it, once the normaliser has taken it in."""
    training = session.training
    assert training.rollout is not None
    gamma = float(session.run.algorithm_config.gamma)
    training.normalizer, seen = normalize_rollout(training.normalizer, training.rollout, gamma)
    training.rows = 0
    return seen


def _empty_rollout(state: PPOState, envs: Envs, num_steps: int) -> Transition:
    """Arrays `(T, N)` for what the environments give. They must fit into memory with the policy of each row, old and
    new, from which an update has its divergence; one step's may be too many already, so nothing is made before."""
    width, space = envs.obs.shape[1], envs.action_space
    action_bytes = math.prod(space.shape or ()) * (4 if isinstance(space, spaces.Box) else 8)
    row_bytes = 4 * (2 * width + 1 + 2 * num_outputs(space)) + action_bytes + 3
    check_fits(
        f"a rollout of num_steps {num_steps:,} x num_envs {envs.num_envs:,}", num_steps * envs.num_envs * row_bytes
    )
    action = host_policy(state.actor.apply_fn, state.actor.params)(envs.obs).sample(np.random.default_rng(0))
    number, flag = np.zeros(envs.num_envs, np.float32), np.zeros(envs.num_envs, bool)
    rows = envs.obs, action, number, envs.obs, flag, flag, flag if envs.marks_valid else None
    return Transition(*(None if row is None else np.zeros((num_steps, *row.shape), row.dtype) for row in rows))


@timed("collect")
def _collect(training: Training, session: Session, sessions: Sessions, params: Any) -> None:
    """Acts until the rollout of `training`, raw, `(T, N)`, is full or the run is asked to stop. It begins where it left
    off.

    The last update may still be reading the rollout's arrays when this is called for. Fetching its actor waits for the
    half that reads them, so nothing is written before that is through; the critic's half has rows of its own.
    """
    envs, rollout = training.envs, training.rollout
    assert rollout is not None
    see, policy = observer(training.normalizer), host_policy(training.learner.tree.actor.apply_fn, params)
    for t in range(training.rows, len(rollout.reward)):
        with timer("policy"):
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
        session.episodes()
        if sessions.stopped_by is not None:
            break


def _break_off(rollout: Transition, t: int, index: int, training: Training) -> None:
    """Ends an episode before row t, where its environment failed: what follows that row is another episode, and neither
    advantages nor discounted returns may run on into it. A row of no weight, as that one is, would not stop them."""
    if rollout.valid[t, index]:
        return  # The episode was over, and it was the next one that began badly.
    if t > 0:
        rollout.truncated[t - 1, index] = True
    else:
        training.normalizer.discounted[index] = 0.0

"""The loop of PPO and its like: collect a rollout with the current policy, update once, repeat. Where an update has two
halves, the critic learns from a rollout while the next one is collected: acting needs the actor alone."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxrl.algos.checks import check_fits
from jaxrl.algos.networks import policy_of
from jaxrl.data.normalize import normalize_rollout, normalizer_init, observer
from jaxrl.data.transition import Transition
from jaxrl.envs.vector import Envs
from jaxrl.runs.config import RunConfig
from jaxrl.runs.stack import Stack
from jaxrl.runs.state import Training
from jaxrl.runs.streams import EXPLORATION, stream
from jaxrl.timer import timed, timer
from jaxrl.training.runner import Runner
from jaxrl.training.scheduler import Loop, Programs, Update, action_bounds, fresh_state, metrics_row, take_step
from jaxrl.training.scheduler import programs as whole


def prepare(run: RunConfig, envs: Envs) -> Training:
    """Where a run begins."""
    loop = run.loop
    state = fresh_state(run, envs)
    normalizer = normalizer_init(envs.obs.shape[1], envs.num_envs, loop.normalize_obs, loop.normalize_reward)
    rng = np.random.default_rng(stream(run.seed, EXPLORATION))
    rollout = _empty_rollout(run, state, envs)
    return Training(Stack([state]), normalizer, rng, envs, rollout=rollout)


def programs(run: RunConfig, state: Any) -> Programs:
    """The device's part: the update, in two halves where it has them."""
    row = run.row
    if row.update_actor is None or row.update_critic is None:
        return whole(run, state)
    halve = row.update_critic

    def update_critic(critic: Any, targets: Any) -> Any:
        critic, metrics = halve(critic, targets)
        return critic, metrics_row(row, metrics)

    return Programs((row.update_actor, update_critic))


def on_policy(
    run: RunConfig, training: Training, runner: Runner, policy_now: Callable[[], Callable[[np.ndarray], Any]]
) -> Iterator[Update]:
    """Collects a rollout with the policy as it stands, updates once, repeats."""
    while runner.after_update():
        collect_rollout(run, training, runner, policy_now())
        if runner.stop_asked:
            continue
        gamma = float(getattr(run.agent, "gamma", 0.0))  # Its own number: the state has it in float32.
        assert training.rollout is not None
        with timer("normaliser"):
            training.normalizer, rollout = normalize_rollout(training.normalizer, training.rollout, gamma)
        training.rows = 0
        yield Update(rollout)


LOOP = Loop(prepare, programs, on_policy)


@timed("collect")
def collect_rollout(run: RunConfig, training: Training, runner: Runner, policy: Callable[[np.ndarray], Any]) -> None:
    """Acts until the rollout of `training`, raw, `(T, N)`, is full or the run is asked to stop. It begins where it left
    off.

    The last update may still be reading the rollout's arrays when this is called for. Fetching its actor waits for the
    half that reads them, so nothing is written before that is through; the critic's half has rows of its own.
    """
    envs, rollout, explore = training.envs, training.rollout, run.row.explore
    bounds = action_bounds(envs)
    assert rollout is not None
    see = observer(training.normalizer)
    for t in range(training.rows, len(rollout.reward)):
        with timer("policy"):
            output = policy(see(envs.obs))
        action, env_action = explore(output, training.rng, run.loop, bounds)
        transition = take_step(training, runner, env_action)._replace(action=action)
        for column, row in zip(rollout, transition, strict=True):
            if column is not None:
                column[t] = row
        for index, _ in envs.faults:
            _break_off(rollout, t, index, training)
        training.rows = t + 1
        if runner.stop_asked:
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


def _empty_rollout(run: RunConfig, state: Any, envs: Envs) -> Transition:
    """Arrays `(T, N)` for what the environments give. They must fit into memory with the policy of each row, old and
    new, from which an update has its divergence; one step's may be too many already, so nothing is made before."""
    num_steps = run.loop.num_steps
    policy = jax.tree.leaves(jax.eval_shape(run.row.act, state, envs.obs))
    row_bytes = 2 * envs.obs.nbytes + 2 * sum(leaf.size * leaf.dtype.itemsize for leaf in policy) + 16 * envs.num_envs
    check_fits(f"a rollout of num_steps {num_steps:,} x num_envs {envs.num_envs:,}", num_steps * row_bytes)
    output = policy_of(state.actor, state.actor.params)(envs.obs)
    action, _ = run.row.explore(output, np.random.default_rng(0), run.loop, action_bounds(envs))
    number, flag = np.zeros(envs.num_envs, np.float32), np.zeros(envs.num_envs, bool)
    rows = envs.obs, action, number, envs.obs, flag, flag, flag if envs.marks_valid else None
    return Transition(*(None if row is None else np.zeros((num_steps, *row.shape), row.dtype) for row in rows))

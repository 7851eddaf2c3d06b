"""Where updates are computed, and for whom together. A loop is written for one run; it yields what it asks for, and all
else is known here: whether runs are served by a call each or by one for several, and what becomes of the others when
one fails.

A loop is a generator, `loop(run, training, runner, policy_now)`. While `runner.after_update()` says so, it acts with
the policy that `policy_now()` gives, and yields requests:

    def loop(run, training, runner, policy_now):
        while runner.after_update():
            policy = policy_now()
            ...                                  # Steps, by `take_step`.
            yield Update(batch)                  # `update(state, batch)` of the row; its metrics are logged.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from jaxrl.algos.algorithm import Algorithm, check_metrics
from jaxrl.algos.networks import policy_of
from jaxrl.algos.own_networks import networks_for
from jaxrl.data.normalize import normalizer_init
from jaxrl.data.transition import Transition
from jaxrl.envs.registry import find_callable
from jaxrl.envs.vector import Envs
from jaxrl.errors import BadInput, EnvironmentFault, EnvironmentLost
from jaxrl.runs.config import RunConfig
from jaxrl.runs.stack import Stack, from_host, in_turn, stack_on_host, to_host, vmap_selected
from jaxrl.runs.state import Training
from jaxrl.runs.streams import EXPLORATION, NETWORK, SAMPLING, stream, stream_key
from jaxrl.timer import timer
from jaxrl.training.group import RunGroup
from jaxrl.training.own_algorithm import check_state
from jaxrl.training.runner import Runner


class Update(NamedTuple):
    """A loop asks for an update: from `data`, or from the replay buffer where the loop has one.

    Attributes:
      data: NumPy arrays, alike at every request.
      due: False in a loop with a buffer whose update is not due at this step.
    """

    data: Any = None
    due: bool = True


class Store(NamedTuple):
    """A loop with a replay buffer asks that a step's transitions, `(N,)`, are stored."""

    transition: Transition


class Programs(NamedTuple):
    """The work that a loop gives to the device, for one run; `serve` makes it fit several.

    Attributes:
      update: `(state, data) -> (state, (metrics, acting))`, or with a buffer `(state, replay, sampling_key)`: metrics
        as `metrics_row` makes them; `acting` is what `params_of` makes the actor's parameters of, once it is fetched.
        A pair of functions is two programs: `(state, data) -> (state, targets)`, and
        `(critic, targets) -> (critic, metrics)`.
      add: `(replay, transition) -> replay`, or None where nothing is stored.
      acting: `(state) -> acting`, before the first update.
      params_of: `(acting in NumPy) -> params`.
    """

    update: Callable[..., Any] | tuple[Callable[..., Any], Callable[..., Any]]
    add: Callable[..., Any] | None = None
    acting: Callable[[Any], Any] = lambda state: state.actor.params
    params_of: Callable[[Any], Any] = lambda params: params


Steps = Callable[[RunConfig, Training, Runner, Callable[[], Callable[[np.ndarray], Any]]], Iterator[Any]]


class Loop(NamedTuple):
    """A kind of loop.

    Attributes:
      prepare: `(run, envs) -> Training`, where a run begins.
      programs: `(run, state) -> Programs`.
      steps: the loop for one run, a generator.
    """

    prepare: Callable[[RunConfig, Envs], Training]
    programs: Callable[[RunConfig, Any], Programs]
    steps: Steps


def prepare(run: RunConfig, envs: Envs) -> Training:
    """Where a run with a loop of its own begins: it keeps nothing from one update to the next but the state."""
    state = fresh_state(run, envs)
    rng = np.random.default_rng(stream(run.seed, EXPLORATION))
    return Training(Stack([state]), normalizer_init(envs.obs.shape[1], envs.num_envs, False, False), rng, envs)


def fresh_state(run: RunConfig, envs: Envs) -> Any:
    """The learner that a run begins with."""
    both = envs.observation_space, envs.action_space
    own = {}
    if run.networks is not None:
        make = find_callable(run.networks, "networks") if isinstance(run.networks, str) else run.networks
        own = dict(zip(("actor", "critic"), networks_for(make, *both), strict=True))
    state = run.row.init(stream_key(run.seed, NETWORK), run.algorithm_config, *both, **own)
    check_state(run.row, state, envs.obs)
    return state


def programs(run: RunConfig, _: Any) -> Programs:
    """The row's update, whole."""

    def update(state: Any, data: Any) -> Any:
        state, metrics = run.row.update(state, data)
        return state, (metrics_row(run.row, metrics), state.actor.params)

    return Programs(update)


def serve(runs: RunGroup, loop: Loop) -> None:
    """Runs the loop of every run until each has ended."""
    groups = runs.stacked()
    first = groups[0][0]
    programs = _for_size(loop.programs(first.run, first.training.state), len(groups[0]))
    in_turn(_serve(group, loop.steps, programs) for group in groups)


def take_step(training: Training, runner: Runner, env_action: Any) -> Transition:
    """One step of a run's environments, counted and logged. `valid` rows alone count: the others are spent on
    resetting, or nothing can be learned of them."""
    transition = training.envs.step(env_action)
    valid = transition.valid
    training.step += training.envs.num_envs if valid is None else int(np.count_nonzero(valid))
    runner.episodes()
    return transition


def action_bounds(envs: Envs) -> tuple[np.ndarray, np.ndarray] | None:
    """The lowest and the highest actions of a Box, `(A,)` each, in its type; None for another space."""
    space = envs.action_space
    return (space.low.ravel(), space.high.ravel()) if isinstance(space, spaces.Box) else None


def metrics_row(row: Algorithm, metrics: Any) -> jax.Array:
    """An update's metrics as one array, in the order of the row's names: each array that is fetched costs as much as
    the rest of a step."""
    check_metrics(row, metrics)
    return jnp.stack([jnp.asarray(metrics[name]).astype(jnp.float32) for name in row.metrics])


class _Actors:
    """The parameters that runs which are updated together act with. They stay on the device until one of the runs acts:
    it may be busy with them."""

    def __init__(self, programs: Programs, states: Stack) -> None:
        self._programs, self._size = programs, states.size
        self._actor = states.tree.actor
        acting = programs.acting if states.size == 1 else jax.vmap(programs.acting)
        self.latest = acting(states.tree)
        self._fetched: tuple[Any, Any] = None, None  # What was fetched last, on the device and in NumPy.

    def policy_now(self, place: int) -> Callable[[np.ndarray], Any]:
        """The policy of one run as it stands."""
        latest, policy = self.latest, None

        def act(obs: np.ndarray) -> Any:
            nonlocal policy
            if policy is None:
                policy = self._policy(latest, place)
            return policy(obs)

        return act

    def _policy(self, latest: Any, place: int) -> Callable[[np.ndarray], Any]:
        if self._fetched[0] is not latest:
            with timer("wait for the actor"):
                self._fetched = latest, to_host(latest) if isinstance(latest, jax.Array) else jax.device_get(latest)
        acting = self._fetched[1]
        if self._size > 1:
            acting = jax.tree.map(lambda leaf: leaf[place], acting)
        return policy_of(self._actor, self._programs.params_of(acting))


def _for_size(programs: Programs, size: int) -> Programs:
    """The same programs for so many runs at once, and compiled: `update(states, chosen, *data)`."""
    add, halves = programs.add, programs.update if isinstance(programs.update, tuple) else (programs.update,)
    first, *others = (from_host(jax.jit(vmap_selected(half, size), donate_argnums=0)) for half in halves)
    if others:
        [second] = others

        def both(states: Any, chosen: np.ndarray, *data: Any) -> Any:
            states, targets = first(states, chosen, *data)
            # Without the actor, or it would be known no sooner than the critic.
            critic, metrics = second(states.critic, chosen, targets)
            return states.replace(critic=critic), metrics, states.actor.params

        return programs._replace(update=both)

    def one(states: Any, chosen: np.ndarray, *data: Any) -> Any:
        states, (metrics, acting) = first(states, chosen, *data)
        return states, metrics, acting

    if add is not None:
        add = from_host(jax.jit(add if size == 1 else jax.vmap(add), donate_argnums=0))
    return programs._replace(update=one, add=add)


def _serve(group: Sequence[Runner], steps: Steps, programs: Programs) -> Iterator[None]:
    """Serves runs that are updated together; it pauses while an update is under way, for others to go on."""
    learner, memory = group[0].training.learner, group[0].training.memory
    actors = _Actors(programs, learner)
    keys = None if memory is None else Stack([stream_key(runner.run.seed, SAMPLING) for runner in group]).tree
    loops: list[Any] = [
        steps(runner.run, runner.training, runner, functools.partial(actors.policy_now, place))
        for place, runner in enumerate(group)
    ]
    latest: list[Any] = [None] * len(group)  # What each of them gave last; a run that is over gives it again.
    while True:
        requests, failure = _advance(loops, (Update,) if memory is None else (Update, Store))
        if not any(requests) and failure is None:
            return
        chosen = np.array([isinstance(request, Update) and request.due for request in requests])
        latest = [old if new is None else new[0] for old, new in zip(latest, requests, strict=True)]
        kind = next((type(request) for request in requests if request is not None), None)
        if kind is Update and chosen.any():
            assert not isinstance(programs.update, tuple)
            data = (memory.tree, keys) if memory is not None else (stack_on_host(_filled(latest)),)
            learner.tree, metrics, actors.latest = programs.update(learner.tree, chosen, *data)
            for runner, is_chosen in zip(group, chosen, strict=True):
                if is_chosen:
                    runner.learned(metrics)
        elif kind is Store:
            assert memory is not None and programs.add is not None
            memory.tree = programs.add(memory.tree, stack_on_host(_only_new(_filled(latest), requests)))
        if failure is not None:
            raise failure
        if kind is Store or memory is None:
            yield


def _advance(loops: list[Any], kinds: tuple[type, ...]) -> tuple[list[Any], Exception | None]:
    """The next request of each run; None where it is over, and from the first on whose environments fail: what the
    others asked for is whole, and is served before the failure is raised."""
    requests: list[Any] = [None] * len(loops)
    for place, loop in enumerate(loops):
        try:
            request = requests[place] = next(loop, None)
        except (EnvironmentFault, EnvironmentLost) as error:
            if len(loops) == 1:
                raise
            return requests, error
        if request is not None and not isinstance(request, kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise BadInput(f"the loop yielded a {type(request).__name__}: it must yield {wanted}")
    return requests, None


def _filled(latest: Sequence[Any]) -> list[Any]:
    """Of each run what it gave last, of one that has given nothing yet what another gave: it is not chosen."""
    some = next(each for each in latest if each is not None)
    return [some if each is None else each for each in latest]


def _only_new(transitions: list[Transition], requests: Sequence[Any]) -> list[Transition]:
    """The transitions of several runs, those that are not new marked as not valid. Of a single run as they are."""
    if len(transitions) == 1:
        return transitions
    marked = []
    for transition, request in zip(transitions, requests, strict=True):
        valid = np.ones(len(transition.reward), bool) if transition.valid is None else transition.valid
        marked.append(transition._replace(valid=valid & (request is not None)))
    return marked

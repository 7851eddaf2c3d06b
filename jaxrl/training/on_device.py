"""Runs on the device: calls of several updates, and between them all that every run does on the host. Runs that differ
in numbers only, seeds say, can be one call; and one run can be that of several processes, of which the first leads."""

import math
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxrl.data.normalize_on_device import normalizer_on_device
from jaxrl.envs.faults import MAX_FAULTS_PER_EPISODE, Fault
from jaxrl.errors import EnvironmentFault, ProcessLost
from jaxrl.runs.config import RunConfig
from jaxrl.runs.stack import Stack, from_host, stack_on_host
from jaxrl.runs.state import Training
from jaxrl.runs.streams import ENVIRONMENTS, SAMPLING, stream_key
from jaxrl.runs.sweep import sweepable
from jaxrl.timer import timer
from jaxrl.training import off_policy, on_policy
from jaxrl.training.device_envs import RunEnvs
from jaxrl.training.device_loops import Carry
from jaxrl.training.device_programs import MAX_UPDATES, Programs
from jaxrl.training.device_report import Report, finished_episodes
from jaxrl.training.group import RunGroup
from jaxrl.training.processes import BEGIN, CALL, END, FAILED, GATHER, Order, Processes
from jaxrl.training.runner import Runner
from jaxrl.training.sharding import gathered, of_first, own_part
from jaxrl.training.signals import Stops

SECONDS_PER_CALL = 0.5  # Which a call takes then. Signals wait for its end, and between two a millisecond is lost.
MAX_TRANSITIONS = 2**31 - 1  # Of each run in one call, whatever the settings say: the report counts them in int32.
FAULT = "gave, or was given, something that is not finite"


def prepare(run: RunConfig, envs: RunEnvs) -> Training:
    """Where a run begins."""
    begin = on_policy.prepare if run.row.loop == "on_policy" else off_policy.prepare
    training = begin(run, envs)  # type: ignore[arg-type]  # It takes a step of neither kind.
    env_state = jax.jit(envs.device_envs.reset)(stream_key(run.seed, ENVIRONMENTS))
    if training.noise is not None:
        env_state, training.noise = env_state._replace(noise=jax.device_put(training.noise)), None
    training.world = Stack([env_state])
    return training


def serve(runs: RunGroup, processes: Processes) -> None:
    """Runs each of `runs` until it has ended: all of them in one program, which `processes` may share."""
    [group] = runs.stacked([len(list(runs))])
    first = group[0].training
    envs: Any = first.envs
    programs = Programs(group[0].run, envs.device_envs, len(group))
    learner, memory = first.learner, first.memory
    numbers = stack_on_host([_numbers(runner.run) for runner in group])
    with processes.ordered(Order(BEGIN)):
        carry = programs.placed(_first_carry([(runner.run, runner.training) for runner in group]))
        if processes.is_shared:
            of_first(_step_of(first))
            first.world = _Spread(carry.env_state, processes)
    world = first.world
    assert world is not None
    pace = _Pace(group[0].run.updates_per_call)
    for runner in group:
        if memory is not None and runner.run.resume is None:
            runner.say(off_policy.plan(runner.run))
    while going := [(place, runner) for place, runner in enumerate(group) if runner.after_update()]:
        is_random = any(_is_random(runner) for _, runner in going)
        # The steps of runs differ where one has had faults, or was resumed alone. Those that are past their random
        # steps wait for the others.
        waits = [place for place, runner in going if _is_random(runner) != is_random]
        count = min(pace.count, *(_updates_until_due(runner) for place, runner in going if place not in waits))
        counts: Any = np.array([count * (place not in waits) for place in range(len(group))], np.int32)
        counts = counts if waits else np.int32(count)
        with processes.ordered(Order(CALL, count, is_random)):
            program = programs.compiled(carry, counts, numbers, is_random)
            began = time.perf_counter()
            with timer("device"):
                carry, report = program(carry, counts, numbers)
                learner.tree, world.tree = own_part(carry.state), carry.env_state
                if memory is not None:
                    memory.tree = own_part(carry.replay)
                report, normalizer = jax.device_get(own_part((report, carry.normalizer)))
        runs.ask_to_stop(processes.asked_by)
        pace.took(count, time.perf_counter() - began)
        parts = [(report, normalizer)] if len(group) == 1 else _split((report, normalizer), len(group))
        faults = []
        for place, runner in going:
            own, statistics = parts[place]
            runner.training.normalizer = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), statistics)
            faults += _tell(runner, own, not is_random)  # Of one that waits there is nothing to tell.
        if faults:
            raise faults[0]


def follow(run: RunConfig, envs: RunEnvs) -> tuple[Training, int]:
    """Makes the calls that the first process of a distributed run makes, until that ends.

    Returns:
      Where the run has ended, and the number of the signal that has stopped it, or 0.

    Raises:
      ProcessLost: another process is not there any more, or the first has failed.
    """
    training, programs, numbers = prepare(run, envs), Programs(run, envs.device_envs, 1), _numbers(run)
    processes, step = Processes(run), _step_of(training)
    carry: Any = None
    with Stops() as stops:
        while True:
            with processes.heard(stops.asked_by) as order:
                if order.kind == BEGIN:
                    carry, step = programs.placed(_first_carry([(run, training)])), of_first(step)
                elif order.kind == CALL:
                    call = carry, np.int32(order.num_updates), numbers
                    carry, report = programs.compiled(*call, bool(order.is_random))(*call)
                    step = step + jax.device_get(own_part(report.steps)).sum()  # Waits for the end of the call.
                elif order.kind == GATHER:
                    jax.block_until_ready(gathered(carry.env_state))
                else:
                    assert order.kind == END
                    break
    if order.ended_by == FAILED:
        raise ProcessLost("the first process of the run has failed, and says why")
    training.learner, training.step = Stack([own_part(carry.state)]), int(step[0])
    normalizer = jax.device_get(own_part(carry.normalizer))
    training.normalizer = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), normalizer)
    return training, order.ended_by


class _Spread(Stack):
    """The environments of a run, which lie on the devices of several processes: read, they are gathered."""

    def __init__(self, env_state: Any, processes: Processes) -> None:
        super().__init__([env_state])
        self._processes = processes

    def __getitem__(self, place: int) -> Any:
        with self._processes.ordered(Order(GATHER)):
            return jax.block_until_ready(gathered(self.tree))


def _step_of(training: Training) -> np.ndarray:
    return np.array([training.step], np.int64)


def _split(tree: Any, size: int) -> list[Any]:
    """The trees of a stack that was fetched."""
    return [jax.tree.map(lambda leaf, place=place: leaf[place], tree) for place in range(size)]


def _first_carry(group: Sequence[tuple[RunConfig, Training]]) -> Carry:
    """The carry of the first call: where each run begins, or goes on."""
    training = group[0][1]
    normalizer = from_host(normalizer_on_device)(stack_on_host([each.normalizer for _, each in group]))
    replay, key = None, None
    if training.memory is not None:
        replay = training.memory.tree
        key = Stack([stream_key(run.seed, SAMPLING) for run, _ in group]).tree
    assert training.world is not None
    return Carry(training.learner.tree, training.world.tree, normalizer, replay, key)


def _numbers(run: RunConfig) -> dict[str, np.ndarray]:
    """The settings of the loop that may vary from run to run of a sweep."""
    dtype = jax.dtypes.canonicalize_dtype(np.float64)
    return {name: np.asarray(getattr(run.loop, name), dtype) for name in sweepable(run) if hasattr(run.loop, name)}


def _is_random(runner: Runner) -> bool:
    """True if the run is in the steps at its begin that are random."""
    return runner.training.memory is not None and runner.training.step < runner.run.loop.learning_starts


def _updates_until_due(runner: Runner) -> int:
    """After how many updates something is due that waits for a call's end, or no more transitions can be counted."""
    run, step = runner.run, runner.training.step
    per_update = run.num_envs * getattr(run.loop, "num_steps", 1)
    every = [number for number in (run.eval_every, run.checkpoint_every) if number is not None]
    ends = [run.total_steps, *((step // number + 1) * number for number in every)]
    if _is_random(runner):
        ends.append(run.loop.learning_starts)
    return min(math.ceil((min(ends) - step) / per_update), max(1, MAX_TRANSITIONS // per_update))


def _tell(runner: Runner, report: Report, has_learned: bool) -> list[EnvironmentFault]:
    """Tells a run, on the host, what became of it in a call. Returns a fault that ends the run, if there was one."""
    training, start = runner.training, runner.training.step
    envs: Any = training.envs
    episodes, count = deque(finished_episodes(report)), int(report.num_updates)
    for number in range(count):
        end = training.step + int(report.steps[number])
        while episodes and start + episodes[0][0] <= end:
            offset, envs.finished = episodes.popleft()
            training.step = start + offset
            runner.episodes()
        training.step, envs.finished = end, []
        if has_learned:
            runner.learned(report.metrics[number])
        if number < count - 1:
            runner.close_row()
    faulty = np.flatnonzero(report.faults)
    if not len(faulty):
        return []
    if report.halted:
        envs.failed = True
        return [EnvironmentFault(int(faulty[0]), FAULT, start + int(report.fault_step) - training.step)]
    for index in faulty:
        times = f", {report.faults[index]} times" if report.faults[index] > 1 else ""
        envs.faults.append(Fault(int(index), FAULT + times))
    runner.episodes()
    envs.faults = []
    worst = jax.device_get(training.env_state.num_faults)
    if worst.max() <= MAX_FAULTS_PER_EPISODE:
        return []
    envs.failed = True
    text = f"{FAULT}, and was reset for a fault {worst.max()} times without finishing an episode"
    return [EnvironmentFault(int(worst.argmax()), text, 0)]


class _Pace:
    """How many updates a call makes: as many as the settings say, or as take about SECONDS_PER_CALL."""

    def __init__(self, asked: int | None) -> None:
        self.count, self._is_fixed = asked or 1, asked is not None

    def took(self, count: int, seconds: float) -> None:
        """Hears how long a call took. One that was short, because something was due, says little."""
        if not self._is_fixed:
            fits = max(1, int(SECONDS_PER_CALL * count / seconds))
            self.count = min(fits, 4 * max(count, 1), MAX_UPDATES) if count >= self.count else self.count

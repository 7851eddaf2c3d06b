"""Runs on the device: calls of several updates, and between them all that every run does on the host. Runs that differ
in numbers only, seeds say, can be one call."""

import math
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxrl.data.normalize_on_device import normalizer_on_device
from jaxrl.envs.faults import MAX_FAULTS_PER_EPISODE, Fault
from jaxrl.errors import EnvironmentFault
from jaxrl.runs.config import RunConfig
from jaxrl.runs.stack import Stack, from_host, stack_on_host
from jaxrl.runs.state import Training
from jaxrl.runs.streams import ENVIRONMENTS, SAMPLING, stream_key
from jaxrl.runs.sweep import sweepable
from jaxrl.timer import timer
from jaxrl.training import off_policy, on_policy
from jaxrl.training.device_envs import RunEnvs
from jaxrl.training.device_loops import Carry, off_policy_call, on_policy_call
from jaxrl.training.device_report import Report, finished_episodes
from jaxrl.training.group import RunGroup
from jaxrl.training.runner import Runner
from jaxrl.training.sharding import carry_shardings, mesh_of, sharing

MAX_UPDATES = 1024  # In one call, where the settings do not say how many.
SECONDS_PER_CALL = 0.5  # Which a call takes then. Signals wait for its end, and between two a millisecond is lost.
MAX_TRANSITIONS = 2**31 - 1  # Of each run in one call, whatever the settings say: the report counts them in int32.
FAULT = "gave, or was given, something that is not finite"


def prepare(run: RunConfig, envs: RunEnvs) -> Training:
    """Where a run begins."""
    begin = on_policy.prepare if run.row.loop == "on_policy" else off_policy.prepare
    training = begin(run, envs)  # type: ignore[arg-type]  # It takes a step of neither kind.
    training.world = Stack([jax.jit(envs.device_envs.reset)(stream_key(run.seed, ENVIRONMENTS))])
    return training


def serve(runs: RunGroup) -> None:
    """Runs each of `runs` until it has ended: all of them in one program."""
    [group] = runs.stacked([len(list(runs))])
    programs = _Programs(group)
    first = group[0].training
    learner, memory, world = first.learner, first.memory, first.world
    assert world is not None
    carry, numbers = programs.placed(_first_carry(group)), stack_on_host([_numbers(runner.run) for runner in group])
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
        program = programs.compiled(carry, counts, numbers, is_random)
        began = time.perf_counter()
        with timer("device"):
            carry, report = program(carry, counts, numbers)
            learner.tree, world.tree = carry.state, carry.env_state
            if memory is not None:
                memory.tree = carry.replay
            report, normalizer = jax.device_get((report, carry.normalizer))
        pace.took(count, time.perf_counter() - began)
        parts = [(report, normalizer)] if len(group) == 1 else _split((report, normalizer), len(group))
        faults = []
        for place, runner in going:
            own, statistics = parts[place]
            runner.training.normalizer = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), statistics)
            faults += _tell(runner, own, not is_random)  # Of one that waits there is nothing to tell.
        if faults:
            raise faults[0]


def _split(tree: Any, size: int) -> list[Any]:
    """The trees of a stack that was fetched."""
    return [jax.tree.map(lambda leaf, place=place: leaf[place], tree) for place in range(size)]


def _first_carry(group: Sequence[Runner]) -> Carry:
    """The carry of the first call: where each run begins, or goes on."""
    training = group[0].training
    normalizer = from_host(normalizer_on_device)(stack_on_host([runner.training.normalizer for runner in group]))
    replay, key = None, None
    if training.memory is not None:
        replay = training.memory.tree
        key = Stack([stream_key(runner.run.seed, SAMPLING) for runner in group]).tree
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


class _Programs:
    """The compiled calls of runs that differ in numbers only, each for so many of them at once as are in `group`."""

    def __init__(self, group: Sequence[Runner]) -> None:
        self._run, self._size = group[0].run, len(group)
        envs: Any = group[0].training.envs
        self._envs, self._mesh = envs.device_envs, mesh_of(self._run.num_devices)
        self._compiled: dict[tuple[bool, int], Any] = {}

    def placed(self, carry: Carry) -> Carry:
        """The carry on the devices that share it."""
        return carry if self._mesh is None else jax.device_put(carry, carry_shardings(carry, self._mesh, self._size))

    def compiled(self, carry: Carry, counts: Any, numbers: Any, is_random: bool) -> Any:
        """The program, compiled when it is first asked for. `counts` is one number of updates for all runs, or `(S,)`,
        one for each: that is a program of its own, because it is slower."""
        kind = is_random, np.ndim(counts)
        if kind not in self._compiled:
            run, most = self._run, max(self._run.updates_per_call or 1, MAX_UPDATES)
            if run.row.loop == "on_policy":
                call = on_policy_call(run, self._envs, most)
            else:
                call = off_policy_call(run, self._envs, most, is_random)
            if self._size > 1:
                call = jax.vmap(call, in_axes=(0, 0 if np.ndim(counts) else None, 0))
            # The result lies where the next call takes it.
            where = None if self._mesh is None else (carry_shardings(carry, self._mesh, self._size), None)
            jitted = jax.jit(call, donate_argnums=0, out_shardings=where)
            with timer("compile"), sharing(self._mesh, self._size):
                program = from_host(jitted.lower)(carry, counts, numbers).compile()
            self._compiled[kind] = from_host(program)
        return self._compiled[kind]


class _Pace:
    """How many updates a call makes: as many as the settings say, or as take about SECONDS_PER_CALL."""

    def __init__(self, asked: int | None) -> None:
        self.count, self._is_fixed = asked or 1, asked is not None

    def took(self, count: int, seconds: float) -> None:
        """Hears how long a call took. One that was short, because something was due, says little."""
        if not self._is_fixed:
            fits = max(1, int(SECONDS_PER_CALL * count / seconds))
            self.count = min(fits, 4 * max(count, 1), MAX_UPDATES) if count >= self.count else self.count

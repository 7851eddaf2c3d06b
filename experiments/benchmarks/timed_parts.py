"""The parts of runs, timed: environments alone, by backend; and where the time of a run's steps goes. For
benchmark.py.

    python experiments/benchmarks/timed_parts.py ppo-CartPole   # one profile, as JSON: microseconds of a step, by part
"""

import contextlib
import functools
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from timed_runs import JOBS, NEVER

from jaxrl.cli.startup import prepare_jax
from jaxrl.envs.guard import hear_mujoco
from jaxrl.envs.make import make_envs, steps_natively
from jaxrl.errors import BadInput
from jaxrl.timer import listen

PROFILED = "ppo-CartPole", "ppo-HalfCheetah", "ddpg-HalfCheetah"
NUM_ENVS = 8
ALONE = "Gymnasium alone"
LABELS = {
    "adapter": "adapter: copies, checks, episodes",
    "collect": "noise, storing rows, the loop itself",
    "step": "noise, the loop itself",
    "wait for the actor": "waiting for the actor",
    "dispatch": "handing work to the device",
}
COLLECTING = "environment", "policy", LABELS["adapter"], LABELS["collect"]


def envs(repeats: int) -> dict[str, dict[str, dict[str, float]]]:
    """Eight environments alone under random actions: Gymnasium's synchronous vector environment as it is, and ours."""
    found = {}
    for env, count in (("CartPole-v1", 1000), ("HalfCheetah-v5", 400), ("Ant-v5", 150)):
        made: dict[str, Any] = {"Gymnasium's SyncVectorEnv": _as_gymnasium_has_it(env, NUM_ENVS, list(range(NUM_ENVS)))}
        for backend in ("gymnasium", "async", "envpool"):
            try:
                made[f"--env-backend {backend}"] = make_envs(env, NUM_ENVS, 0, backend)
            except BadInput as error:
                print(f"{backend} is left out: {error}", file=sys.stderr)
        rates: dict[str, list[float]] = {name: [] for name in made}
        for _ in range(repeats):
            for name, each in made.items():
                rates[name].append(_rate(each, made["Gymnasium's SyncVectorEnv"].action_space, count))
        for each in made.values():
            each.close()
        found[env] = {name: statistics.median(each) for name, each in rates.items()}
    return {"Steps per second of 8 environments alone": found}


def _as_gymnasium_has_it(env: str, count: int, seed: Any) -> Any:
    """A plain vector environment; for one seed, instead of a list of them, that of the task's own."""
    hear_mujoco()  # Or MuJoCo warns of Gymnasium's own models.
    if isinstance(seed, int):
        made: Any = gym.make_vec(env, count, vectorization_mode="vector_entry_point")
    else:
        made = SyncVectorEnv([functools.partial(gym.make, env)] * count, autoreset_mode=AutoresetMode.SAME_STEP)
    made.reset(seed=seed)
    return made


def _rate(envs: Any, action_space: Any, count: int) -> float:
    action_space.seed(0)
    actions = [action_space.sample() for _ in range(count)]
    began = time.perf_counter()
    for action in actions:
        envs.step(action)
    return count * NUM_ENVS / (time.perf_counter() - began)


def profile(repeats: int) -> dict[str, dict[str, dict[str, float]]]:
    """The time of a run's steps by parts, without its first steps and its evaluations; and the speed of collecting,
    beside Gymnasium's environments alone under the very actions of that run: physics costs what the state asks for."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    collection: dict[str, dict[str, float]] = {}
    for name in PROFILED:
        rounds = []
        for _ in range(repeats):
            command = [sys.executable, __file__, name]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            rounds.append(json.loads(done.stdout.splitlines()[-1]))
        alone = [each.pop(ALONE, 0.0) for each in rounds]
        parts = {part: statistics.median(each[part] for each in rounds) for part in rounds[0]}
        whole = sum(parts.values())
        ordered = sorted(parts.items(), key=lambda part: -part[1])
        found[f"{name}, a step's microseconds"] = {part: {"us": us, "share": us / whole} for part, us in ordered}
        if any(alone):
            times = [sum(each[part] for part in COLLECTING) for each in rounds]
            collection[name] = {
                "collecting, steps/s": 1e6 / statistics.median(times),
                "Gymnasium alone, the same actions": 1e6 / statistics.median(alone),
                "share": statistics.median(a / b for a, b in zip(alone, times, strict=True)),
            }
    return found | {"Collecting, while the critic learns": collection}


class Stopwatch:
    """The time of each part, without the parts within it. Nothing within an evaluation counts, and nothing that was
    before `restart`."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._within: list[float] = []
        self._restarts = False

    def restart(self) -> None:
        """Forgets what was before, once no part is under way."""
        self._restarts = True

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Times what is within it."""
        if self._restarts and not self._within:
            self.seconds.clear()
            self._restarts = False
        kept, began = dict(self.seconds) if name == "evaluation" else None, time.perf_counter()
        self._within.append(0.0)
        try:
            yield
        finally:
            took = time.perf_counter() - began
            own = took - self._within.pop()
            if kept is None:
                self.seconds[name] += own
            else:
                self.seconds.clear()
                self.seconds.update(kept)
            if self._within:
                self._within[-1] += took


def _profile_one(name: str) -> dict[str, float]:
    """Microseconds of a step, by part, from the step on at which the job is warm: all is compiled then."""
    prepare_jax()
    from jaxrl.cli.arguments import parse_run
    from jaxrl.envs.vector import Envs
    from jaxrl.training.train import train

    job, clock = JOBS[name], Stopwatch()
    replay = Replay(job.env, Envs, job.warm_up, clock)
    listen(replay.part)  # Of a loop without rollouts Gymnasium's environment takes no steps.
    flags = f"--algo {job.algo} --env {job.env} {job.flags} --total-steps {job.steps} --eval-every {NEVER}"
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        result = train(parse_run([*flags.split(), "--run-dir", f"{folder}/run"]))
    steps = result.step - replay.steps_before
    return {LABELS.get(part, part): seconds / steps * 1e6 for part, seconds in clock.seconds.items()}


class Replay:
    """Gymnasium's vector environment as it is, given what those that are trained in are given: the same seeds and the
    same actions, some rollouts at a time, so that both are timed in turn.

    Args:
      env: the task.
      kind: the class whose `reset` and `step` are heard.
      warm_up: after so many steps the clock restarts.
      clock: where time goes.
    """

    def __init__(self, env: str, kind: Any, warm_up: int, clock: Stopwatch) -> None:
        self._env, self._warm_up, self._clock = env, warm_up, clock
        self._first: Any = None
        self._actions: list[np.ndarray] = []
        self._plain: Any = None
        self._steps = 0
        self.steps_before = 0  # Those that were taken when the clock restarted.
        self._reset, self._step = kind.reset, kind.step
        kind.reset = lambda envs, seed: self._hear_reset(envs, seed)  # noqa: PLW0108
        kind.step = lambda envs, action: self._hear_step(envs, action)  # noqa: PLW0108

    def _hear_reset(self, envs: Any, seed: Any) -> None:
        self._first = self._first or envs  # Those trained in are reset first.
        if envs is self._first:
            seeds = envs.seeds(seed)
            self._plain = _as_gymnasium_has_it(
                self._env, envs.num_envs, seeds[0] if steps_natively(self._env) else seeds
            )
        self._reset(envs, seed)

    def _hear_step(self, envs: Any, action: np.ndarray) -> Any:
        if envs is self._first:
            self._actions.append(action)
            self._steps += envs.num_envs
            if not self.steps_before and self._steps >= self._warm_up:
                self._clock.restart()
                self.steps_before = self._steps
        return self._step(envs, action)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part of the run; after each rollout Gymnasium's environment takes its steps."""
        with self._clock.part(name):
            yield
        if name == "collect":
            with self._clock.part(ALONE):
                for action in self._actions:
                    self._plain.step(action)
            self._actions.clear()


if __name__ == "__main__":
    print(json.dumps(_profile_one(sys.argv[1])))

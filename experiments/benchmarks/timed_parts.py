"""What runs are made of, timed: environments alone, by backend; and where the time of a run's steps goes. For
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
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from timed_runs import JOBS, NEVER

from jaxrl.envs.guard import hear_mujoco
from jaxrl.envs.make import make_envs
from jaxrl.errors import BadInput

PROFILED = "ppo-CartPole", "ppo-HalfCheetah", "ddpg-HalfCheetah"
NUM_ENVS = 8
ALONE = "Gymnasium alone"
COLLECTING = "environment", "adapter: copies, checks, episodes", "policy", "noise, storing rows, the loop itself"


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
    """Where the time of a run's steps goes, start, compilation and evaluations left out; and how fast collecting is,
    beside Gymnasium's environments alone under the very actions of that run: what physics cost depends on the state."""
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
        if JOBS[name].algo == "ppo":
            times = [sum(each[part] for part in COLLECTING) for each in rounds]
            collection[name] = {
                "collecting, steps/s": 1e6 / statistics.median(times),
                "Gymnasium alone, the same actions": 1e6 / statistics.median(alone),
                "share": statistics.median(a / b for a, b in zip(alone, times, strict=True)),
            }
    return found | {"Collecting, while the critic learns": collection}


class Stopwatch:
    """Where time goes: what is watched counts without what is watched within it."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._within: list[float] = []
        self._stopped = False

    def without(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, in which nothing counts."""

        @functools.wraps(call)
        def unwatched(*arguments: Any, **options: Any) -> Any:
            began, self._stopped = time.perf_counter(), True
            try:
                return call(*arguments, **options)
            finally:
                self._stopped = False
                if self._within:
                    self._within[-1] += time.perf_counter() - began

        return unwatched

    def watch(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, its time counted as a part's."""

        @functools.wraps(call)
        def watched(*arguments: Any, **options: Any) -> Any:
            if self._stopped:
                return call(*arguments, **options)
            began = time.perf_counter()
            self._within.append(0.0)
            try:
                return call(*arguments, **options)
            finally:
                took = time.perf_counter() - began
                self.seconds[part] += took - self._within.pop()
                if self._within:
                    self._within[-1] += took

        return watched

    def patch(self, owner: Any, name: str, part: str) -> None:
        """Watches a function of a module, or a method of a class."""
        setattr(owner, name, self.watch(part, getattr(owner, name)))


class _Module:
    """A module, but for some of its names."""

    def __init__(self, module: Any, **names: Any) -> None:
        self._module = module
        self.__dict__.update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _profile_one(name: str) -> dict[str, float]:
    """Microseconds of a step, by part."""
    from jaxrl.cli import main as cli

    cli._prepare_jax()
    import jax

    from jaxrl.envs.client import VectorClient
    from jaxrl.envs.vector import Envs
    from jaxrl.training import off_policy, on_policy
    from jaxrl.training.evaluator import Evaluator
    from jaxrl.training.runner import Runner
    from jaxrl.training.train import train

    clock = Stopwatch()

    def jit(function: Any, **options: Any) -> Any:
        """Watched from its second call on: the first compiles."""
        first = iter([(call := jax.jit(function, **options))])
        watched = clock.watch("handing work to the device", call)
        return lambda *arguments: next(first, watched)(*arguments)  # noqa: PLW0108

    def acting(function: Any) -> Any:
        return lambda *arguments: clock.watch("policy", function(*arguments))

    for module in (on_policy, off_policy):
        setattr(module, "jax", _Module(jax, jit=jit))  # noqa: B010
        setattr(module, "host_policy", acting(module.host_policy))  # noqa: B010
    waiting = clock.watch("waiting for the actor", np.asarray)
    setattr(off_policy, "np", _Module(np, asarray=waiting))  # noqa: B010
    clock.patch(on_policy, "on_host", "waiting for the actor")
    clock.patch(on_policy, "_taken_in", "normaliser")
    clock.patch(on_policy, "_collect", "noise, storing rows, the loop itself")
    clock.patch(off_policy, "_step", "noise, the loop itself")
    clock.patch(VectorClient, "call", "environment")
    clock.patch(Envs, "step", "adapter: copies, checks, episodes")
    clock.patch(Runner, "after_update", "logs")
    clock.patch(Runner, "episodes", "logs")
    clock.patch(Runner, "save", "checkpoints")
    setattr(Evaluator, "evaluate", clock.without(Evaluator.evaluate))  # noqa: B010
    replay = Replay(JOBS[name].env, VectorClient)
    collect, catch_up = on_policy._collect, clock.watch(ALONE, replay.catch_up)
    setattr(on_policy, "_collect", lambda *arguments: (collect(*arguments), catch_up()))  # noqa: B010
    job = JOBS[name]
    flags = f"--algo {job.algo} --env {job.env} {job.flags} --total-steps {job.steps} --eval-every {NEVER}"
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        result = train(cli.parse_run([*flags.split(), "--run-dir", f"{folder}/run"]))
    return {part: seconds / result.step * 1e6 for part, seconds in clock.seconds.items()}


class Replay:
    """Gymnasium's vector environment as it is, given what those that are trained in are given: the same seeds and the
    same actions, some rollouts at a time, so that both are timed in turn."""

    def __init__(self, env: str, kind: Any) -> None:
        self._env, self._call = env, kind.call
        self._first: Any = None
        self._actions: list[np.ndarray] = []
        self._plain: Any = None
        kind.call = functools.partialmethod(Replay._heard, self)

    @staticmethod
    def _heard(client: Any, self: "Replay", method: str, *arguments: Any, **options: Any) -> Any:
        self._first = self._first or client  # Those trained in are built first.
        if client is self._first and method == "step":
            self._actions.append(arguments[0])
        elif client is self._first and method == "reset":
            self._plain = _as_gymnasium_has_it(self._env, client.vector_env.num_envs, options["seed"])
        return self._call(client, method, *arguments, **options)

    def catch_up(self) -> None:
        """Takes the steps that have been taken since the last call."""
        for action in self._actions:
            self._plain.step(action)
        self._actions.clear()


if __name__ == "__main__":
    print(json.dumps(_profile_one(sys.argv[1])))

"""Whole runs timed from outside, by the commands that a user would type: ours, and those of Stable-Baselines3 and SBX.
For benchmark.py."""

import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import timed_kernels

Rows = dict[str, dict[str, float]]  # Of a table: by the name of a row, by the name of a column.
Tables = dict[str, Rows]

ROOT = Path(__file__).resolve().parents[2]
TRAIN = [sys.executable, str(ROOT / "experiments" / "train.py")]
NEVER = str(10**9)


class Job(NamedTuple):
    """One job that everybody trains: `settings` is for the peers what `flags` are for us. The clock starts after the
    first `warm_up` of `steps`. Evaluations are put off, because the peers make none."""

    algo: str
    env: str
    steps: int
    warm_up: int
    flags: str
    settings: str


CARTPOLE = (
    "--num-steps 32 --num-minibatches 1 --num-epochs 20 --gamma 0.98 --gae-lambda 0.8 --ent-coef 0 "
    "--actor-learning-rate 1e-3 --critic-learning-rate 1e-3 --anneal-learning-rate --clip-eps 0.2"
)
CARTPOLE_PEER = (
    "dict(n_steps=32, batch_size=256, gae_lambda=0.8, gamma=0.98, n_epochs=20, ent_coef=0.0, "
    "learning_rate=lambda left: 1e-3 * left, clip_range=0.2)"
)
MUJOCO = (
    "--num-envs 8 --num-steps 256 --num-minibatches 32 --num-epochs 10 --no-anneal-learning-rate --no-normalize-obs "
    "--no-normalize-reward"
)
MUJOCO_PEER = "dict(n_steps=256, batch_size=64, n_epochs=10)"
OFF_POLICY = "--learning-starts 1000 --log-every 500"
DDPG_PEER, TWIN_PEER = (
    f"dict(learning_starts=1000, batch_size=256, train_freq=1, gradient_steps=1, policy_kwargs=dict(net_arch={widths}))"
    for widths in ([400, 300], [256, 256])
)
JOBS = {
    "ppo-CartPole": Job("ppo", "CartPole-v1", 100_000, 3 * 256, f"--num-envs 8 {CARTPOLE}", CARTPOLE_PEER),
    "ppo-HalfCheetah": Job("ppo", "HalfCheetah-v5", 60_000, 3 * 2048, MUJOCO, MUJOCO_PEER),
    "ppo-Ant": Job("ppo", "Ant-v5", 60_000, 3 * 2048, MUJOCO, MUJOCO_PEER),
    "ddpg-HalfCheetah": Job("ddpg", "HalfCheetah-v5", 6_000, 1_500, OFF_POLICY, DDPG_PEER),
    "td3-HalfCheetah": Job("td3", "HalfCheetah-v5", 6_000, 1_500, OFF_POLICY, TWIN_PEER),
    "sac-HalfCheetah": Job("sac", "HalfCheetah-v5", 6_000, 1_500, OFF_POLICY, TWIN_PEER),
}
UPDATE = "ddpg-update"  # No run, but DDPG's update alone.
MANY_ENVS = "--env CartPole-v1 --num-steps 64 --num-minibatches 16 --num-epochs 4"


class Run(NamedTuple):
    """The result of one of our runs: seconds of the whole process, its peak memory in MiB, and the rows of metrics.csv
    (of the first, where it trains several)."""

    seconds: float
    peak: float
    rows: list[dict[str, str]]

    def rate(self, warm_up: int) -> float:
        """Steps per second from the first row at or after `warm_up` steps to the last."""
        first, last = next(row for row in self.rows if int(row["step"]) >= warm_up), self.rows[-1]
        return (int(last["step"]) - int(first["step"])) / (float(last["wall_time"]) - float(first["wall_time"]))


def run(flags: str, steps: int, env: dict[str, str] | None = None) -> Run:
    """Trains by our command."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*TRAIN, *flags.split(), "--total-steps", str(steps), "--eval-every", NEVER]
        command += ["--run-dir", f"{folder}/run"]
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env)
        assert process.stderr is not None
        said = process.stderr.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        seconds, process.returncode = time.perf_counter() - began, os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise SystemExit(f"benchmark: {' '.join(command)} ended with exit code {process.returncode}: {said}")
        with min(Path(folder).rglob("metrics.csv")).open() as file:
            return Run(seconds, usage.ru_maxrss / 1024, list(csv.DictReader(file)))


def train(repeats: int) -> Tables:
    """Whole runs, logs and checkpoints on."""
    return {
        "Whole runs, checkpoints and logs on": _whole(repeats),
        "PPO on CartPole-v1, 64 steps a rollout, 4 epochs of 16 minibatches": _environments(repeats),
        "PPO on CartPole-v1, 100,000 steps each, the whole process": _together(repeats),
        "From the start of the process to its end, of one rollout, or of 32 updates": _start(repeats),
    }


def _whole(repeats: int) -> Rows:
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in JOBS}
    for _ in range(repeats):
        for name, job in JOBS.items():
            done = run(f"--algo {job.algo} --env {job.env} {job.flags}", job.steps)
            found[name].append((done.rate(job.warm_up), done.peak))
    return {
        name: {
            "steps/s": statistics.median(rate for rate, _ in each),
            "peak memory, MiB": statistics.median(peak for _, peak in each),
        }
        for name, each in found.items()
    }


def _environments(repeats: int) -> Rows:
    found: Rows = {}
    for num_envs in (1, 8, 64, 256):
        steps = 64 * num_envs * (200 if num_envs < 64 else 80)
        rates = [run(f"{MANY_ENVS} --num-envs {num_envs}", steps).rate(steps // 5) for _ in range(repeats)]
        found[f"{num_envs} environments"] = {"steps/s": statistics.median(rates)}
    return found


def _together(repeats: int) -> Rows:
    job = JOBS["ppo-CartPole"]
    one = f"--env {job.env} {job.flags}"
    rates = ",".join(f"{1e-4 * 1.3**i:.3g}" for i in range(16))
    kinds = {
        "one run": one,
        "5 seeds": f"{one} --num-seeds 5 --num-threads 1",
        "16 learning rates": f"{one} --sweep actor_learning_rate={rates} --num-threads 1",
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(repeats):
        for name, flags in kinds.items():
            seconds[name].append(run(flags, job.steps).seconds)
    return {
        name: {"seconds": statistics.median(each), "x one run": _ratio(each, seconds["one run"])}
        for name, each in seconds.items()
    }


def _start(repeats: int) -> Rows:
    found: Rows = {}
    for name, flags, steps in (
        ("ppo-CartPole", f"--num-envs 8 {CARTPOLE}", 256),
        ("ddpg-HalfCheetah", "--learning-starts 256 --buffer-size 10000", 288),
    ):
        job = JOBS[name]
        cold: list[float] = []
        warm: list[float] = []
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as cache:
                env = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
                for seconds in (cold, warm):
                    seconds.append(run(f"--algo {job.algo} --env {job.env} {flags}", steps, env).seconds)
        found[name] = {
            "empty compilation cache, s": statistics.median(cold),
            "filled cache, s": statistics.median(warm),
        }
    return found


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over rounds."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


# --- peers ------------------------------------------------------------------------------------------------------------

PEER = """
import sys, time, warnings
warnings.filterwarnings("ignore")
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
library, algo, env, steps, warm_up = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])
settings = eval(sys.argv[6])
if library == "sb3":
    import stable_baselines3 as peer
    settings["device"] = "cpu"
else:
    import sbx as peer
class Clock(BaseCallback):
    began = None
    def _on_step(self):
        if self.began is None and self.num_timesteps > warm_up:  # The update that ends it is done.
            self.began, self.at = time.perf_counter(), self.num_timesteps
        return True
clock = Clock()
envs = make_vec_env(env, n_envs=8 if algo == "ppo" else 1, seed=0)
model = getattr(peer, algo.upper())("MlpPolicy", envs, seed=0, **settings)
model.learn(steps, callback=clock)
print((model.num_timesteps - clock.at) / (time.perf_counter() - clock.began))
"""
TORCH_UPDATE = """
import sys, time
import numpy as np, torch
from torch import nn
S, A, B, H, G, count = *map(int, sys.argv[1:6]), int(sys.argv[6])
def net(sizes): return [nn.Linear(m, n) for m, n in sizes]
def mu(n, s): return torch.tanh(n[2](torch.relu(n[1](torch.relu(n[0](s))))))
def q(n, s, a): return n[2](torch.relu(n[1](torch.cat([torch.relu(n[0](s)), a], 1))))[:, 0]
sizes = [(S, H), (H, G), (G, A)], [(S, H), (H + A, G), (G, 1)]
actor, critic, slow_actor, slow_critic = (net(x) for x in sizes * 2)
up = torch.optim.Adam(nn.ModuleList(actor).parameters(), 1e-4)
fit = torch.optim.Adam(nn.ModuleList(critic).parameters(), 1e-3, weight_decay=1e-2)
params = list(nn.ModuleList(actor + critic).parameters())
slow_params = list(nn.ModuleList(slow_actor + slow_critic).parameters())
rng = np.random.default_rng(0)
s, a, r, s2, going = (rng.normal(size=(10_000, n)).astype(np.float32).squeeze() for n in (S, A, 1, S, 1))
def update():
    i = rng.integers(0, len(s), B)
    bs, ba, br, bs2, bg = (torch.from_numpy(x[i]) for x in (s, a, r, s2, going))
    with torch.no_grad(): y = br + 0.99 * bg * q(slow_critic, bs2, mu(slow_actor, bs2))
    fit.zero_grad(); ((q(critic, bs, ba) - y) ** 2).mean().backward(); fit.step()
    up.zero_grad(); (-q(critic, bs, mu(actor, bs)).mean()).backward(); up.step()
    with torch.no_grad():
        for slow, new in zip(slow_params, params): slow.lerp_(new, 0.005)
for _ in range(30): update()
began = time.perf_counter()
for _ in range(count): update()
print(count / (time.perf_counter() - began))
"""


def peers(repeats: int, python: str | None, jobs: Sequence[str], ours: str) -> Tables:
    """Times us, Stable-Baselines3 and SBX in turn on the same jobs, and DDPG's update beside an eager PyTorch one.
    `ours` are more flags for us."""
    python = python or str(_peers_environment())
    rows: Rows = {}
    for name in (name for name in jobs if name != UPDATE):
        job, rounds = JOBS[name], []
        for _ in range(repeats):
            done = run(f"--algo {job.algo} --env {job.env} {job.flags} {ours}", job.steps)
            rates = {"jaxrl": done.rate(job.warm_up)}
            numbers = str(job.steps), str(job.warm_up)
            for library in ("sb3", "sbx"):
                command = [python, "-c", PEER, library, job.algo, job.env, *numbers, job.settings]
                rates[library] = float(_output(command).split()[-1])
            rounds.append(rates)
            print(name, {each: round(rate) for each, rate in rates.items()}, file=sys.stderr, flush=True)
        rows[f"{name} {ours}".strip()] = _beside(rounds, "steps/s")
    tables = {"The same job, in turn": rows} if rows else {}
    if UPDATE in jobs:
        sizes = map(str, (timed_kernels.OBS, timed_kernels.ACTIONS, timed_kernels.BATCH, *timed_kernels.HIDDEN, 300))
        command, call = [python, "-c", TORCH_UPDATE, *sizes], timed_kernels.ddpg_call()
        rounds = []
        for _ in range(repeats):
            [rate] = timed_kernels.in_turn({"": call}, 1)[""]
            rounds.append({"jaxrl": rate, "eager PyTorch": float(_output(command))})
        tables["DDPG's update alone, in turn"] = {timed_kernels.DDPG: _beside(rounds, "updates/s")}
    return tables


def _beside(rounds: Sequence[dict[str, float]], unit: str) -> dict[str, float]:
    """A row: medians of each, and of the ratios of the first to the others."""
    columns = {name: [each[name] for each in rounds] for name in rounds[0]}
    first, *others = columns
    row = {f"{name}, {unit}": statistics.median(rates) for name, rates in columns.items()}
    return row | {f"x {name}": _ratio(columns[first], columns[name]) for name in others}


def _peers_environment() -> Path:
    """The interpreter of a virtual environment with the peers in it, made where there is none."""
    folder = ROOT / ".venv-peers"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not (folder / "made").exists():
        print(f"making {folder}, which takes some minutes", file=sys.stderr)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
            # In this version first: a plain torch brings gigabytes of CUDA with it.
            subprocess.run([*pip, "torch==2.13.0"], check=True)
            subprocess.run([*pip, "stable-baselines3", "sbx-rl", "gymnasium[mujoco,classic-control]"], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(
                f"benchmark: {folder} cannot be made ({error}); name an interpreter by --python"
            ) from error
        (folder / "made").touch()
    return python


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"benchmark: {command[0]} failed: {' '.join(done.stderr.split())[-300:]}")
    return done.stdout

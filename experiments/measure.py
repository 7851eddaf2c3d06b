"""Repeats the figures that the README quotes, each by the command that a user would type.

    python experiments/measure.py seeds OUT.csv 0 1 2 -- --algo ppo --env CartPole-v1 --total-steps 100000
    python experiments/measure.py solved
    python experiments/measure.py peers PYTHON ppo CartPole-v1
    python experiments/measure.py peers PYTHON ddpg HalfCheetah-v5
    python experiments/measure.py peers PYTHON ppo HalfCheetah-v5 -- --env-backend envpool
    python experiments/measure.py update PYTHON
    python experiments/measure.py memory [--job ppo]
    python experiments/measure.py saves
    python experiments/measure.py backends
    python experiments/measure.py against REFERENCE.csv Hopper runs/ddpg-Hopper-v5-seed*/evaluations.csv

`seeds` trains once per seed and keeps each run's last evaluation. `solved` takes the time from the start of the process
to the first evaluation of 100 episodes with a mean of 475. `peers` times us, Stable-Baselines3 and SBX in turn, on the
same job; `update` times DDPG's update alone, in turn with the matrix products that it is made of and with an eager
PyTorch one. PYTHON is an interpreter that has torch, stable-baselines3 and sbx-rl. `memory` follows the resident size,
open files and threads of a run, `saves` gives the share of a run's time that its checkpoints take, `backends` times the
environments alone. `against` sets evaluations, one file a seed, beside a task's curve in a file with the columns
task,step,mean_return.
"""

import argparse
import csv
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

TRAIN = [sys.executable, str(Path(__file__).parent / "train.py")]

# The jobs of `peers`: steps in all, steps before each clock starts, what we are told, and what the peers are told.
# Evaluations are put off to the end for us, because the peers make none.
WARM_UP_ROLLOUTS = 3
MUJOCO_JOB = (
    60_000,
    WARM_UP_ROLLOUTS * 8 * 256,
    "--num-envs 8 --num-steps 256 --num-minibatches 32 --num-epochs 10 --no-anneal-learning-rate "
    "--no-normalize-obs --no-normalize-reward",
    "dict(n_steps=256, batch_size=64, n_epochs=10)",
)
JOBS = {
    ("ppo", "HalfCheetah-v5"): MUJOCO_JOB,
    ("ppo", "Ant-v5"): MUJOCO_JOB,
    ("ppo", "CartPole-v1"): (
        100_000,
        WARM_UP_ROLLOUTS * 8 * 32,
        "--num-envs 8 --num-steps 32 --num-minibatches 1 --num-epochs 20 --gamma 0.98 --gae-lambda 0.8 --ent-coef 0 "
        "--actor-learning-rate 1e-3 --critic-learning-rate 1e-3 --anneal-learning-rate --clip-eps 0.2",
        "dict(n_steps=32, batch_size=256, gae_lambda=0.8, gamma=0.98, n_epochs=20, ent_coef=0.0, "
        "learning_rate=lambda left: 1e-3 * left, clip_range=0.2)",
    ),
    ("ddpg", "HalfCheetah-v5"): (
        6_000,
        1_500,
        "--learning-starts 1000 --log-every 500",
        "dict(learning_starts=1000, batch_size=256, train_freq=1, gradient_steps=1, "
        "policy_kwargs=dict(net_arch=[400, 300]))",
    ),
}
PEER = """
import sys, time, warnings
warnings.filterwarnings("ignore")
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
library, algo, env, steps, warm_up = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])
settings = eval(sys.argv[6])
if library == "sb3":
    from stable_baselines3 import DDPG, PPO
    settings["device"] = "cpu"
else:
    from sbx import DDPG, PPO
class Clock(BaseCallback):
    began = None
    def _on_step(self):
        if self.began is None and self.num_timesteps >= warm_up:
            self.began, self.at = time.perf_counter(), self.num_timesteps
        return True
clock = Clock()
kind, n_envs = (PPO, 8) if algo == "ppo" else (DDPG, 1)
model = kind("MlpPolicy", make_vec_env(env, n_envs=n_envs, seed=0), seed=0, **settings)
model.learn(steps, callback=clock)
print((model.num_timesteps - clock.at) / (time.perf_counter() - clock.began))
"""


def seeds(out: Path, numbers: Sequence[int], flags: Sequence[str]) -> None:
    """Trains once per seed and writes a row of the last evaluation for each."""
    with out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["flags", "seed", "step", "mean_return", "std_return", "episodes", "wall_time"])
        for seed in numbers:
            with tempfile.TemporaryDirectory() as folder:
                run_dir = Path(folder, "run")
                _quietly([*TRAIN, *flags, "--seed", str(seed), "--run-dir", str(run_dir)])
                last = _rows(run_dir / "evaluations.csv")[-1]
            names = ("step", "mean_return", "std_return", "episodes", "wall_time")
            writer.writerow([" ".join(flags), seed, *(last[name] for name in names)])
            file.flush()
            print(f"seed {seed}: {float(last['mean_return']):.1f}", flush=True)
    returns = [float(row["mean_return"]) for row in _rows(out)]
    print(f"mean {statistics.fmean(returns):.1f} +- {statistics.pstdev(returns):.1f}, lowest {min(returns):.1f}")


def solved(repeats: int) -> None:
    """Prints the median time from the process's start to solved CartPole; the first run warms the compilation cache."""
    times = []
    for seed in range(repeats + 1):
        with tempfile.TemporaryDirectory() as folder:
            table, began = Path(folder, "run", "evaluations.csv"), time.perf_counter()
            flags = f"--algo ppo_kl --env CartPole-v1 --stop-return 475 --seed {seed} --run-dir {folder}/run".split()
            process = subprocess.Popen([*TRAIN, *flags], stdout=subprocess.DEVNULL)
            while not (table.is_file() and any(float(row["mean_return"]) >= 475 for row in _rows(table))):
                assert process.poll() is None or table.is_file(), "the run failed"
                time.sleep(0.01)
            times.append(time.perf_counter() - began)
            process.wait()
            print(f"seed {seed}: {times[-1]:.2f} s{' (cold cache)' if seed == 0 else ''}", flush=True)
    print(f"median of {repeats}: {statistics.median(times[1:]):.2f} s")


def peers(python: str, algo: str, env: str, repeats: int, ours: str) -> None:
    """Times the three libraries in turn and prints the median ratio of each round; `ours` are more flags for us."""
    steps, warm_up, flags, settings = JOBS[algo, env]
    rounds = []
    for _ in range(repeats):
        rates = {"jaxrl": _our_rate(algo, env, steps, warm_up, f"{flags} {ours}")}
        for library in ("sb3", "sbx"):
            command = [python, "-c", PEER, library, algo, env, str(steps), str(warm_up), settings]
            rates[library] = float(_quietly(command).split()[-1])
        rounds.append(rates)
        print(json.dumps({name: round(rate) for name, rate in rates.items()}), flush=True)
    for library in ("sb3", "sbx"):
        ratio = statistics.median(each["jaxrl"] / each[library] for each in rounds)
        print(f"{algo} {env} {ours}: {ratio:.2f} x {library}, median of {repeats}")


def _our_rate(algo: str, env: str, steps: int, warm_up: int, flags: str) -> float:
    """Steps per second after the warm-up, logs and checkpoints included."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder, "run")
        command = [*TRAIN, "--algo", algo, "--env", env, "--total-steps", str(steps), "--eval-every", str(10**9)]
        _quietly([*command, *flags.split(), "--run-dir", str(run_dir)])
        rows = _rows(run_dir / "metrics.csv")
    first = next(row for row in rows if int(row["step"]) >= warm_up)
    taken = int(rows[-1]["step"]) - int(first["step"])
    return taken / (float(rows[-1]["wall_time"]) - float(first["wall_time"]))


OBS, ACTIONS, BATCH, HIDDEN = 17, 6, 256, (400, 300)  # Of `update`: HalfCheetah's.
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


def update(python: str, repeats: int) -> None:
    """Prints our DDPG updates per second, sampling included, beside their ceiling and eager PyTorch's."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from gymnasium import spaces

    from jaxrl.ddpg import DDPGConfig, DDPGState, ddpg_init, ddpg_update
    from jaxrl.replay import Replay, replay_add, replay_init, replay_sample
    from jaxrl.transition import Transition

    rng = np.random.default_rng(0)
    obs, action, reward = (rng.normal(size=(10_000, *shape)).astype(np.float32) for shape in ((OBS,), (ACTIONS,), ()))
    flags = np.zeros(10_000, bool)
    seen = Transition(obs, action, reward, obs[::-1], flags, flags)
    stored = replay_add(replay_init(100_000, OBS, ACTIONS), seen)
    box = spaces.Box(-1.0, 1.0, (OBS,)), spaces.Box(-1.0, 1.0, (ACTIONS,))
    state, key = ddpg_init(jax.random.key(0), DDPGConfig(), *box), jax.random.key(1)

    @functools.partial(jax.jit, donate_argnums=0)
    def learn(state: DDPGState, replay: Replay) -> DDPGState:
        return ddpg_update(state, replay_sample(replay, jax.random.fold_in(key, state.num_updates), BATCH))[0]

    # Of a product (m, k) x (k, n). Forward: both target networks, critic, actor, critic above it; then what is left of
    # each backward pass, where the actor's through the critic needs neither the critic's weights nor its first layer.
    wide, narrow = HIDDEN
    actor = [(BATCH, OBS, wide), (BATCH, wide, narrow), (BATCH, narrow, ACTIONS)]
    critic = [(BATCH, OBS, wide), (BATCH, wide + ACTIONS, narrow), (BATCH, narrow, 1)]
    products = 2 * actor + 3 * critic
    products += [(OBS, BATCH, wide), (wide + ACTIONS, BATCH, narrow), (narrow, BATCH, 1)]
    products += [(BATCH, 1, narrow), (BATCH, narrow, wide)]
    products += [(BATCH, 1, narrow), (BATCH, narrow, ACTIONS)]
    products += [(OBS, BATCH, wide), (wide, BATCH, narrow), (narrow, BATCH, ACTIONS)]
    products += [(BATCH, ACTIONS, narrow), (BATCH, narrow, wide)]
    pairs = [
        (jnp.asarray(rng.normal(size=(m, k)), jnp.float32), jnp.asarray(rng.normal(size=(k, n)), jnp.float32))
        for m, k, n in products
    ]
    multiply = jax.jit(lambda pairs: [a @ b for a, b in pairs])

    def ours() -> Any:
        nonlocal state
        state = learn(state, stored)
        return state.num_updates

    def rate(call: Callable[[], Any], count: int) -> float:
        """Calls per second, waiting for the last one only."""
        began = time.perf_counter()
        for _ in range(count):
            last = call()
        jax.block_until_ready(last)
        return count / (time.perf_counter() - began)

    rounds = []
    for call in (ours, ceiling := lambda: multiply(pairs)):
        rate(call, 20)
    for _ in range(repeats):
        turns = [(rate(ours, 10), rate(ceiling, 10)) for _ in range(30)]
        sizes = map(str, (OBS, ACTIONS, BATCH, *HIDDEN, 300))
        us, bound = (statistics.median(each) for each in zip(*turns, strict=True))
        rates = {"jaxrl": us, "ceiling": bound, "torch": float(_quietly([python, "-c", TORCH_UPDATE, *sizes]))}
        rounds.append(rates | {"share": statistics.median(a / b for a, b in turns)})
        print(json.dumps({name: round(rate, 2) for name, rate in rounds[-1].items()}), flush=True)
    torch_ratio = statistics.median(each["jaxrl"] / each["torch"] for each in rounds)
    share = statistics.median(each["share"] for each in rounds)
    print(f"{torch_ratio:.2f} x eager PyTorch, {share:.0%} of the ceiling, medians of {repeats}")


# The jobs of `memory`, their steps, and the steps that the slope is given for: small networks, so that there are many;
# checkpoints, which hold the buffer twice for a moment, are put off.
SMALL_DDPG = "--algo ddpg --env HalfCheetah-v5 --hidden-sizes 32 32 --learning-starts 1000 --eval-every 10000"
LONG = {
    "ddpg": (SMALL_DDPG, 200_000, 100_000),
    "ppo": ("--algo ppo --env CartPole-v1 --eval-every 100000", 2_000_000, 1_000_000),
}


def memory(job: str, steps: int) -> None:
    """Prints how fast the resident size of a run grows, from a fifth of its steps on, by a line fitted to all samples;
    and which numbers of open files and of threads were seen."""
    import numpy as np

    (flags, _, unit), samples, counts = LONG[job], [], set()
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder, "run")
        command = [*TRAIN, *flags.split(), "--total-steps", str(steps), "--checkpoint-every", str(10**9)]
        process = subprocess.Popen([*command, "--run-dir", str(run_dir)], stdout=subprocess.DEVNULL)
        about = Path("/proc", str(process.pid))
        while process.poll() is None:
            time.sleep(0.5)
            rows = _rows(run_dir / "metrics.csv") if (run_dir / "metrics.csv").is_file() else []
            if rows and steps // 5 <= int(rows[-1]["step"]) < steps * 0.99:
                pages = int((about / "statm").read_text().split()[1])
                samples.append((int(rows[-1]["step"]), pages * os.sysconf("SC_PAGE_SIZE") / 2**20))
                counts.add((len(list((about / "fd").iterdir())), len(list((about / "task").iterdir()))))
    assert process.returncode == 0, "the run failed"
    for step, size in samples[:: max(1, len(samples) // 10)]:
        print(f"step {step:,}: {size:,.1f} MiB")
    steps_seen, sizes = np.array(samples).T
    slope = np.polyfit(steps_seen, sizes, 1)[0]
    print(f"{slope * unit:+.2f} MiB per {unit:,} steps over {len(samples)} samples; (open files, threads): {counts}")


def saves() -> None:
    """Prints the share of a run's time that its checkpoints take, at the default interval and without an evaluation."""
    from jaxrl.cli import parse_run
    from jaxrl.run import train
    from jaxrl.session import Session

    save, taken = Session.save, []

    def timed(*arguments: Any) -> None:
        began = time.perf_counter()
        save(*arguments)
        taken.append(time.perf_counter() - began)

    setattr(Session, "save", timed)  # noqa: B010
    for flags in (
        "--algo ddpg --env Pendulum-v1 --total-steps 20000 --checkpoint-every 10000",
        "--algo ppo --env CartPole-v1 --total-steps 500000",
        "--algo ppo --env HalfCheetah-v5 --total-steps 300000",
    ):
        taken.clear()
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            train(parse_run([*flags.split(), "--eval-every", str(10**9), "--run-dir", f"{folder}/run"]))
            took = time.perf_counter() - began
        print(f"{flags}: {len(taken)} checkpoints, {sum(taken):.2f} s of {took:.1f} s, {sum(taken) / took:.2%}")


def backends(repeats: int) -> None:
    """Prints the steps per second of eight environments under random actions, by backend, taken in turn."""
    import numpy as np

    from jaxrl.envs import make_envs

    rng, num_envs = np.random.default_rng(0), 8
    for env, count in (("HalfCheetah-v5", 400), ("Ant-v5", 150)):
        all_envs = {backend: make_envs(env, num_envs, 0, backend) for backend in ("gymnasium", "envpool", "async")}
        rates: dict[str, list[float]] = {backend: [] for backend in all_envs}
        for _ in range(repeats):
            for backend, envs in all_envs.items():
                shape = count, num_envs, *(envs.action_space.shape or ())
                actions = rng.uniform(-1, 1, shape).astype(np.float32)
                began = time.perf_counter()
                for action in actions:
                    envs.step(action)
                rates[backend].append(count * num_envs / (time.perf_counter() - began))
        for envs in all_envs.values():
            envs.close()
        print(env, {backend: round(statistics.median(each)) for backend, each in rates.items()}, flush=True)


def against(reference: Path, task: str, files: Sequence[Path], since: int, until: int) -> None:
    """Prints the mean return over the steps that all curves share, ours and the reference's, and a 95 % bootstrap
    interval of the difference over our seeds. A reference of one seed has a spread too, which nobody has measured: the
    second interval takes it to be ours, which is what it is if both are one algorithm.
    """
    import numpy as np

    theirs = {int(row["step"]): float(row["mean_return"]) for row in _rows(reference) if row["task"] == task}
    if not theirs:
        sys.exit(
            f"{reference} has no task {task}: it has {', '.join(sorted({row['task'] for row in _rows(reference)}))}"
        )
    ours = [{int(row["step"]): float(row["mean_return"]) for row in _rows(path)} for path in files]
    steps = [step for step in sorted(theirs) if since <= step <= until and all(step in curve for curve in ours)]
    means = np.array([np.mean([curve[step] for step in steps]) for curve in ours])
    mark = float(np.mean([theirs[step] for step in steps]))
    rng, count = np.random.default_rng(0), len(means)
    draws = means[rng.integers(0, count, (10_000, count))].mean(1) - mark
    low, high = np.percentile(draws, [2.5, 97.5])
    # Of one more seed: residuals of a sample lie closer to its mean than to the true one, by sqrt((n - 1) / n).
    another = rng.choice((means - means.mean()) * (count / max(count - 1, 1)) ** 0.5, 10_000)
    wide_low, wide_high = np.percentile(draws - another, [2.5, 97.5])
    print(f"{task}, steps {steps[0]:,} to {steps[-1]:,}: ours {means.round(1).tolist()}, reference {mark:.1f}")
    print(f"difference {means.mean() - mark:+.1f}, 95 % interval {low:+.1f} to {high:+.1f}", end="; ")
    print(f"with one seed's spread for the reference {wide_low:+.1f} to {wide_high:+.1f}")


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def _quietly(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout


def main() -> None:
    """Reads the command line."""
    argv, flags = sys.argv[1:], []
    if "--" in argv:
        argv, flags = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    def command(name: str, call: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        added = commands.add_parser(name)
        added.set_defaults(call=call)
        return added

    def peers_if_known(given: argparse.Namespace) -> None:
        if (given.algo, given.env) not in JOBS:
            parser.error(f"there is no job of {given.algo} on {given.env}")
        peers(given.python, given.algo, given.env, given.repeats, " ".join(flags))

    each = command("seeds", lambda given: seeds(given.out, given.numbers, flags))
    each.add_argument("out", type=Path)
    each.add_argument("numbers", type=int, nargs="+")
    command("solved", lambda given: solved(given.repeats)).add_argument("--repeats", type=int, default=5)
    command("backends", lambda given: backends(given.repeats)).add_argument("--repeats", type=int, default=5)
    each = command("update", lambda given: update(given.python, given.repeats))
    each.add_argument("python")
    each.add_argument("--repeats", type=int, default=5)
    each = command("peers", peers_if_known)
    each.add_argument("python")
    each.add_argument("algo", choices=sorted({algo for algo, _ in JOBS}))
    each.add_argument("env", choices=sorted({env for _, env in JOBS}))
    each.add_argument("--repeats", type=int, default=5)
    each = command("memory", lambda given: memory(given.job, given.steps or LONG[given.job][1]))
    each.add_argument("--job", choices=sorted(LONG), default="ddpg")
    each.add_argument("--steps", type=int)
    command("saves", lambda given: saves())
    each = command("against", lambda given: against(given.reference, given.task, given.files, given.since, given.until))
    each.add_argument("reference", type=Path)
    each.add_argument("task")
    each.add_argument("files", type=Path, nargs="+")
    each.add_argument("--since", type=int, default=0)
    each.add_argument("--until", type=int, default=10**12)
    given = parser.parse_args(argv)
    given.call(given)


if __name__ == "__main__":
    main()

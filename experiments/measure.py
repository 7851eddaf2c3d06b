"""Repeats the figures that the README quotes, each by the command that a user would type.

    python experiments/measure.py seeds OUT.csv 0 1 2 -- --algo ppo --env CartPole-v1 --total-steps 100000
    python experiments/measure.py solved
    python experiments/measure.py peers PYTHON CartPole-v1

`seeds` trains once per seed and keeps each run's last evaluation. `solved` takes the time from the start of the process
to the first evaluation of 100 episodes with a mean of 475. `peers` times us and PPO of Stable-Baselines3 and SBX in
turn, on the same job; PYTHON is an interpreter that has stable-baselines3 and sbx-rl.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

TRAIN = [sys.executable, str(Path(__file__).parent / "train.py")]

# The job of `peers`: what we are told, and what the peers are told. Evaluations are put off to the end for us, because
# the peers make none.
JOBS = {
    "CartPole-v1": (
        100_000,
        "--num-envs 8 --num-steps 32 --num-minibatches 1 --num-epochs 20 --gamma 0.98 --gae-lambda 0.8 --ent-coef 0 "
        "--actor-learning-rate 1e-3 --critic-learning-rate 1e-3 --anneal-learning-rate --clip-eps 0.2",
        "dict(n_steps=32, batch_size=256, gae_lambda=0.8, gamma=0.98, n_epochs=20, ent_coef=0.0, "
        "learning_rate=lambda left: 1e-3 * left, clip_range=0.2)",
    ),
    "HalfCheetah-v5": (
        60_000,
        "--num-envs 8 --num-steps 256 --num-minibatches 32 --num-epochs 10 --no-anneal-learning-rate "
        "--no-normalize-obs --no-normalize-reward",
        "dict(n_steps=256, batch_size=64, n_epochs=10)",
    ),
}
WARM_UP = {"CartPole-v1": 3 * 8 * 32, "HalfCheetah-v5": 3 * 8 * 256}  # Steps before our clock starts: three rollouts.
PEER = """
import sys, time, warnings
warnings.filterwarnings("ignore")
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
library, env, steps, settings = sys.argv[1], sys.argv[2], int(sys.argv[3]), eval(sys.argv[4])
if library == "sb3":
    from stable_baselines3 import PPO
    settings["device"] = "cpu"
else:
    from sbx import PPO
class Clock(BaseCallback):
    began = None
    def _on_step(self):
        if self.began is None and self.num_timesteps >= 3 * 8 * settings["n_steps"]:
            self.began, self.at = time.perf_counter(), self.num_timesteps
        return True
clock = Clock()
model = PPO("MlpPolicy", make_vec_env(env, n_envs=8, seed=0), seed=0, **settings)
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


def peers(python: str, env: str, repeats: int) -> None:
    """Times the three libraries in turn and prints the median ratio of each round."""
    steps, flags, settings = JOBS[env]
    rounds = []
    for _ in range(repeats):
        rates = {"jaxrl": _our_rate(env, steps, flags)}
        for library in ("sb3", "sbx"):
            command = [python, "-c", PEER, library, env, str(steps), settings]
            rates[library] = float(_quietly(command).split()[-1])
        rounds.append(rates)
        print(json.dumps({name: round(rate) for name, rate in rates.items()}), flush=True)
    for library in ("sb3", "sbx"):
        ratio = statistics.median(each["jaxrl"] / each[library] for each in rounds)
        print(f"{env}: {ratio:.2f} x {library}, median of {repeats}")


def _our_rate(env: str, steps: int, flags: str) -> float:
    """Steps per second after the first three rollouts, logs and checkpoints included."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder, "run")
        command = [*TRAIN, "--algo", "ppo", "--env", env, "--total-steps", str(steps), "--eval-every", str(10**9)]
        _quietly([*command, *flags.split(), "--run-dir", str(run_dir)])
        rows = _rows(run_dir / "metrics.csv")
    first = next(row for row in rows if int(row["step"]) >= WARM_UP[env])
    taken = int(rows[-1]["step"]) - int(first["step"])
    return taken / (float(rows[-1]["wall_time"]) - float(first["wall_time"]))


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def _quietly(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    each = commands.add_parser("seeds")
    each.add_argument("out", type=Path)
    each.add_argument("numbers", type=int, nargs="+")
    for name in ("solved", "peers"):
        command = commands.add_parser(name)
        if name == "peers":
            command.add_argument("python")
            command.add_argument("env", choices=JOBS)
        command.add_argument("--repeats", type=int, default=5)
    argv, flags = sys.argv[1:], []
    if "--" in argv:
        argv, flags = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    given = parser.parse_args(argv)
    if given.command == "seeds":
        seeds(given.out, given.numbers, flags)
    elif given.command == "solved":
        solved(given.repeats)
    else:
        peers(given.python, given.env, given.repeats)


if __name__ == "__main__":
    main()

"""Repeats the figures that the README quotes, each by the command that a user would type.

    python experiments/benchmarks/measure.py seeds OUT.csv 0 1 2 -- --algo ppo --env CartPole-v1 --total-steps 100000
    python experiments/benchmarks/measure.py solved
    python experiments/benchmarks/measure.py memory [--job ppo]
    python experiments/benchmarks/measure.py saves
    python experiments/benchmarks/measure.py random experiments/results/random.csv Hopper-v5 Walker2d-v5
    python experiments/benchmarks/measure.py against REFERENCE.csv Hopper runs/ddpg-Hopper-v5-seed*/evaluations.csv

`seeds` trains once per seed and keeps each run's last evaluation. `solved` takes the time from the start of the
process to the first evaluation of 100 episodes with a mean of 475. `memory` follows the resident size, open files and
threads of a run, `saves` gives the share of a run's time that its checkpoints take. `random` plays tasks with
uniformly random actions, the zero of normalised scores. `against` sets evaluations, one file per seed, beside a task's
curve in a file with the columns task,step,mean_return. For speed there is benchmark.py.
"""

import argparse
import csv
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from jaxrl.cli.startup import current_folder_first
from jaxrl.errors import BadInput
from jaxrl.studies.script import Parser
from jaxrl.training.evaluate import evaluate, make_eval_envs

TRAIN = [sys.executable, str(Path(__file__).parents[1] / "train.py")]


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
    from jaxrl.cli.arguments import parse_run
    from jaxrl.training.runner import Runner
    from jaxrl.training.train import train

    save, taken = Runner.save, []

    def timed(*arguments: Any) -> None:
        began = time.perf_counter()
        save(*arguments)
        taken.append(time.perf_counter() - began)

    setattr(Runner, "save", timed)  # noqa: B010
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


def random(out: Path, tasks: Sequence[str], episodes: int) -> None:
    """Writes what uniformly random actions return, a row for each task."""
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise BadInput(f"{out} cannot be written: it must be a file in a folder that is there")
    if episodes < 1:
        raise BadInput(f"--episodes is {episodes}: it must be at least 1")
    rng, rows = np.random.default_rng(0), []
    for task in tasks:
        envs = make_eval_envs(task, episodes)
        space = envs.action_space
        if not (isinstance(space, Box) and space.is_bounded()):
            raise BadInput(f"{task} has no Box of bounded actions to draw from")
        played = evaluate(functools.partial(_uniform, rng, space), envs, episodes, 0)
        envs.close()
        assert played is not None
        rows.append({"env": task, "mean_return": f"{played[0].mean():.6g}", "std_return": f"{played[0].std():.6g}"})
        print(f"{task}: {played[0].mean():.1f} +- {played[0].std():.1f} over {episodes} episodes", flush=True)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "episodes"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | {"episodes": episodes} for row in rows)


def _uniform(rng: np.random.Generator, box: Box, obs: np.ndarray) -> np.ndarray:
    return rng.uniform(box.low, box.high, (len(obs), *box.shape)).astype(np.float32)


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
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(required=True)

    def command(name: str, call: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        added = commands.add_parser(name)
        added.set_defaults(call=call)
        return added

    each = command("seeds", lambda given: seeds(given.out, given.numbers, flags))
    each.add_argument("out", type=Path)
    each.add_argument("numbers", type=int, nargs="+")
    command("solved", lambda given: solved(given.repeats)).add_argument("--repeats", type=int, default=5)
    each = command("memory", lambda given: memory(given.job, given.steps or LONG[given.job][1]))
    each.add_argument("--job", choices=sorted(LONG), default="ddpg")
    each.add_argument("--steps", type=int)
    command("saves", lambda given: saves())
    each = command("random", lambda given: random(given.out, given.tasks, given.episodes))
    each.add_argument("out", type=Path)
    each.add_argument("tasks", nargs="+")
    each.add_argument("--episodes", type=int, default=100)
    each = command("against", lambda given: against(given.reference, given.task, given.files, given.since, given.until))
    each.add_argument("reference", type=Path)
    each.add_argument("task")
    each.add_argument("files", type=Path, nargs="+")
    each.add_argument("--since", type=int, default=0)
    each.add_argument("--until", type=int, default=10**12)
    given = parser.parse_args(argv)
    try:
        with current_folder_first():
            given.call(given)
    except FileNotFoundError as error:
        parser.error(f"there is no {error.filename}")
    except BadInput as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.path = [folder for folder in sys.path if folder != str(Path(__file__).resolve().parent)]  # As train.py does.
    main()

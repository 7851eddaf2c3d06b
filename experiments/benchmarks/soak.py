"""Kills training runs with SIGKILL at random moments, resumes them, and counts how many end with the very bits of the
run that was never stopped.

    python experiments/benchmarks/soak.py                      # 300 runs, about three quarters of an hour
    python experiments/benchmarks/soak.py --runs 2 ddpg-Pendulum ppo-CartPole
    python experiments/benchmarks/soak.py signals --runs 10    # 60 runs: three signals, two backends

Each run is killed once, at a moment uniform over the time that the whole run took, start-up and compilation included;
two in five of them instead inside a save, at one of its writes. Then it is resumed to its end (or begun again, where it
had not come to its first checkpoint), and its last checkpoint compared: every array, every generator, the environments,
the buffer's parts. Files left over in its folder count too.
"""

import hashlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jaxrl.storage.files import load_arrays
from jaxrl.studies.script import Parser

TRAIN = [sys.executable, str(Path(__file__).parents[1] / "train.py")]
SMALL = "--eval-every 1000 --eval-episodes 2 --log-every 200 --seed 1"
JOBS = {
    **{
        f"{algo}-Pendulum": f"--algo {algo} --env Pendulum-v1 --total-steps 3000 --learning-starts 500 --batch-size 64 "
        f"--hidden-sizes 64 48 --buffer-size 5000 --checkpoint-every 250 {SMALL}"
        for algo in ("ddpg", "td3", "sac")
    },
    # Its kills cross the first update and the buffer's wrap-around.
    "ddpg-Hopper": f"--algo ddpg --env Hopper-v5 --total-steps 3000 --learning-starts 800 --batch-size 64 "
    f"--hidden-sizes 64 48 --buffer-size 1700 --checkpoint-every 250 {SMALL}",
    "ppo-CartPole": f"--algo ppo --env CartPole-v1 --total-steps 40000 --checkpoint-every 2000 {SMALL}",
    "ppo-HalfCheetah": f"--algo ppo --env HalfCheetah-v5 --total-steps 16384 --num-envs 4 --num-steps 128 "
    f"--checkpoint-every 2000 {SMALL}",
}
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
# Kills its own process at one of the calls that put a file in place, counted from the start of the process.
SABOTAGE = """
import os, pathlib, signal, sys
left = int(sys.argv.pop(1))
def counted(call):
    def instead(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    return instead
os.fsync, pathlib.Path.replace = counted(os.fsync), counted(pathlib.Path.replace)
from jaxrl.cli.main import train_command
sys.exit(train_command())
"""


def digest(run_dir: Path) -> str:
    """SHA-256 over all that the last checkpoint of a run holds, its buffer included, but for the time that it took."""
    folder = run_dir / "checkpoints"
    arrays, notes = load_arrays(folder / "latest.npz")
    found = hashlib.sha256()
    for name in sorted(arrays):
        found.update(name.encode() + arrays[name].tobytes())
    for first, last, _ in notes["segments"]:
        rows, _ = load_arrays(folder / f"replay-{first:012d}-{last:012d}.npz")
        for name in sorted(rows):
            found.update(name.encode() + rows[name].tobytes())
    evaluations = [each[:-1] for each in notes["evaluations"]]
    kept = {name: note for name, note in notes.items() if name not in ("wall_time", "evaluations")}
    found.update(repr((sorted(kept.items()), evaluations)).encode())
    return found.hexdigest()


def leftovers(run_dir: Path) -> list[str]:
    """Files that no finished run leaves."""
    return [path.name for path in run_dir.rglob("*") if path.name.endswith(".tmp") or path.name == "next.npz"]


def killed(flags: list[str], folder: Path, rng: random.Random, took: float, in_a_save: bool) -> None:
    """Runs until it is killed: after a time, or inside a save."""
    if in_a_save:
        command = [sys.executable, "-c", SABOTAGE, str(rng.randrange(1, 40))]
        subprocess.run([*command, *flags, "--run-dir", str(folder)], stdout=subprocess.DEVNULL, check=False)
        return
    process = subprocess.Popen([*TRAIN, *flags, "--run-dir", str(folder)], stdout=subprocess.DEVNULL)
    time.sleep(rng.uniform(0, took))
    process.send_signal(signal.SIGKILL)
    process.wait()


def soak(job: str, runs: int) -> int:
    """The number of `runs` that did not end as the run that was never stopped."""
    flags, rng, failed = JOBS[job].split(), random.Random(job), 0
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch, "whole")
        began = time.monotonic()
        subprocess.run([*TRAIN, *flags, "--run-dir", str(whole)], check=True, stdout=subprocess.DEVNULL)
        took, expected = time.monotonic() - began, digest(whole)
        for index in range(runs):
            folder = Path(scratch, str(index))
            killed(flags, folder, rng, took, in_a_save=index % 5 in (1, 3))
            again = ["--resume", str(folder)]
            if not any((folder / "checkpoints" / f"{name}.npz").is_file() for name in ("latest", "previous")):
                shutil.rmtree(folder, ignore_errors=True)
                again = [*flags, "--run-dir", str(folder)]
            end = subprocess.run([*TRAIN, *again], stdout=subprocess.DEVNULL, check=False)
            good = end.returncode == 0 and digest(folder) == expected and not leftovers(folder)
            failed += not good
            if not good:
                print(f"{job}, run {index}: exit code {end.returncode}, {leftovers(folder)}", flush=True)
            shutil.rmtree(folder)
    print(f"{job}: {runs - failed} of {runs} end as the run that was never stopped", flush=True)
    return failed


def processes_below(pid: int) -> list[Path]:
    """The folders in /proc of a process's descendants."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            found += [Path(f"/proc/{child}"), *processes_below(child)]
    return found


def signals(runs: int) -> int:
    """The number of runs, of `runs` for each signal and backend, that were not saved within ten seconds with the
    documented exit code, or left a process behind."""
    failed, rng = 0, random.Random(0)
    for backend, (kind, code), index in itertools.product(("gymnasium", "async"), CODES.items(), range(runs)):
        algo = ("--algo ddpg --learning-starts 300 --batch-size 32", "--algo ppo --num-steps 64 --num-minibatches 2")
        flags = f"{algo[index % 2]} --hidden-sizes 32 32 --num-envs 2 --env Pendulum-v1 --total-steps 10000000 {SMALL}"
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch, "run")
            command = [*TRAIN, *flags.split(), "--env-backend", backend, "--run-dir", str(folder)]
            before = signal.signal(kind, lambda *_: None)  # A signal that is ignored here is ignored there.
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            signal.signal(kind, before)
            while process.poll() is None and not (folder / "evaluations.csv").is_file():
                time.sleep(0.05)
            time.sleep(rng.uniform(0, 3))
            below, began = processes_below(process.pid), time.monotonic()
            process.send_signal(kind)
            _, complaint = process.communicate()
            took = time.monotonic() - began
            patience = time.monotonic() + 10  # Python's own tracker of resources ends a moment after its parent.
            while (left := [path for path in below if path.exists()]) and time.monotonic() < patience:
                time.sleep(0.1)
            saved = (folder / "checkpoints" / "latest.npz").is_file()
            good = process.returncode == code and saved and took < 10 and not (left or complaint or leftovers(folder))
            failed += not good
            if not good:
                print(f"{backend}, {kind.name}, run {index}: {process.returncode}, {took:.1f} s, {left}, {complaint}")
    print(f"signals: {6 * runs - failed} of {6 * runs} saved, with the right exit code and no process left", flush=True)
    return failed


def main() -> None:
    """Reads the command line."""
    parser = Parser(description=__doc__)
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=f"some of {', '.join(JOBS)}; all by default")
    parser.add_argument("--runs", type=int, default=50, help="runs of each job")
    given = parser.parse_args()
    if unknown := [job for job in given.jobs if job not in (*JOBS, "signals")]:
        parser.error(f"there is no job {unknown[0]}: there are {', '.join(JOBS)} and signals")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir(), "jaxrl-soak-cache")))
    failed = [signals(given.runs) if job == "signals" else soak(job, given.runs) for job in given.jobs or JOBS]
    sys.exit(1 if any(failed) else 0)


if __name__ == "__main__":
    main()

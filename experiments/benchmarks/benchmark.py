"""The benchmark that anyone can run: how fast kernels, environments and whole runs are on this machine, and beside what
one would use instead.

    python experiments/benchmarks/benchmark.py kernels   # updates beside their products; several learners at once
    python experiments/benchmarks/benchmark.py envs      # environments alone, by backend
    python experiments/benchmarks/benchmark.py train     # whole runs: speed, start, memory, many environments and runs
    python experiments/benchmarks/benchmark.py profile   # where a run's time goes
    python experiments/benchmarks/benchmark.py device    # the whole loop on the device, beside rejax
    python experiments/benchmarks/benchmark.py peers     # Stable-Baselines3 and SBX on the same jobs, in turn
    python experiments/benchmarks/benchmark.py compare OLD.json NEW.json

Each prints Markdown tables, medians of `--repeats` rounds in which everything that is compared takes its turn, and with
`--out FOLDER` leaves them there as NAME.md and NAME.json. `compare` sets two such files side by side. `peers` makes a
virtual environment of its own, `.venv-peers`, unless `--python` names an interpreter that has the two libraries. Rejax
needs an older gymnax, and so an environment of its own, too, whose interpreter `--rejax` names:

    python -m venv .venv-rejax && .venv-rejax/bin/pip install -c constraints.txt rejax==0.1.3 gymnax==0.0.9
"""

import json
from pathlib import Path

import timed_kernels
import timed_on_device
import timed_parts
import timed_rest
import timed_runs
from timed_runs import JOBS, UPDATE, Tables

from jaxrl.runs.origin import machine, versions
from jaxrl.studies.script import Parser
from jaxrl.studies.tables import markdown

PEER_JOBS = [*JOBS, UPDATE]


def kernels(repeats: int) -> Tables:
    """The kernels alone."""
    spent = "Where TD3's and SAC's updates spend their time: each part alone, us"
    return timed_kernels.kernels(repeats) | {spent: timed_rest.rest(repeats)}


def compare(old: Path, new: Path) -> Tables:
    """Each figure that two results share, and their ratio."""
    before, after = (json.loads(path.read_text())["tables"] for path in (old, new))
    found: Tables = {}
    for title, rows in before.items():
        for name, row in rows.items():
            for column, figure in row.items():
                now = after.get(title, {}).get(name, {}).get(column)
                if now is not None and figure:
                    ratio = {"old": figure, "new": now, "new / old": now / figure}
                    found.setdefault(title, {})[f"{name}: {column}"] = ratio
    return found


COMMANDS = {
    "kernels": kernels,
    "envs": timed_parts.envs,
    "train": timed_runs.train,
    "profile": timed_parts.profile,
}


def main() -> None:
    """Reads the command line."""
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(required=True, dest="name")
    for name in (*COMMANDS, "device", "peers"):
        added = commands.add_parser(name)
        added.add_argument("--repeats", type=int, default=3)
        added.add_argument("--out", type=Path, help="folder for NAME.md and NAME.json")
        if name == "device":
            added.add_argument("--rejax", help="an interpreter that has rejax; without it, ours alone")
            sizes = list(timed_on_device.UPDATES)
            added.add_argument(
                "--envs", type=int, nargs="+", default=sizes, choices=sizes, help="how many environments"
            )
    added.add_argument("--python", help="an interpreter with torch, stable-baselines3 and sbx-rl")
    added.add_argument(
        "--jobs", nargs="+", default=PEER_JOBS, choices=PEER_JOBS, metavar="JOB", help=", ".join(PEER_JOBS)
    )
    added.add_argument("--ours", default="", help="more flags for us, as one word: '--env-backend envpool'")
    added = commands.add_parser("compare")
    added.add_argument("old", type=Path)
    added.add_argument("new", type=Path)
    given = parser.parse_args()
    if given.name == "compare":
        try:
            print(markdown(compare(given.old, given.new)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            parser.error(f"{given.old} and {given.new} must be two results, left by --out: {error}")
        return
    if given.repeats < 1:
        parser.error(f"--repeats is {given.repeats}: it must be at least 1")
    if given.out is not None:
        try:
            given.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"--out {given.out} cannot be made: {error.strerror}")
    if given.name == "peers":
        tables = timed_runs.peers(given.repeats, given.python, given.jobs, given.ours)
    elif given.name == "device":
        tables = timed_on_device.device(given.repeats, given.rejax, given.envs)
    else:
        tables = COMMANDS[given.name](given.repeats)
    text = f"`python experiments/benchmarks/benchmark.py {given.name}`\n\n{markdown(tables)}"
    print(text)
    if given.out is not None:
        (given.out / f"{given.name}.md").write_text(text)
        content = {"command": given.name, "repeats": given.repeats, "machine": machine() | versions(), "tables": tables}
        (given.out / f"{given.name}.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()

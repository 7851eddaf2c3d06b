"""Tables of what was measured of RLOO, from runs of rloo.py.

    python experiments/rloo_study.py ends RUN_DIR ... --out experiments/results/rloo/ends.csv
    python experiments/rloo_study.py curves RUN_DIR ... --out experiments/results/rloo/curves.csv
    python experiments/rloo_study.py variance start=RUN_DIR later=RUN_DIR --out experiments/results/rloo/variance.csv
    python experiments/rloo_study.py speed --out experiments/results/rloo/speed.csv

`ends` says from where to where runs came, and what it took. `curves` gathers evaluations of runs that began with
`--start` (folders START-0, START-1, ... are one panel's), with completions drawn in place of updates. `variance` draws
completions from the last policies of runs. `speed` times sampling and updates beside their matrix products.
"""

import csv
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rloo import Questions, Settings, begin, read_settings
from sequences.variance import moments, spreads

from jaxrl.algos.rloo import rloo_update
from jaxrl.algos.sampling import sample_completions
from jaxrl.errors import BadInput
from jaxrl.runs.checkpoints import Checkpoints
from jaxrl.storage.files import load_arrays
from jaxrl.studies.script import Parser
from jaxrl.studies.tables import read_rows

COUNTS = 2, 4, 8
EACH = 16  # Completions of a prompt, for variance.
GOOD = 0.9
NAMES = {"rloo": "RLOO", "batch_mean": "REINFORCE, batch mean", "reinforce": "REINFORCE, no baseline"}


def ends(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """The shares of questions that runs answered right when their supervised steps ended, and that they do now."""
    found = []
    for run in runs:
        settings, notes = read_settings(run), load_arrays(run / "checkpoints" / "latest.npz", ())[1]
        begun = 0 if settings.start is not None else settings.supervised_steps
        later = [(int(row["step"]) - begun, float(row["mean_return"])) for row in read_rows(run / "evaluations.csv")]
        later = [(step, share) for step, share in later if step >= 0]
        good = [step for step, share in later if share >= GOOD]
        found.append(
            {"algorithm": settings.algo, "seed": settings.seed, "at the start": f"{later[0][1]:.1%}"}
            | {
                "updates": later[-1][0],
                "at the end": f"{later[-1][1]:.1%}",
                "90 % by update": good[0] if good else "never",
            }
            | {"seconds": f"{notes['wall_time']:.0f}", "of a processor": f"{notes['processor_time']:.0f}"}
        )
    return found


def curves(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """The evaluations of runs, in a panel for each policy that they began with."""
    found = []
    for run in runs:
        settings = read_settings(run)
        drawn = settings.prompts * settings.completions
        name = f"{NAMES.get(settings.algo, settings.algo)}, K = {settings.completions}"
        name += "" if settings.kl_coef == Settings.kl_coef else f", kl_coef {settings.kl_coef:g}"
        panel = f"{settings.task}, from {Path(settings.start or 'nothing').name.removesuffix(f'-{settings.seed}')}"
        for row in read_rows(run / "evaluations.csv"):
            known = {"env": panel, "variant": name, "seed": settings.seed, "step": int(row["step"]) * drawn}
            found.append(known | {"mean_return": float(row["mean_return"])})
    return sorted(found, key=lambda row: (row["env"], row["variant"], row["seed"], row["step"]))


def variance(policies: dict[str, Path], prompts: int) -> list[dict[str, Any]]:
    """The spread of gradient estimates at the last policies of runs."""
    found = []
    for name, run in policies.items():
        settings = read_settings(run)
        questions = Questions(dataclasses.replace(settings, prompts=prompts, completions=EACH))
        params = Checkpoints(run).load(like=begin(settings, questions)).tree.policy.params
        rows = questions.answered(params, 0)
        within, between, squared_mean = moments(np.asarray(rows.reward).reshape(-1, EACH))
        for spread in spreads(questions.policy, params, rows, EACH, COUNTS):
            known = {"s2": within, "t2": between, "m2": squared_mean}
            numbers = {key: f"{value:.4f}" for key, value in (spread._asdict() | known).items() if type(value) is float}
            words = {"policy": name, "K": spread.completions, "baseline": spread.estimate}
            found.append(words | numbers)
    return found


def speed(rounds: int) -> list[dict[str, Any]]:
    """Tokens a second of an update and of sampling, in turn with their matrix products alone."""
    settings = Settings()
    questions = Questions(settings)
    state = begin(settings, questions)
    rows = jax.device_put(questions.answered(state.policy.params, 0))
    size, (batch, length) = questions.answer_length, rows.tokens.shape
    prompts, seen = (field[:, : questions.prompt_length] for field in (rows.tokens, rows.attention))
    update = jax.jit(rloo_update)
    params, never = state.policy.params, len(jax.tree.leaves(state))  # No token has that number: none ends early.

    def sampled() -> Any:
        return sample_completions(questions.policy, params, jax.random.key(0), prompts, seen, size, 1.0, never).tokens

    calls: dict[str, tuple[int, Callable[[], Any], Callable[[], Any]]] = {
        f"update of {batch} completions": (
            batch * length,
            lambda: update(state, rows)[1]["kl"],
            _products(settings, batch * length, passes=4),  # Two forward, and one backward, which is worth two.
        ),
        f"sampling {batch} completions": (
            batch * size,
            sampled,
            _sampling_products(settings, batch, length - size, size),
        ),
    }
    found = []
    for name, (tokens, call, products) in calls.items():
        rates = np.array([[tokens / _seconds(each) for each in (call, products)] for _ in range(rounds)])
        ours, ceiling = (statistics.median(column) for column in rates.T.tolist())
        share = statistics.median((rates[:, 0] / rates[:, 1]).tolist())
        numbers = {"tokens/s": f"{ours:,.0f}", "their products alone": f"{ceiling:,.0f}", "share": f"{share:.0%}"}
        found.append({"what": name} | numbers)
    return found


def _seconds(call: Callable[[], Any], repeats: int = 5) -> float:
    """The median time of a call."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _weights(settings: Settings) -> list[jax.Array]:
    """Matrices of the shapes of a decoder's layers."""
    width = settings.width
    shapes = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)] * settings.layers
    return [jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32) for shape in shapes]


def _products(settings: Settings, tokens: int, passes: int) -> Callable[[], Any]:
    """The products of so many forward passes over so many tokens, attention's own left out."""
    weights = _weights(settings)
    inputs = [jnp.ones((passes, tokens, len(weight)), jnp.float32) for weight in weights]
    program = jax.jit(lambda inputs, weights: [x @ weight for x, weight in zip(inputs, weights, strict=True)])
    return lambda: program(inputs, weights)


def _sampling_products(settings: Settings, batch: int, prompt: int, steps: int) -> Callable[[], Any]:
    """Those of a pass over the prompts and of a pass over each new token."""
    first = _products(settings, batch * prompt, passes=1)
    weights = _weights(settings)
    inputs = [jnp.ones((batch, len(weight)), jnp.float32) for weight in weights]

    @jax.jit
    def program(inputs: list[jax.Array], weights: list[jax.Array]) -> Any:
        def step(scale: jax.Array, _: None) -> tuple[jax.Array, list[jax.Array]]:
            outputs = [(scale * x) @ weight for x, weight in zip(inputs, weights, strict=True)]
            return scale + sum(output[0, 0] for output in outputs), outputs

        return jax.lax.scan(step, jnp.ones(()), length=steps)

    return lambda: (first(), program(inputs, weights))


def main(argv: list[str] | None = None) -> int:
    """The command; its exit code. After bad input it raises SystemExit with code 2."""
    parser = Parser(description=__doc__)
    parser.add_argument("what", choices=("ends", "curves", "variance", "speed"))
    parser.add_argument("sources", nargs="*", help="folders of runs; for variance NAME=RUN_DIR")
    parser.add_argument("--out", type=Path, required=True, help="the table to write")
    parser.add_argument("--prompts", type=int, default=128, help="prompts of variance [128]")
    given = parser.parse_args(argv)
    try:
        if given.what == "speed":
            rows = speed(rounds=5)
        elif not given.sources:
            parser.error(f"{given.what} needs runs: name their folders")
        elif given.what in ("ends", "curves"):
            rows = (ends if given.what == "ends" else curves)([Path(source) for source in given.sources])
        else:
            named = (source.partition("=") for source in given.sources)
            rows = variance({name: Path(run or name) for name, _, run in named}, given.prompts)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        with given.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    except (BadInput, OSError) as error:
        parser.error(str(error))
    print(given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

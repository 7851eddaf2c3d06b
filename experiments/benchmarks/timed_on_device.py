"""The whole loop on the device beside rejax, which has one of that kind: PPO on CartPole, equal settings, in turn.

    python -m venv .venv-rejax && .venv-rejax/bin/pip install -c constraints.txt rejax==0.1.3 gymnax==0.0.9
    python experiments/benchmarks/timed_on_device.py --rejax .venv-rejax/bin/python

Both have 64-64 tanh networks for actor and critic, 4 epochs of 16 minibatches, rollouts of 64 steps, and XLA's default
precision of products. `loop` is a scan of one's own over `collect` and `ppo_update`; `run` is the command with all that
it leaves behind; `collect` is the loop without its update, which says what share the update has; `host` is the command
with Gymnasium's environments. Every figure is the median of `--repeats` rounds in which all take their turn: steps per
second of the clock, and per second of the processor, which other work on the machine disturbs less. The clock starts
after compilation, whose seconds are a column.
"""

import argparse
import csv
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NUM_STEPS, NUM_EPOCHS, NUM_MINIBATCHES = 64, 4, 16
UPDATES = {64: 60, 2048: 12}  # Two seconds or so of each.
FORMATS = {"steps/s": ",.0f", "steps/s of processor": ",.0f", "compiling, s": ".1f", "parameters": ",.0f"}
ROOT = Path(__file__).resolve().parents[2]


def ours(num_envs: int, updates: int, learns: bool) -> Any:
    """The loop of docs/on_device.md, compiled, and its argument."""
    import jax

    from jaxrl.algos.ppo import PPOConfig, ppo_init, ppo_update
    from jaxrl.envs.on_device import collect, make_device_envs
    from jaxrl.runs.behaviour import behaviour_policy

    envs = make_device_envs("CartPole-v1", num_envs)
    config = PPOConfig(num_epochs=NUM_EPOCHS, num_minibatches=NUM_MINIBATCHES)

    def train(key: Any) -> Any:
        first, second = jax.random.split(key)
        state = ppo_init(first, config, envs.observation_space, envs.action_space)

        def update(carry: Any, _: None) -> Any:
            state, env_state = carry
            env_state, rollout = collect(envs, env_state, behaviour_policy("ppo", state), NUM_STEPS)
            if not learns:
                return (state, env_state), rollout.reward.mean()
            state, metrics = ppo_update(state, rollout)
            return (state, env_state), metrics["kl"]

        return jax.lax.scan(update, (state, envs.reset(second)), length=updates)

    return jax.jit(train), jax.random.key(0)


def theirs(num_envs: int, updates: int) -> Any:
    """Rejax's PPO with the same settings, and no evaluation but a trivial one at its end."""
    import jax
    import jax.numpy as jnp

    rejax: Any = importlib.import_module("rejax")  # In an interpreter of its own, and not in this one.
    steps = num_envs * NUM_STEPS * updates
    algo = rejax.PPO.create(
        env="CartPole-v1", num_envs=num_envs, num_steps=NUM_STEPS, num_epochs=NUM_EPOCHS,
        num_minibatches=NUM_MINIBATCHES, total_timesteps=steps, eval_freq=steps, skip_initial_evaluation=True,
        agent_kwargs={"activation": "tanh", "hidden_layer_sizes": (64, 64)},
    )  # fmt: skip
    algo = algo.replace(eval_callback=lambda *_: jnp.zeros(()))
    return jax.jit(algo.train), jax.random.PRNGKey(0)


def worker(kind: str, num_envs: int) -> dict[str, float]:
    """One measurement, in a process of its own."""
    import jax

    updates = UPDATES[num_envs] * (10 if kind == "collect" else 1)
    began = time.perf_counter()
    if kind == "rejax":
        train, key = theirs(num_envs, updates)
    else:
        train, key = ours(num_envs, updates, kind == "loop")
    program = train.lower(key).compile()
    compiled = time.perf_counter()
    clock, processor = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(program(key))
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    steps = updates * num_envs * NUM_STEPS
    state = result[0] if kind == "rejax" else result[0][0]
    actor = state.actor_ts if kind == "rejax" else state.actor
    critic = state.critic_ts if kind == "rejax" else state.critic
    count = sum(leaf.size for leaf in jax.tree.leaves((actor.params, critic.params)))
    return {
        "steps/s": steps / clock,
        "steps/s of processor": steps / processor,
        "compiling, s": compiled - began,
        "parameters": count,
    }


def command(kind: str, num_envs: int) -> dict[str, float]:
    """The same by the command, timed by its own rows of metrics: from the first quarter of its steps on."""
    steps = num_envs * NUM_STEPS * UPDATES[num_envs] * 4
    flags = f"--algo ppo --env CartPole-v1 --num-envs {num_envs} --num-steps {NUM_STEPS} --num-epochs {NUM_EPOCHS}"
    flags += f" --num-minibatches {NUM_MINIBATCHES} --no-anneal-learning-rate --eval-every none --total-steps {steps}"
    flags += f" --env-backend {'jax' if kind == 'run' else 'gymnasium'} --log-every 1 --checkpoint-every {10**9}"
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        words = [sys.executable, str(ROOT / "experiments" / "train.py"), *flags.split(), "--run-dir", str(run)]
        subprocess.run(words, check=True, capture_output=True)
        with (run / "metrics.csv").open() as file:
            rows = [(int(row["step"]), float(row["wall_time"])) for row in csv.DictReader(file)]
    first = next(row for row in rows if row[0] >= steps / 4)
    return {"steps/s": (rows[-1][0] - first[0]) / (rows[-1][1] - first[1])}


def measured(kind: str, num_envs: int, python: str) -> dict[str, float]:
    """One measurement from outside."""
    if kind in ("run", "host"):
        return command(kind, num_envs)
    words = [python if kind == "rejax" else sys.executable, __file__, "--worker", kind, "--envs", str(num_envs)]
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rejax", help="an interpreter that has rejax; without it, ours alone")
    parser.add_argument("--envs", type=int, nargs="+", default=list(UPDATES), choices=list(UPDATES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", default=["loop", "rejax", "run", "collect", "host"])
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(worker(given.worker, given.envs[0])))
        return
    kinds = [kind for kind in given.kinds if kind != "rejax" or given.rejax]
    print("| environments | | " + " | ".join(FORMATS) + " |")
    print("|---|---|" + "---|" * len(FORMATS))
    for num_envs in given.envs:
        rounds = [{kind: measured(kind, num_envs, given.rejax) for kind in kinds} for _ in range(given.repeats)]
        for kind in kinds:
            found = {name: statistics.median(each[kind][name] for each in rounds) for name in rounds[0][kind]}
            cells = [format(found[name], how) if name in found else "" for name, how in FORMATS.items()]
            print(f"| {num_envs:,} | {kind} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()

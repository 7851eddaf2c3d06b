"""The whole loop on the device beside rejax, which has one of that kind: PPO on CartPole, equal settings, in turn. For
benchmark.py.

Both have 64-64 tanh networks for actor and critic, 4 epochs of 16 minibatches, rollouts of 64 steps, and XLA's default
precision of products. LOOP is a scan of one's own over `collect` and `ppo_update`; COLLECT is that loop without its
update, which says what share the update has; RUN is the command with all that it leaves behind, and HOST the same with
Gymnasium's environments. Steps per second of the processor are disturbed less by other work on the machine than those
of the clock. The clock starts after compilation, whose seconds are a column.
"""

import csv
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NUM_STEPS, NUM_EPOCHS, NUM_MINIBATCHES = 64, 4, 16
UPDATES = {64: 60, 2048: 12}  # Two seconds or so of each.
LOOP, REJAX, RUN, COLLECT = "a loop of one's own", "rejax", "`jaxrl train`", "the loop without its update"
HOST = "`jaxrl train`, Gymnasium's environments"
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

    updates = UPDATES[num_envs] * (10 if kind == COLLECT else 1)
    began = time.perf_counter()
    if kind == REJAX:
        train, key = theirs(num_envs, updates)
    else:
        train, key = ours(num_envs, updates, kind == LOOP)
    program = train.lower(key).compile()
    compiled = time.perf_counter()
    clock, processor = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(program(key))
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    steps = updates * num_envs * NUM_STEPS
    state = result[0] if kind == REJAX else result[0][0]
    actor = state.actor_ts if kind == REJAX else state.actor
    critic = state.critic_ts if kind == REJAX else state.critic
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
    flags += f" --env-backend {'jax' if kind == RUN else 'gymnasium'} --log-every 1 --checkpoint-every {10**9}"
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        words = [sys.executable, str(ROOT / "experiments" / "train.py"), *flags.split(), "--run-dir", str(run)]
        subprocess.run(words, check=True, capture_output=True)
        with (run / "metrics.csv").open() as file:
            rows = [(int(row["step"]), float(row["wall_time"])) for row in csv.DictReader(file)]
    first = next(row for row in rows if row[0] >= steps / 4)
    return {"steps/s": (rows[-1][0] - first[0]) / (rows[-1][1] - first[1])}


def device(repeats: int, rejax: str | None, sizes: Sequence[int]) -> dict[str, dict[str, dict[str, float]]]:
    """Medians of rounds in which all take their turn, one table for each number of environments, and the loop's lead.

    Args:
      repeats: rounds.
      rejax: an interpreter that has rejax; without it, ours alone.
      sizes: the numbers of environments, each of UPDATES.
    """
    tables = {}
    for num_envs in sizes:
        kinds = [kind for kind in (LOOP, REJAX, RUN, COLLECT, HOST) if kind != REJAX or rejax]
        rounds: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
        for _ in range(repeats):
            for kind in kinds:
                rounds[kind].append(_measured(kind, num_envs, rejax))
                print(num_envs, kind, f"{rounds[kind][-1]['steps/s']:,.0f} steps/s", file=sys.stderr, flush=True)
        rows = {
            kind: {name: statistics.median(each[name] for each in found) for name in found[0]}
            for kind, found in rounds.items()
        }
        for other in (REJAX, HOST):
            if other in rounds:
                for kind in (LOOP, RUN):
                    pairs = zip(rounds[kind], rounds[other], strict=True)
                    short = "rejax" if other == REJAX else "the host"
                    rows[kind][f"x {short}"] = statistics.median(
                        ours["steps/s"] / its["steps/s"] for ours, its in pairs
                    )
        tables[f"PPO on CartPole-v1, {num_envs:,} environments, in turn"] = rows
    return tables


def _measured(kind: str, num_envs: int, rejax: str | None) -> dict[str, float]:
    """One measurement, in a process of its own."""
    if kind in (RUN, HOST):
        return command(kind, num_envs)
    python = rejax if kind == REJAX and rejax else sys.executable
    done = subprocess.run([python, __file__, kind, str(num_envs)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"benchmark: {python} failed: {' '.join(done.stderr.split())[-300:]}")
    return json.loads(done.stdout)


if __name__ == "__main__":
    print(json.dumps(worker(sys.argv[1], int(sys.argv[2]))))

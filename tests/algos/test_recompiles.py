"""Nothing is compiled anew once a run is under way: whatever JAX lowers is counted, whoever asked for it."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from settings import run_config

from jaxrl import DDPGConfig, PPOConfig, train
from jaxrl.runs.record import load_run

ROOT = Path(__file__).parents[2]
LOWERINGS = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: LOWERINGS.append(event) if event.endswith("jaxpr_to_mlir_module_duration") else None
)
# Everything that happens in a run happens here: annealing, minibatches, evaluations, rows of metrics, checkpoints.
COMMON = {"total_steps": 1024, "eval_every": 200, "eval_episodes": 2, "checkpoint_every": 150, "log_every": 64}
PPO = PPOConfig(hidden_sizes=(8, 8), num_minibatches=4, num_epochs=2)
RUNS = {
    "ppo, annealed": run_config(
        env="CartPole-v1", agent=PPO.replace(anneal_learning_rate=True, anneal_clip=True), num_steps=32, num_envs=4,
        **COMMON,
    ),
    "ppo_kl, normalised": run_config(
        env="Pendulum-v1", agent=PPO.replace(clip_eps=None, kl_coef=1.0, kl_target=0.01, stop_kl=0.02), num_steps=32,
        num_envs=4, normalize_obs=True, normalize_reward=True, **COMMON,
    ),
    "ddpg": run_config(
        env="Pendulum-v1", agent=DDPGConfig(hidden_sizes=(8, 8)), learning_starts=100, buffer_size=400, batch_size=16,
        **COMMON,
    ),
}  # fmt: skip


def lowerings_after(run, step):
    """How much was lowered between the callback at `step` and the last one."""
    seen = {}
    train(run, lambda snapshot: seen.update({snapshot.step: len(LOWERINGS)}))
    early = [count for at, count in seen.items() if at >= step]
    assert len(early) >= 3
    return early[-1] - early[0]


@pytest.mark.parametrize("name", RUNS)
def test_nothing_compiles_after_the_first_checkpoint_and_evaluation(tmp_path, name):
    run = dataclasses.replace(RUNS[name], run_dir=str(tmp_path / "run"))
    assert lowerings_after(run, 256) == 0


@pytest.mark.parametrize("name", RUNS)
def test_nothing_compiles_after_the_first_update_of_a_resumed_run(tmp_path, name):
    run = dataclasses.replace(RUNS[name], run_dir=str(tmp_path / "run"))
    train(run, lambda snapshot: snapshot.step < 500)
    assert lowerings_after(load_run(run.run_dir), 640) == 0


def test_the_count_sees_a_compilation(tmp_path):
    """The negative control: a callback that asks JAX for something new each time."""
    run = dataclasses.replace(RUNS["ppo, annealed"], run_dir=str(tmp_path / "run"))
    jobs = iter(range(1000))
    before = len(LOWERINGS)
    train(run, lambda snapshot: jax.numpy.zeros(1000 + next(jobs)).block_until_ready() is None or True)
    assert len(LOWERINGS) - before > 8


RESUMED = """
import sys, jax
from jaxrl.runs.record import load_run
from jaxrl.training.train import train
misses = []
jax.monitoring.register_event_listener(lambda event, **_: misses.append(event) if "cache_miss" in event else None)
train(load_run(sys.argv[1]))
print("MISSES", len(misses))
"""


@pytest.mark.parametrize("name", ["ppo, annealed", pytest.param("ddpg", marks=pytest.mark.slow)])
def test_a_fresh_process_that_resumes_finds_every_program_in_the_cache(tmp_path, name):
    """The first fills a cache of its own: all is compiled there. The second, which resumes another copy, compiles
    nothing."""
    run = dataclasses.replace(RUNS[name], run_dir=str(tmp_path / "run"))
    train(run, lambda snapshot: snapshot.step < 500)
    counts = []
    for _ in range(2):
        shutil.copytree(run.run_dir, folder := tmp_path / str(len(counts)))
        script = [sys.executable, "-c", RESUMED, str(folder)]
        env = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
        done = subprocess.run(script, capture_output=True, text=True, check=True, cwd=ROOT, env=env)
        counts.append(int(done.stdout.split("MISSES")[1]))
    assert counts[1] == 0 < counts[0]

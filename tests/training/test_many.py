"""Several seeds side by side: each leaves what it would leave alone, in one stack of learners or in several."""

import dataclasses
import hashlib
import os
import shutil
import signal
from pathlib import Path

import gymnasium as gym
import jax
import numpy as np
import pytest
from left_behind import tables
from settings import run_config

from jaxrl import BadInput, DDPGConfig, PPOConfig, train, train_many
from jaxrl.cli.main import train_command
from jaxrl.runs.streams import ENVIRONMENTS, stream
from jaxrl.runs.sweep import load_study
from jaxrl.storage.files import load_arrays
from jaxrl.training.runner import Runner

PPO = run_config(
    env="CartPole-v1", agent=PPOConfig(hidden_sizes=(8, 8), num_minibatches=2, num_epochs=2), total_steps=1500, seed=3,
    num_envs=4, num_steps=32, eval_every=500, eval_episodes=4, checkpoint_every=400, log_every=300, num_seeds=3,
)  # fmt: skip
RUNS = {
    "ppo": PPO,
    "ppo, normalised MuJoCo": PPO.with_settings(
        env="InvertedPendulum-v5", num_envs=2, num_seeds=2, total_steps=1000, normalize_obs=True, normalize_reward=True
    ),
    "ddpg": run_config(
        env="Pendulum-v1", agent=DDPGConfig(hidden_sizes=(16, 12)), total_steps=500, learning_starts=150, seed=3,
        buffer_size=300, batch_size=16, eval_every=300, eval_episodes=2, checkpoint_every=220, log_every=90,
        num_seeds=2,
    ),
}  # fmt: skip
STACKS = {"one by one": lambda count: [1] * count, "in one stack": lambda count: [count]}


@pytest.fixture(params=STACKS)
def stacks(request, monkeypatch):
    """As on a CPU, and as on an accelerator."""
    monkeypatch.setattr("jaxrl.training.group.stack_sizes", STACKS[request.param])
    return request.param


def kept(folder):
    """What a run's last checkpoint holds, but for the time that it took."""
    arrays, notes = load_arrays(Path(folder) / "checkpoints" / "latest.npz")
    parts = [f"replay-{first:012d}-{last:012d}.npz" for first, last, _ in notes["segments"]]
    rows = [load_arrays(Path(folder) / "checkpoints" / part)[0] for part in parts]
    for name in rows[0] if rows else ():
        arrays[name] = np.concatenate([part[name] for part in rows])[-RUNS["ddpg"].loop.buffer_size :]
    notes = {name: note for name, note in notes.items() if name not in ("wall_time", "segments")}
    notes["evaluations"] = [each[:-1] for each in notes["evaluations"]]
    return arrays, notes


def digest(folder):
    arrays, notes = kept(folder)
    found = hashlib.sha256(repr(sorted(notes.items())).encode())
    for name in sorted(arrays):
        found.update(name.encode() + arrays[name].tobytes())
    return found.hexdigest()


def alone(run, folder, seed):
    train(dataclasses.replace(run, seed=seed, num_seeds=1, run_dir=str(folder)))
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_each_seed_leaves_what_it_leaves_alone(tmp_path, name):
    run = dataclasses.replace(RUNS[name], run_dir=str(tmp_path / "many"))
    results = train_many(run)
    for seed, result in zip(range(3, 3 + run.num_seeds), results, strict=True):
        together, single = tmp_path / "many" / f"seed-{seed}", alone(run, tmp_path / str(seed), seed)
        assert result.run_dir == together
        assert digest(together) == digest(single)
        assert tables(together) == tables(single)
        files = [{path.relative_to(folder) for path in folder.rglob("*.*")} for folder in (together, single)]
        assert len(files[0] ^ files[1]) == 2, "TensorBoard puts the time into its file's name, and nothing else differs"
    assert digest(tmp_path / "many" / "seed-3") != digest(tmp_path / "many" / "seed-4")


@pytest.mark.parametrize("name", RUNS)
def test_a_stack_computes_what_each_computes_alone(tmp_path, monkeypatch, name):
    """To rounding: a batched product may sum in another order. Over ten updates, before chaos has its say."""
    monkeypatch.setattr("jaxrl.training.group.stack_sizes", STACKS["in one stack"])
    run = RUNS[name]
    steps = 160 if name == "ddpg" else 10 * run.num_envs * run.loop.num_steps - 60
    run = dataclasses.replace(run, total_steps=steps, eval_every=10**6, run_dir=str(tmp_path / "many"))
    updates = [int(result.state.num_updates) for result in train_many(run)]
    assert min(updates) >= 9
    for seed in range(3, 3 + run.num_seeds):
        (together, _), (single, _) = (
            kept(folder) for folder in (tmp_path / "many" / f"seed-{seed}", alone(run, tmp_path / str(seed), seed))
        )
        assert together.keys() == single.keys()
        for key in together:
            if key.startswith(("state.actor.params", "state.critic.params", "normalizer", "rows")):
                np.testing.assert_allclose(together[key], single[key], rtol=1e-5, atol=1e-5, err_msg=key)


def stop_at_step(number, monkeypatch):
    """Asks the process to stop at that step, those of all runs counted."""
    calls, episodes = [], Runner.episodes

    def counted(one):
        calls.append(one)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        episodes(one)

    monkeypatch.setattr(Runner, "episodes", counted)


@pytest.mark.parametrize("name", RUNS)
def test_runs_that_are_stopped_end_as_those_that_are_not(tmp_path, monkeypatch, stacks, name):
    run = dataclasses.replace(RUNS[name], run_dir=str(tmp_path / "whole"))
    train_many(run)
    cut = dataclasses.replace(run, run_dir=str(tmp_path / "cut"))
    stop_at_step(450, monkeypatch)
    with pytest.raises(SystemExit):
        train_many(cut)
    resumed = load_study(cut.run_dir)
    assert resumed.num_seeds == run.num_seeds
    train_many(resumed)
    for seed in range(3, 3 + run.num_seeds):
        assert digest(tmp_path / "cut" / f"seed-{seed}") == digest(tmp_path / "whole" / f"seed-{seed}")
        assert tables(tmp_path / "cut" / f"seed-{seed}") == tables(tmp_path / "whole" / f"seed-{seed}")


def test_one_that_ends_early_is_left_as_it_is(tmp_path, stacks):
    """The others go on; what the early one leaves is what it had when it ended."""
    run = dataclasses.replace(PPO, stop_return=30.0, total_steps=3000, run_dir=str(tmp_path / "many"))
    results = train_many(run)
    assert len({result.step for result in results}) > 1
    for seed, result in zip(range(3, 6), results, strict=True):
        arrays, notes = load_arrays(tmp_path / "many" / f"seed-{seed}" / "checkpoints" / "latest.npz")
        assert notes["step"] == result.step
        for name, leaf in jax.tree.map(np.asarray, result.state.actor.params)["params"]["mlp"]["Dense_0"].items():
            np.testing.assert_array_equal(arrays[f"state.actor.params.params.mlp.Dense_0.{name}"], leaf)
        if stacks == "one by one":
            assert digest(tmp_path / "many" / f"seed-{seed}") == digest(alone(run, tmp_path / str(seed), seed))


FAILS = set()  # Seeds of environments that give NaN at their 200th step.


def failing(env):
    """A wrapper that has a name."""
    return Failing(env)


class Failing(gym.Wrapper):
    count, mine = 0, False

    def reset(self, *, seed=None, options=None):
        self.mine = self.mine or seed in FAILS
        return super().reset(seed=seed, options=options)

    def step(self, action):
        obs, reward, *others = super().step(action)
        self.count += 1
        return obs, float("nan") if self.mine and self.count == 200 else reward, *others


@pytest.mark.parametrize(("algo", "changes"), [("ppo", {"num_steps": 64, "log_every": 64}), ("ddpg", {})])
def test_where_one_fails_all_are_saved_and_go_on(tmp_path, monkeypatch, stacks, algo, changes):
    run = dataclasses.replace(RUNS[algo], env="Pendulum-v1", num_envs=1, checkpoint_every=10**6)
    run = dataclasses.replace(run, wrapper=("test_many:failing",), run_dir=str(tmp_path / "many"))
    run = run.with_settings(**changes)
    monkeypatch.setattr("test_many.FAILS", {int(stream(4, ENVIRONMENTS).generate_state(1)[0])})
    with pytest.raises(BadInput, match="reward that is not finite, environment 0 at step 200"):
        train_many(run)
    steps = [load_arrays(folder / "checkpoints" / "latest.npz")[1]["step"] for folder in (tmp_path / "many").iterdir()]
    assert len(steps) == run.num_seeds and 199 in steps and min(steps) >= 192
    monkeypatch.setattr("test_many.FAILS", set())
    for result in train_many(load_study(run.run_dir)):
        assert result.step >= run.total_steps
        if changes:  # Of every update, also the one that was under way when another run failed.
            rows = (result.run_dir / "metrics.csv").read_text().splitlines()[1:]
            assert [int(row.split(",")[0]) for row in rows] == list(range(64, result.step + 1, 64))


def test_one_member_that_went_further_takes_the_others_with_it(tmp_path):
    run = dataclasses.replace(RUNS["ppo"], total_steps=300, num_seeds=2, run_dir=str(tmp_path / "many"))
    train_many(run)
    [further] = runs = [dataclasses.replace(load_study(tmp_path / "many" / "seed-3"), total_steps=700)]
    assert train(further).step >= 700 and runs[0].num_seeds == 1
    assert [result.step >= 700 for result in train_many(load_study(tmp_path / "many"))] == [True, True]
    shutil.rmtree(tmp_path / "many" / "seed-4")
    assert load_study(tmp_path / "many").resume == str(tmp_path / "many" / "seed-3")


def test_mistakes(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for flags, words in {
        "--num-seeds 0": "num_seeds",
        "--num-seeds 5000": "num_seeds",
        "--num-seeds 2 --run-dir full": "not empty",
        "--num-seeds 2 --render": "num_seeds" if os.environ.get("DISPLAY") else "screen",
        "--resume nothing": "nothing",
    }.items():
        shutil.rmtree("full", ignore_errors=True)
        Path("full").mkdir()
        Path("full/file").touch()
        assert train_command(["--env", "CartPole-v1", *flags.split()][2 if "resume" in flags else 0 :]) == 2
        err = capfd.readouterr().err
        assert err.count("\n") == 1 and words in err
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full"]
    with pytest.raises(BadInput, match="train_many"):
        train(PPO)


def test_the_command_says_what_came_of_all(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = "--env Pendulum-v1 --total-steps 64 --num-envs 2 --num-steps 32 --num-minibatches 2 --eval-episodes 1"
    assert train_command([*flags.split(), "--num-seeds", "2", "--seed", "7"]) == 0
    out = capsys.readouterr().out
    assert "seed-7: step 64: evaluation" in out and "seed-8: step 64: evaluation" in out
    assert out.splitlines()[-1].split()[:2] == ["Pendulum-v1", "2"]
    assert sorted(os.listdir("runs/ppo-Pendulum-v1-seeds7-8")) == ["results.csv", "seed-7", "seed-8"]
    assert train_command(["--resume", "runs/ppo-Pendulum-v1-seeds7-8", "--total-steps", "128"]) == 0
    assert train_command(["--resume", "runs/ppo-Pendulum-v1-seeds7-8/seed-7", "--total-steps", "192"]) == 0

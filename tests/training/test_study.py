"""Sweeps: each run of one is the run that it would be alone, and nothing is compiled for more of them."""

import csv
import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from left_behind import tables
from test_many import PPO, RUNS, STACKS, digest, kept, stop_at_step

from jaxrl import BadInput, train, train_many
from jaxrl.cli.main import train_command
from jaxrl.runs.sweep import load_study, runs_of

SWEEPS = {
    "ppo": (("gamma=0.9,0.99", "actor-learning-rate=0.003,1e-05"), {"gamma", "actor_learning_rate"}),
    "ddpg": (("tau=0.01,1", "exploration_noise=0.1,0.5"), {"tau", "exploration_noise"}),
}
STEPS = {"ppo": 10 * RUNS["ppo"].num_envs * RUNS["ppo"].loop.num_steps - 60, "ddpg": 160}


def swept(algo, folder, **changes):
    return dataclasses.replace(RUNS[algo], sweep=SWEEPS[algo][0], num_seeds=1, run_dir=str(folder), **changes)


def results_of(group):
    with (Path(group) / "results.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("algo", SWEEPS)
def test_each_run_of_a_sweep_is_what_it_is_alone(tmp_path, algo):
    run = swept(algo, tmp_path / "sweep", total_steps=320)
    results = train_many(run)
    assert len(results) == 4 and len({digest(result.run_dir) for result in results}) == 4
    table = results_of(tmp_path / "sweep")
    for place, (result, row) in enumerate(zip(results, table, strict=True)):
        numbers = {name: float(row[name]) for name in SWEEPS[algo][1]}
        alone = run.with_settings(sweep=(), run_dir=str(tmp_path / str(place)), **numbers)
        train(alone)
        assert digest(alone.run_dir) == digest(result.run_dir)
        assert tables(alone.run_dir) == tables(result.run_dir)
        assert (float(row["mean_return"]), int(row["step"])) == (result.evaluations[-1].mean_return, result.step)
        record = json.loads((result.run_dir / "config.json").read_text())["run"]
        assert {name: (record | record["agent"])[name] for name in numbers} == numbers
    assert len({tuple(row[name] for name in SWEEPS[algo][1]) for row in table}) == 4


@pytest.mark.parametrize("algo", SWEEPS)
def test_a_sweep_in_one_stack_computes_what_each_computes_alone(tmp_path, monkeypatch, algo):
    monkeypatch.setattr("jaxrl.training.group.stack_sizes", STACKS["in one stack"])
    run = swept(algo, tmp_path / "sweep", eval_every=10**6)
    run = dataclasses.replace(run, total_steps=STEPS[algo])
    for result in train_many(run):
        train(alone := dataclasses.replace(result.run, run_dir=str(tmp_path / "alone" / str(result.run_dir)[1:])))
        (together, _), (single, _) = kept(result.run_dir), kept(alone.run_dir)
        for key in together:
            if key.startswith(("state.actor.params", "state.critic.params", "rows")):
                np.testing.assert_allclose(together[key], single[key], rtol=1e-5, atol=1e-5, err_msg=key)


@pytest.mark.parametrize("algo", SWEEPS)
def test_more_values_compile_nothing_more(tmp_path, algo):
    lowered = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: lowered.append(event) if event.endswith("jaxpr_to_mlir_module_duration") else None
    )
    name = "critic_learning_rate"
    counts = []
    for index, values in enumerate(("0.001", "0.001,0.002", "0.001,0.002,0.003,0.004", "0.1,0.2,0.3,0.4")):
        before, folder = len(lowered), str(tmp_path / str(index))
        train_many(dataclasses.replace(swept(algo, folder, total_steps=320), sweep=(f"{name}={values}",)))
        counts.append(len(lowered) - before)
    assert 0 < counts[1] == counts[2] == counts[3]


def test_a_sweep_that_is_stopped_ends_as_one_that_is_not(tmp_path, monkeypatch):
    run = swept("ppo", tmp_path / "whole", total_steps=500)
    run = dataclasses.replace(run, num_seeds=2, sweep=("gamma=0.9,0.99",))
    train_many(run)
    cut = dataclasses.replace(run, run_dir=str(tmp_path / "cut"))
    stop_at_step(250, monkeypatch)
    with pytest.raises(SystemExit):
        train_many(cut)
    assert not (tmp_path / "cut" / "results.csv").exists()
    resumed = load_study(cut.run_dir)
    assert (resumed.num_seeds, resumed.sweep) == (2, ("gamma=0.9,0.99",))
    train_many(resumed)
    folders = [result.relative_to(tmp_path / "cut") for result in sorted((tmp_path / "cut").glob("*/seed-*"))]
    assert [str(folder) for folder in folders] == [f"gamma={x}/seed-{k}" for x in (0.9, 0.99) for k in (3, 4)]
    for folder in folders:
        assert digest(tmp_path / "cut" / folder) == digest(tmp_path / "whole" / folder)
    assert results_of(tmp_path / "cut") == results_of(tmp_path / "whole")


def test_what_is_no_study_is_not_resumed(tmp_path):
    run = swept("ppo", tmp_path / "sweep", total_steps=128)
    train_many(run)
    record = json.loads((path := tmp_path / "sweep/gamma=0.9/actor_learning_rate=0.003/config.json").read_text())
    record["run"]["agent"]["gae_lambda"] = 0.5
    path.write_text(json.dumps(record))
    with pytest.raises(BadInput, match="differ in more than"):
        runs_of(load_study(tmp_path / "sweep"))
    with pytest.raises(BadInput, match="train_many"):
        train(dataclasses.replace(PPO, num_seeds=1, sweep=("gamma=1",)))
    # A part of it is one.
    assert len(runs_of(load_study(tmp_path / "sweep/gamma=0.99"))[1]) == 2


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--sweep gama=1", "'gama': ppo can sweep actor_learning_rate, clip_eps"),
        ("--sweep num_epochs=1,2", "'num_epochs': ppo can sweep"),
        ("--algo ddpg --env Pendulum-v1 --sweep clip_eps=1", "'clip_eps': ddpg can sweep"),
        ("--sweep exploration_noise=1", "'exploration_noise': ppo can sweep"),
        ("--sweep gamma", "'' is no finite number"),
        ("--sweep gamma=0.9,x", "'x' is no finite number"),
        ("--sweep gamma=nan", "'nan' is no finite number"),
        ("--sweep clip_eps=none,0.1", "'none' is no finite number"),
        ("--sweep gamma=0.9,1.5", "gamma is 1.5: it must be between 0 and 1"),
        ("--sweep gamma=0.9 gamma=0.9", "given twice"),
        ("--sweep kl_target=0.1,0.2", "kl_target adapts kl_coef, which is off"),
        ("--num-seeds 1024 --sweep gamma=0.9,0.8", "it must be at most 1,024 runs"),
        ("--sweep gamma=0.9 --run-dir full", "not empty"),
        ("--sweep gamma=0.9 --render", "one run"),
    ],
)
def test_mistakes(tmp_path, capfd, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISPLAY", ":0")
    Path("full").mkdir()
    Path("full/file").touch()
    assert train_command(["--env", "CartPole-v1", *flags.split()]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and words in err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full"]


def test_the_command_prints_a_line_for_each_setting(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = "--env Pendulum-v1 --total-steps 64 --num-envs 2 --num-steps 32 --num-minibatches 2 --eval-episodes 1"
    assert train_command([*flags.split(), "--sweep", "gamma=0.9,0.5", "--num-seeds", "2"]) == 0
    said, *lines = capsys.readouterr().out.splitlines()[-4:]
    assert said == "curves: jaxrl plot runs/ppo-Pendulum-v1-seeds0-1-gamma"
    assert lines[0].split()[:3] == ["last", "evaluations", "seeds"]
    assert [line.split()[:3] for line in lines[1:]] == [["gamma", "0.9", "2"], ["gamma", "0.5", "2"]]
    group = Path("runs/ppo-Pendulum-v1-seeds0-1-gamma")
    assert [(row["gamma"], row["seed"]) for row in results_of(group)] == [
        ("0.9", "0"), ("0.9", "1"), ("0.5", "0"), ("0.5", "1"),
    ]  # fmt: skip
    returns = [float(row["mean_return"]) for row in results_of(group)]
    assert abs(float(lines[1].split()[3]) - np.mean(returns[:2])) < 0.06

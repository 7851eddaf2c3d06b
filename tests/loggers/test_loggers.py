"""Loggers of the user's: what they hear and when, what becomes of an error of theirs, and what is no logger."""

import csv
import dataclasses
import errno
import json
import signal
from pathlib import Path

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from left_behind import tables
from settings import run_config

from jaxrl import BadInput, DDPGConfig, PPOConfig, train, train_many
from jaxrl.loggers.logger import METHODS, Clock, Logger, Loggers, check_loggers
from jaxrl.loggers.metrics import MetricsBuffer
from jaxrl.runs.record import load_run
from jaxrl.storage.files import load_arrays

PPO = run_config(
    env="Pendulum-v1",
    agent=PPOConfig(num_epochs=1, num_minibatches=2, hidden_sizes=(4,)),
    total_steps=450,
    num_envs=2,
    num_steps=25,
    eval_every=200,
    eval_episodes=1,
    log_every=100,
)
DDPG = run_config(
    env="Pendulum-v1",
    agent=DDPGConfig(hidden_sizes=(4, 4)),
    total_steps=260,
    learning_starts=16,
    batch_size=8,
    buffer_size=1000,
    eval_every=10**6,
    eval_episodes=1,
    log_every=100,
)


class Recorder(Logger):
    """Writes down all that it hears."""

    def __init__(self):
        self.heard = []

    def __getattribute__(self, name):
        if name not in METHODS:
            return super().__getattribute__(name)
        return lambda *given: self.heard.append((name, *given))

    def of(self, name):
        return [given for each, *given in self.heard if each == name]


class Raises(Logger):
    """Raises in one of its methods, and counts how often it is called afterwards."""

    def __init__(self, method, error):
        self.later, self.closed = 0, False

        def fail(*given):
            self.later += 1
            raise error

        setattr(self, method, fail)

    def close(self):
        self.closed = True


def table(folder, name):
    with (Path(folder) / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_logger_hears_what_the_tables_hold(tmp_path):
    recorder = Recorder()
    result = train(dataclasses.replace(PPO, run_dir=str(tmp_path / "run")), loggers=[recorder])
    episodes = [(step, each.episode_return) for step, finished, _ in recorder.of("episodes") for each in finished]
    assert episodes == [(int(row["step"]), float(row["episode_return"])) for row in table(tmp_path / "run", "episodes")]
    assert [each for (each,) in recorder.of("evaluation")] == result.evaluations and len(result.evaluations) == 4
    rows = table(tmp_path / "run", "metrics")
    assert [step for step, _, _ in recorder.of("metrics")] == [int(row["step"]) for row in rows] != []
    for (_, metrics, _), row in zip(recorder.of("metrics"), rows, strict=True):
        assert [f"{value:.8g}" for value in metrics.values()] == list(row.values())[1:-1]
    assert [step for step, _, _ in recorder.of("progress")] == [50, 100, 200, 300, 400, 450]
    times = [given[-1] for name in ("episodes", "metrics", "progress") for given in recorder.of(name)]
    assert all(0 < time < 600 for time in times)
    says = [line for (line,) in recorder.of("say")]
    assert says[0].startswith("ppo on Pendulum-v1, seed 0, into") and says[-1].startswith("done: 450 steps")
    assert [name for name, *_ in recorder.heard].count("close") == 1 and recorder.heard[-1] == ("close",)


class Diverges(gym.Wrapper):
    count = 0

    def step(self, action):
        obs, reward, *others = super().step(action)
        self.count += 1
        return obs, float("nan") if self.count == 30 else reward, *others


def test_a_logger_hears_of_faults(tmp_path):
    recorder = Recorder()
    wrapped = dataclasses.replace(PPO, wrapper=(Diverges,), on_fault="reset", total_steps=100, eval_every=None)
    train(dataclasses.replace(wrapped, run_dir=str(tmp_path / "run")), loggers=[recorder])
    heard = [(str(step), str(fault.env_index), fault.what) for step, fault, _ in recorder.of("fault")]
    assert heard == [(row["step"], row["env_index"], row["fault"]) for row in table(tmp_path / "run", "faults")]
    assert len(heard) == 2


ERRORS = {
    "its own": RuntimeError("the server is gone"),
    "an OSError": OSError(errno.ECONNRESET, "reset"),
    "an exit": SystemExit(3),
    "a StopIteration": StopIteration(1),
}


@pytest.mark.parametrize("method", METHODS)
def test_an_error_of_a_logger_ends_the_run_saved_first_and_let_through(tmp_path, method):
    wrapped = (Diverges,) if method == "fault" else ()
    run = dataclasses.replace(PPO, wrapper=wrapped, on_fault="reset" if wrapped else "stop")
    error = RuntimeError("the server is gone")
    logger = Raises(method, error)
    with pytest.raises(RuntimeError) as raised:
        train(dataclasses.replace(run, run_dir=str(tmp_path / "run")), loggers=[logger])
    assert raised.value is error
    assert logger.later == 1 and (logger.closed or method == "close")
    step = load_arrays(tmp_path / "run" / "checkpoints" / "latest.npz", ())[1]["step"]
    assert step == 450 if method == "close" else step < 450


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_whatever_it_raises_comes_through_unchanged(tmp_path, error):
    run = dataclasses.replace(PPO, run_dir=str(tmp_path / "run"), eval_every=None)
    with pytest.raises(type(error)) as raised:
        train(run, loggers=[Raises("progress", error)])
    assert raised.value is error
    assert load_arrays(tmp_path / "run" / "checkpoints" / "latest.npz", ())[1]["step"] == 50


def test_a_run_that_a_logger_ended_resumes_to_the_same_bits(tmp_path):
    """An episode ends in the middle of a step: DDPG has not stored its transition then."""
    cut, whole = (dataclasses.replace(DDPG, run_dir=str(tmp_path / name)) for name in ("cut", "whole"))
    with pytest.raises(RuntimeError):
        train(cut, loggers=[Raises("episodes", RuntimeError("the server is gone"))])
    pairs = zip(*(jax.tree.leaves(train(run).state.actor) for run in (load_run(cut.run_dir), whole)), strict=True)
    assert all(np.array_equal(*pair) for pair in pairs)
    assert tables(cut.run_dir) == tables(whole.run_dir)


NO_LOGGERS = {
    "one alone": (Recorder, "loggers is of type Recorder: it must be a list"),
    "a text": (lambda: "wandb", "loggers is of type str"),
    "a class": (lambda: [Recorder], "loggers holds Recorder, which is a class"),
    "an object without them": (lambda: [3], "loggers holds int, which has no method episodes"),
}


@pytest.mark.parametrize("make, words", NO_LOGGERS.values(), ids=NO_LOGGERS)
def test_what_is_no_logger_is_refused_and_nothing_written(tmp_path, make, words):
    run = dataclasses.replace(PPO, run_dir=str(tmp_path / "run"))
    for call in (
        lambda: train(run, loggers=make()),
        lambda: train_many(dataclasses.replace(run, num_seeds=2), loggers=lambda one: make()),
    ):
        with pytest.raises(BadInput, match=words):
            call()
    with pytest.raises(BadInput, match="loggers must be a function"):
        train_many(dataclasses.replace(run, num_seeds=2), loggers=[Recorder()])
    assert list(tmp_path.iterdir()) == []


def test_each_of_many_runs_has_loggers_and_callbacks_of_its_own(tmp_path):
    recorders, steps, losses = {}, {}, set()

    def loggers(run):
        recorders[run.run_dir] = Recorder()
        return [recorders[run.run_dir]]

    def callback(snapshot):
        steps.setdefault(snapshot.run_dir.name, []).append(snapshot.step)
        losses.add(snapshot.metrics["value_loss"])
        assert int(snapshot.state.num_updates) == snapshot.step // 50
        return not (snapshot.run_dir.name == "seed-1" and snapshot.step >= 200)

    run = dataclasses.replace(PPO, num_seeds=2, run_dir=str(tmp_path / "many"), eval_every=None)
    results = train_many(run, callback, loggers=loggers)
    assert [result.step for result in results] == [450, 200]
    assert len(losses) == 9 + 4
    assert steps == {"seed-0": list(range(50, 451, 50)), "seed-1": [50, 100, 150, 200]}
    for seed in (0, 1):
        recorder = recorders[str(tmp_path / "many" / f"seed-{seed}")]
        returns = [each.episode_return for _, finished, _ in recorder.of("episodes") for each in finished]
        assert returns == [
            float(row["episode_return"]) for row in table(tmp_path / "many" / f"seed-{seed}", "episodes")
        ]
        assert recorder.heard[-1] == ("close",)


def test_a_fan_out_tells_all_and_closes_all():
    own, users = [Recorder(), Recorder()], [Raises("say", KeyError("x")), Recorder()]
    loggers = Loggers(own, users)
    loggers.say("a")
    loggers.say("b")
    loggers.close()
    assert own[0].heard == own[1].heard == [("say", "a"), ("say", "b"), ("close",)]
    assert users[1].heard == [("close",)] and users[0].closed and isinstance(loggers.raised, KeyError)
    broken = Loggers([Raises("say", OSError("the disk is full"))])
    with pytest.raises(OSError, match="disk"):
        broken.say("a")


def test_any_object_with_the_methods_is_a_logger():
    namespace = {name: lambda self, *given: None for name in METHODS}
    thing = type("Duck", (), namespace)()
    assert check_loggers((thing,)) == [thing]


def test_metrics_become_rows_of_means():
    buffer = MetricsBuffer(("loss", "skipped_updates"), [[1.0, 0.0]])
    buffer.add(jnp.array([3.0, 1.0]))
    buffer.add(jnp.array([[9.0, 9.0], [np.nan, 1.0]]), place=1)
    assert len(buffer) == 3 and buffer.rows() == []
    assert json.loads(json.dumps(buffer.pending()))[:2] == [[1.0, 0.0], [3.0, 1.0]]
    buffer.close_row(30, 1.5)
    buffer.close_row(40, 2.0)  # Nothing was added: no row.
    [(step, metrics, wall_time)] = buffer.rows()
    assert (step, wall_time) == (30, 1.5) and metrics == {"loss": 2.0, "skipped_updates": 2.0}
    assert buffer.rows() == [] and len(buffer) == 0


def test_a_clock_goes_on_where_the_run_was_saved(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    clock = Clock(step=1000, wall_time=50.0)
    now[0] += 10
    assert clock.wall_time == 60.0 and clock.steps_per_second(1500) == 50.0


def test_a_signal_that_comes_while_a_logger_speaks_stops_the_run(tmp_path):
    class Asks(Logger):
        def progress(self, step, steps_per_second, wall_time):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit):
        train(dataclasses.replace(PPO, run_dir=str(tmp_path / "run"), eval_every=None), loggers=[Asks()])
    assert load_arrays(tmp_path / "run" / "checkpoints" / "latest.npz", ())[1]["step"] == 50

"""What users do to a run: numbers of other types, callbacks that raise, a working folder that moves, output that cannot
be written, disks and signals of other kinds, two studies at once."""

import codecs
import contextlib
import dataclasses
import errno
import functools
import hashlib
import io
import json
import os
import signal
import stat
import sys
import tempfile
import threading
from pathlib import Path

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from scripted import Endless
from settings import run_config

from jaxrl import BadInput, DDPGConfig, EnvironmentLost, PPOConfig, RunConfig, load_policy, make_envs, train, train_many
from jaxrl.algos.ppo import METRICS
from jaxrl.cli.main import train_command
from jaxrl.envs.processes import make_in_worker
from jaxrl.loggers.console import Console, Display
from jaxrl.loggers.logger import Evaluation
from jaxrl.runs.algorithms import PPO as PPO_ROW
from jaxrl.runs.algorithms import ROWS
from jaxrl.runs.convert import converted
from jaxrl.runs.record import load_run, run_from_json, run_to_json
from jaxrl.runs.sweep import is_study, load_study, runs_of
from jaxrl.storage.files import load_arrays, write_atomically
from jaxrl.training.signals import Stops
from jaxrl.training.snapshot import asks_to_stop
from jaxrl.training.train import train_in

PPO = run_config(
    env="Pendulum-v1",
    agent=PPOConfig(num_epochs=1, num_minibatches=2, hidden_sizes=(4,)),
    total_steps=64,
    num_envs=1,
    num_steps=16,
    eval_every=10**6,
    eval_episodes=1,
    checkpoint_every=10**6,
    normalize_obs=True,
)
DDPG = run_config(
    env="Pendulum-v1",
    agent=DDPGConfig(hidden_sizes=(4, 4)),
    total_steps=64,
    learning_starts=16,
    batch_size=8,
    buffer_size=1000,
    eval_every=10**6,
    eval_episodes=1,
    checkpoint_every=10**6,
)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture(autouse=True)
def updates_that_change_nothing(request, monkeypatch):
    """They compile at once. Tests of the bits take the true ones."""
    if "whole" not in request.fixturenames:
        zeros = dict.fromkeys(METRICS, jnp.zeros(()))
        nothing = PPO_ROW._replace(
            update_actor=lambda state, rollout: (state, rollout.reward), update_critic=lambda critic, _: (critic, zeros)
        )
        monkeypatch.setitem(ROWS, "ppo", nothing)


def files(folder="."):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*"))


def digest(result):
    """Of all that a run has learned."""
    leaves = jax.tree.leaves((result.state.actor, result.state.critic))
    return hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest()


# Numbers of another type.

CONVERTED = {
    "a whole float": ("total_steps", 1e5, 100_000),
    "a NumPy integer": ("seed", np.uint64(2**63), 2**63),
    "a whole NumPy float": ("num_envs", np.float32(8), 8),
    "a JAX integer": ("loop.num_steps", jnp.int32(64), 64),
    "a NumPy array of one number": ("log_every", np.array(100), 100),
    "a whole float where None may be": ("loop.anneal_steps", 1e4, 10_000),
    "an int for a number": ("env_timeout", 30, 30.0),
    "a NumPy float": ("stop_return", np.float32(0.5), 0.5),
    "None where it may be": ("stop_return", None, None),
    "a NumPy flag": ("loop.normalize_obs", np.True_, True),
    "1 for a flag": ("loop.normalize_obs", 1, True),
    "0 for a flag": ("render", 0, False),
    "a JAX flag": ("loop.normalize_reward", jnp.array(True), True),
    "a list of texts": ("sweep", ["gamma=0.9,0.99"], ("gamma=0.9,0.99",)),
    "a list of wrappers": ("wrapper", ["a:b"], ("a:b",)),
    "a folder as a path": ("run_dir", Path("a") / "b", "a/b"),
    "a run to start from as a path": ("init_from", Path("a"), "a"),
    "a run to resume as a path": ("resume", Path("/a"), "/a"),
    "a NumPy text": ("env", np.str_("CartPole-v1"), "CartPole-v1"),
    "a list of widths": ("agent.hidden_sizes", [8, 8.0], (8, 8)),
    "an array of widths": ("agent.hidden_sizes", np.array([8, 4]), (8, 4)),
    "a JAX array of widths": ("agent.hidden_sizes", jnp.array([8, 4]), (8, 4)),
    "a NumPy float of the algorithm": ("agent.gamma", np.float64(0.9), 0.9),
    "a JAX float of the algorithm": ("agent.gamma", jnp.float32(0.5), 0.5),
    "whole epochs": ("agent.num_epochs", 4.0, 4),
    "a clip that is off": ("agent.clip_eps", None, None),
}
REFUSED = {
    "a fraction": ("total_steps", 1.5, "a whole number"),
    "a text": ("total_steps", "1e5", "a whole number"),
    "no number": ("loop.num_steps", float("nan"), "a whole number"),
    "more than any number": ("loop.anneal_steps", float("inf"), "a whole number"),
    "True": ("num_envs", True, "a whole number"),
    "a NumPy True": ("seed", np.True_, "a whole number"),
    "None": ("log_every", None, "a whole number"),
    "a random key": ("seed", jax.random.key(0), "a whole number"),
    "an array": ("num_envs", np.array([1, 2]), "a whole number"),
    "a text for a number": ("agent.gamma", "0.9", "a number"),
    "True for a number": ("agent.gae_lambda", True, "a number"),
    "a number that no float holds": ("agent.gamma", 10**400, "a number"),
    "a text for a number or None": ("agent.clip_eps", "none", "a number or None"),
    "2 for a flag": ("loop.normalize_obs", 2, "True or False"),
    "a text for a flag": ("agent.anneal_clip", "yes", "True or False"),
    "None for a flag": ("render", None, "True or False"),
    "one width": ("agent.hidden_sizes", 64, "a list or a tuple"),
    "widths as a text": ("agent.hidden_sizes", "64,64", "a list or a tuple"),
    "widths of fractions": ("agent.hidden_sizes", (8.5,), "a list or a tuple, each of its parts a whole number"),
    "a wrapper of no kind": ("wrapper", (3,), "a list or a tuple"),
    "a folder as bytes": ("run_dir", b"a", "a string or None"),
    "a folder as a number": ("init_from", 3, "a string or None"),
    "another choice": ("on_fault", "ignore", "one of 'stop', 'reset'"),
    "a number for a choice": ("env_backend", 1, "one of 'gymnasium', 'async', 'envpool'"),
    "an environment of no kind": ("env", 3, "a string, a function, a VectorEnv or a DeviceEnvironment"),
    "an environment itself": ("env", Endless(), "a string, a function, a VectorEnv or a DeviceEnvironment"),
    "settings for an environment": (
        "eval_env",
        PPOConfig(),
        "a string, a function, a VectorEnv, a DeviceEnvironment or None",
    ),
    "an algorithm by its name": ("agent", "ppo", "a PPOConfig"),
    "an algorithm's class": ("agent", PPOConfig, "a PPOConfig"),
    "an algorithm as a dict": ("agent", {"gamma": 0.9}, "a PPOConfig"),
}


def with_setting(run, name, value):
    place, _, inner = name.partition(".")
    if inner:
        value = dataclasses.replace(getattr(run, place), **{inner: value})
    return dataclasses.replace(run, **{place: value})


def setting(run, name):
    return functools.reduce(getattr, name.split("."), run)


@pytest.mark.parametrize("name, value, expected", CONVERTED.values(), ids=CONVERTED)
def test_a_value_becomes_what_its_field_declares(name, value, expected):
    found = setting(converted(with_setting(PPO, name, value)), name)
    assert found == expected and type(found) is type(expected)
    assert not isinstance(found, tuple) or list(map(type, found)) == list(map(type, expected))


@pytest.mark.parametrize("name, value, words", REFUSED.values(), ids=REFUSED)
def test_what_a_field_cannot_hold_is_refused_by_its_name(name, value, words):
    for trained in (train, train_many):
        with pytest.raises(BadInput) as complaint:
            trained(with_setting(PPO, name, value))
        text = str(complaint.value)
        assert text.startswith(f"{name.rpartition('.')[2]} is ") and f": it must be {words}" in text
        assert "\n" not in text and len(text) < 300
    assert files() == []


ODD = (
    *(
        0,
        1,
        2,
        -3,
        5.0,
        0.5,
        1e30,
        10**400,
        True,
        None,
        "x",
        "stop",
        "async",
        b"x",
        (),
        [],
        [4],
        (4.0, 2),
        ["a:b"],
        "a:b",
    ),
    *({"a": 1}, {4}, object(), Path("a"), np.int8(3), np.float16(3), np.float32(0.1), np.True_, np.array([3, 4])),
    *(np.array(3.0), np.array("x"), np.array(None), jnp.int32(3), jnp.float32(0.1), jnp.array(False), jnp.ones(2)),
    *(1j, range(3), jax.random.key(0), float("inf"), slice(3), PPOConfig(), DDPGConfig(gamma=np.float32(0.3)), PPO),
)
FIELDS = [(run, field.name) for run in (PPO, DDPG) for field in dataclasses.fields(run)]
FIELDS += [
    (run, f"{place}.{field.name}")
    for run in (PPO, DDPG)
    for place in ("agent", "loop")
    for field in dataclasses.fields(getattr(run, place))
]


@pytest.mark.parametrize("run, name", FIELDS, ids=[f"{run.algo} {name}" for run, name in FIELDS])
def test_whatever_is_accepted_is_read_back_from_json(run, name):
    accepted = 0
    for value in ODD:
        try:
            plain = converted(with_setting(run, name, value))
        except BadInput as complaint:
            words = "algo" if name == "algo" else f"{name.rpartition('.')[2]} is "
            assert str(complaint).startswith(words)
            continue
        accepted += 1
        assert run_from_json(json.loads(json.dumps(run_to_json(plain)))) == plain
    assert 0 < accepted < len(ODD)


NO_RUN = {
    "a dict": (lambda: train({"env": "CartPole-v1"}), "run is {'env': 'CartPole-v1'}: it must be a RunConfig"),
    "an id": (lambda: train("CartPole-v1"), "run is 'CartPole-v1': it must be a RunConfig"),
    "a class": (lambda: train(RunConfig), "it must be a RunConfig"),
    "an algorithm": (lambda: train(PPOConfig()), "it must be a RunConfig"),
    "nothing, for many": (lambda: train_many(None), "run is None: it must be a RunConfig"),
    "a callback that is none": (lambda: train(PPO, callback="stop"), "callback is 'stop': it must be a function"),
    "a callback's answer": (lambda: train(PPO, callback=False), "callback is False: it must be a function"),
}


@pytest.mark.parametrize("call, words", NO_RUN.values(), ids=NO_RUN)
def test_what_is_no_run_at_all_is_refused(call, words):
    with pytest.raises(BadInput) as complaint:
        call()
    assert words in str(complaint.value) and "\n" not in str(complaint.value)
    assert files() == []


def test_a_run_of_numbers_of_other_types_is_resumed():
    run = PPO.with_settings(
        total_steps=64.0, num_envs=np.int64(1), num_steps=jnp.int32(16), seed=np.uint8(3), run_dir=Path("run"),
        sweep=[], hidden_sizes=[4], num_epochs=1.0, gamma=np.float32(0.9),
    )  # fmt: skip
    first = train(run)
    assert load_run("run") == dataclasses.replace(first.run, resume="run")
    assert train(dataclasses.replace(load_run("run"), total_steps=np.float64(80))).step == 80


# Callbacks.


class Pruned(Exception):
    pass


RAISED = {
    "a pruned trial": Pruned("below the median"),
    "an assertion": AssertionError(),
    "Ctrl-C": KeyboardInterrupt(),
    "an exit": SystemExit(3),
    "the end of an iterator": StopIteration(7),
    "a file that is not there": FileNotFoundError(errno.ENOENT, "No such file", "x"),
    "an environment of its own": EnvironmentLost("lost"),
    "a mistake of its own": BadInput("mine"),
}


def raising(error, step):
    def callback(snapshot):
        if snapshot.step >= step:
            raise error

    return callback


@pytest.mark.parametrize("error", RAISED.values(), ids=RAISED)
def test_what_a_callback_raises_comes_through_unchanged_and_the_run_is_saved(error):
    with pytest.raises(type(error)) as raised:
        train(dataclasses.replace(PPO, run_dir="run"), raising(error, 1))
    assert raised.value is error
    assert load_arrays(Path("run/checkpoints/latest.npz"), ())[1]["step"] == 16


@pytest.mark.parametrize("run, step", [(PPO, 40), (DDPG, 20)], ids=["ppo", "ddpg"])
def test_a_pruned_run_that_is_resumed_has_the_bits_of_one_that_was_never_stopped(run, step, whole):
    with pytest.raises(Pruned):
        train(dataclasses.replace(run, run_dir="run"), raising(Pruned(), step))
    resumed = train(load_run("run"))
    assert resumed.step == 64 and digest(resumed) == whole[run.algo]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return {
        run.algo: digest(train(dataclasses.replace(run, run_dir=str(tmp_path_factory.mktemp("whole") / "run"))))
        for run in (PPO, DDPG)
    }


def test_a_callback_that_raises_where_nothing_can_be_saved_is_heard_all_the_same(monkeypatch, capsys):
    def callback(snapshot):
        monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(errno.ENOSPC, "no space")))
        raise Pruned

    with pytest.raises(Pruned):
        train(dataclasses.replace(PPO, run_dir="run"), callback)
    assert "no checkpoint can be written at step 16 (no space)" in capsys.readouterr().out


ANSWERS = {
    "an array": np.ones(3),
    "one number in an array": np.array(True),
    "a JAX flag": jnp.array(True),
    "a text": "stop",
    "an empty text": "",
    "a number": 1,
    "no number": 0,
    "metrics": {"loss": 1.0},
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_a_callback_that_answers_something_else_is_told_what_it_must(answer):
    with pytest.raises(BadInput) as complaint:
        asks_to_stop(answer)
    text = str(complaint.value)
    assert text.startswith("the callback returned ") and "\n" not in text
    assert text.endswith(": it must return None or True to go on, or False to stop")


@pytest.mark.parametrize(
    "answer, stops", [(None, False), (True, False), (np.True_, False), (False, True), (np.False_, True)]
)
def test_a_callback_may_answer(answer, stops):
    assert asks_to_stop(answer) is stops


def test_a_run_whose_callback_answers_something_else_is_saved():
    with pytest.raises(BadInput, match=r"^the callback returned array\(\[1., 1.\]\): it must return None or True"):
        train(dataclasses.replace(PPO, run_dir="run"), lambda snapshot: np.ones(2))
    assert train(dataclasses.replace(load_run("run"), total_steps=32)).step == 32


def test_all_of_many_runs_are_saved_where_the_callback_of_one_raises():
    runs = [converted(dataclasses.replace(PPO, seed=seed, run_dir=f"many/seed-{seed}")) for seed in (0, 1)]
    error = Pruned()
    with pytest.raises(Pruned) as raised:
        train_in(runs, [make_envs(run.env, 1, run.seed) for run in runs], raising(error, 32))
    assert raised.value is error
    steps = [load_arrays(Path(run.run_dir, "checkpoints/latest.npz"), ())[1]["step"] for run in runs]
    assert steps == [32, 32]
    assert [result.step for result in train_many(load_study("many"))] == [64, 64]


def test_an_evaluation_that_is_interrupted_leaves_a_checkpoint():
    class Interrupts(gym.Wrapper):
        evaluations = 0

        def reset(self, **options):
            Interrupts.evaluations += options.get("seed") is not None
            if Interrupts.evaluations == 3:  # One seed is for building it, one for the evaluation at the start.
                raise KeyboardInterrupt
            return self.env.reset(**options)

    eval_env = functools.partial(Interrupts, gym.make("Pendulum-v1"))
    with pytest.raises(KeyboardInterrupt):
        train(dataclasses.replace(PPO, eval_env=eval_env, eval_every=32, run_dir="run"))
    assert load_arrays(Path("run/checkpoints/latest.npz"), ())[1]["step"] == 32


# The working folder.


class Moves(gym.Wrapper):
    """Goes to a folder of its own at every reset, as simulators do that write files where they stand."""

    def reset(self, **options):
        os.chdir(tempfile.mkdtemp(dir=top()))
        return self.env.reset(**options)


def top():
    return Path(tempfile.gettempdir(), "elsewhere")


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The folder that `Moves` moves below."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere"


MOVING = {
    "single": {},
    "a named folder": {"run_dir": "a/b"},
    "two seeds": {"num_seeds": 2},
    "a sweep in a named folder": {"sweep": ("gamma=0.9,0.99",), "run_dir": "a"},
}


@pytest.mark.parametrize("changes", MOVING.values(), ids=MOVING)
def test_a_working_folder_that_moves_takes_nothing_of_a_run_along(changes, elsewhere, tmp_path):
    still = tmp_path / "still"
    still.mkdir()
    run = dataclasses.replace(PPO, total_steps=32, checkpoint_every=16, eval_every=16, env="Pendulum-v1", **changes)
    trained = train_many if is_study(run) else train
    here = Path.cwd()
    trained(dataclasses.replace(run, wrapper=(Moves,)))
    moved = {name for name in files(here) if "events" not in name}
    assert Path.cwd() != here and not [path for path in elsewhere.rglob("*") if path.is_file()]
    os.chdir(still)
    trained(run)
    assert {name for name in files(still) if "events" not in name} == moved


def test_names_are_as_they_were_given_until_the_working_folder_moves(elsewhere, capsys):
    here, seen = Path.cwd(), []
    still = train(dataclasses.replace(PPO, total_steps=32), lambda snapshot: seen.append(snapshot.run_dir))
    assert {*seen, still.run_dir} == {Path("runs/ppo-Pendulum-v1-seed0")}
    out = capsys.readouterr().out
    assert "seed 0, into runs/ppo-Pendulum-v1-seed0\n" in out and "s, in runs/ppo-Pendulum-v1-seed0\n" in out

    def callback(snapshot):
        seen.append(snapshot.run_dir)
        os.chdir(elsewhere)

    moved = train(dataclasses.replace(PPO, total_steps=32), callback)
    assert seen[-2:] == [Path("runs/ppo-Pendulum-v1-seed0-2"), here / "runs/ppo-Pendulum-v1-seed0-2"]
    assert moved.run_dir == here / "runs/ppo-Pendulum-v1-seed0-2" and moved.run.run_dir is None
    load_policy(moved.run_dir)
    assert json.loads((moved.run_dir / "config.json").read_text())["run"]["run_dir"] is None
    assert files(elsewhere) == []

    os.chdir(here)  # And the same where a run is resumed, or starts from another, by a relative name.
    longer = dataclasses.replace(load_run("runs/ppo-Pendulum-v1-seed0-2"), total_steps=48)
    assert train(longer, callback).run_dir == here / "runs/ppo-Pendulum-v1-seed0-2"
    os.chdir(here)
    first = lambda: Moves(gym.make("Pendulum-v1"))  # noqa: E731
    tuned = train(dataclasses.replace(PPO, env=first, run_dir="tuned", init_from="runs/ppo-Pendulum-v1-seed0"))
    assert tuned.run_dir == here / "tuned" and json.loads((here / "tuned/config.json").read_text())["run"]["init_from"]
    assert not [path for path in elsewhere.rglob("*") if path.is_file()]


def test_an_environment_that_is_made_to_see_its_spaces_moves_nothing(elsewhere):
    here = Path.cwd()
    assert make_in_worker(lambda: os.chdir(elsewhere) or "made", Path("note"), None) == "made"
    assert Path.cwd() == here


def test_a_working_folder_that_is_removed_costs_nothing(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()

    def callback(snapshot):
        os.chdir(gone)
        gone.rmdir()

    assert (
        train(dataclasses.replace(PPO, total_steps=16), callback).run_dir
        == tmp_path / "here/runs/ppo-Pendulum-v1-seed0"
    )
    assert train(dataclasses.replace(PPO, total_steps=16, run_dir=str(tmp_path / "run"))).run_dir == tmp_path / "run"


@pytest.mark.parametrize(
    "given, expected", [("cache", "HERE/cache"), ("/a/cache", "/a/cache"), ("gs://bucket/cache", "gs://bucket/cache")]
)
def test_the_compilation_cache_stays_where_it_was_named(given, expected, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", given)
    assert train_command(["--resume", "none"]) == 2
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == expected.replace("HERE", str(Path.cwd()))


# Output.


class Broken:
    """A stream that lacks what others have, and raises whatever it is asked to."""

    def __init__(self, error=None, **has):
        self.error, self.written = error or ValueError("I/O operation on closed file"), []
        vars(self).update(has)

    def write(self, text):
        self.written.append(text)
        raise self.error


def encoded(encoding, **options):
    return io.TextIOWrapper(io.BytesIO(), encoding, **options)


def closed():
    stream = encoded("utf-8")
    stream.close()
    return stream


def detached():
    stream = encoded("utf-8")
    stream.detach()
    return stream


STREAMS = {
    "ascii": lambda: encoded("ascii"),
    "latin-1": lambda: encoded("latin-1"),
    "a Windows code page": lambda: encoded("cp1252"),
    "closed": closed,
    "detached": detached,
    "none": lambda: None,
    "an object": object,
    "bytes only": io.BytesIO,
    "write raises": Broken,
    "write raises what it likes": lambda: Broken(RuntimeError("the kernel is gone")),
    "no encoding, and nothing but ASCII": lambda: codecs.getwriter("ascii")(io.BytesIO()),
    "a terminal whose write raises": lambda: Broken(OSError(errno.EIO, "gone"), isatty=lambda: True, encoding="utf-8"),
    "a terminal of ASCII": lambda: Terminal(io.BytesIO(), "ascii"),
    "isatty raises": lambda: Broken(isatty=lambda: 1 / 0, flush=lambda: 1 / 0),
}


class Terminal(io.TextIOWrapper):
    def isatty(self):
        return True


@pytest.mark.parametrize("kind", STREAMS)
def test_nothing_that_is_printed_ends_a_run(kind, monkeypatch):
    evaluation, stream = Evaluation(8, 1.0, 0.0, 1.0, 1.0, 1, 0.5), STREAMS[kind]()
    with monkeypatch.context() as patch:
        patch.setenv("TERM", "xterm")
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        patch.setattr("jaxrl.loggers.console.PLAIN_LINE_SECONDS", -1.0)
        patch.setattr("jaxrl.loggers.console.REDRAW_SECONDS", -1.0)
        console = Console(Display(100), "γ=0.9")
        console.progress(8, 100.0, 0.5)
        console.say("into 训练/run, \udcff [bold]")
        console.evaluation(evaluation)
        console.close()
        assert sys.stdout is stream and sys.stderr is stream
        assert train_command(["--resume", "训练"]) == 2
    if kind in ("ascii", "latin-1", "a Windows code page"):
        text = stream.buffer.getvalue().decode(stream.encoding)
        assert "into ??/run, ? [bold]\n" in text and "?? holds no run" in text


def test_a_study_whose_table_cannot_be_printed_is_done_all_the_same(monkeypatch):
    flags = (
        "--algo ppo --env Pendulum-v1 --total-steps 16 --num-steps 16 --num-envs 1 --num-minibatches 2 --num-seeds 2"
    )
    monkeypatch.setattr(sys, "stdout", Broken())
    assert train_command([*flags.split(), "--num-seeds", "2", "--eval-every", "none", "--run-dir", "many"]) == 0
    assert Path("many/results.csv").is_file()


def test_a_folder_that_standard_output_cannot_spell(monkeypatch):
    stream = encoded("ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert train(dataclasses.replace(PPO, total_steps=16, run_dir="训练/é")).run_dir == Path("训练/é")
    assert "into ??/?\n" in stream.buffer.getvalue().decode("ascii")
    assert load_run("训练/é").run_dir == "训练/é"


# Disks, locks and signals.

CODES = {"EINVAL": False, "ENOTSUP": False, "EOPNOTSUPP": False, "ENOSYS": False, "EACCES": False}
CODES |= {"EIO": True, "ENOSPC": True, "EDQUOT": True}


@pytest.mark.parametrize("code, counts", CODES.items(), ids=CODES)
def test_only_a_disk_that_fails_counts_where_a_folder_is_synced(code, counts, monkeypatch):
    fsync = os.fsync

    def refuses(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(getattr(errno, code), code)
        return fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuses)
    with pytest.raises(OSError, match=code) if counts else contextlib.nullcontext():
        write_atomically(Path("file"), lambda file: file.write(b"whole"))
    assert Path("file").read_bytes() == b"whole"


@pytest.mark.parametrize("code", ["EIO", "ENOSPC"])
def test_a_file_that_does_not_reach_the_disk_counts(code, monkeypatch):
    Path("file").write_bytes(b"before")
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(getattr(errno, code), code)))
    with pytest.raises(OSError, match=code):
        write_atomically(Path("file"), lambda file: file.write(b"after"))
    assert Path("file").read_bytes() == b"before" and files() == ["file"]


def test_a_disk_without_locks_or_one_that_opens_no_folders(monkeypatch):
    opened = os.open

    def no_folders(path, *given, **options):
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *given, **options)

    monkeypatch.setattr(os, "open", no_folders)
    assert train(dataclasses.replace(PPO, total_steps=16, run_dir="run")).step == 16
    monkeypatch.setattr(os, "open", opened)

    def no_locks(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", no_locks)
    assert train(dataclasses.replace(load_run("run"), total_steps=32)).step == 32


def test_a_handler_of_other_code_ends_no_run_that_is_over(monkeypatch):
    set_handler, before = signal.signal, signal.getsignal(signal.SIGTERM)

    def of_c(kind, handler):
        found = set_handler(kind, handler)
        return None if kind is signal.SIGTERM else found

    monkeypatch.setattr(signal, "signal", of_c)
    try:
        with Stops():
            pass
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        set_handler(signal.SIGTERM, before)


# Several runs.


def test_studies_that_start_at_once_take_folders_of_their_own():
    run, groups = dataclasses.replace(PPO, num_seeds=2), []
    together = threading.Barrier(8)

    def start():
        together.wait()
        groups.append(str(runs_of(run)[0]))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = [f"runs/ppo-Pendulum-v1-seeds0-1{suffix}" for suffix in ("", *(f"-{k}" for k in range(2, 9)))]
    assert sorted(groups) == sorted(names)
    swept = dataclasses.replace(PPO, sweep=("gamma=0.9,0.99",))
    name = "runs/ppo-Pendulum-v1-seed0-gamma"
    assert [str(runs_of(swept)[0]) for _ in range(2)] == [name, f"{name}-2"]


@pytest.mark.parametrize(
    "changes",
    [
        {"env": "CartPol-v1"},
        {"agent": PPO.agent.replace(gamma=2.0)},
        {"eval_env": "CartPole-v1"},
        {"init_from": "none"},
    ],
    ids=str,
)
@pytest.mark.parametrize("already", [(), ("runs",), ("runs/ppo-Pendulum-v1-seeds0-1/x",)], ids=str)
def test_a_study_that_is_refused_leaves_nothing_behind(changes, already):
    for folder in already:
        Path(folder).mkdir(parents=True)
    before = files()
    with pytest.raises(BadInput):
        train_many(dataclasses.replace(PPO, num_seeds=2, **changes))
    assert files() == before


# Environments that the user has built.


class Counted(gym.Wrapper):
    closed = 0

    def close(self):
        Counted.closed += 1


def test_only_environments_that_were_built_here_are_closed():
    def make():
        return Counted(gym.make("Pendulum-v1"))

    both = [SyncVectorEnv([make] * count, autoreset_mode=AutoresetMode.SAME_STEP) for count in (1, 2)]
    run = dataclasses.replace(PPO, env=both[0], eval_env=both[1], eval_episodes=2)
    for name in ("first", "second"):  # They serve again.
        assert train(dataclasses.replace(run, run_dir=name)).step == 64
    assert Counted.closed == 0 and not any(envs.closed for envs in both)
    train(dataclasses.replace(PPO, env=make, run_dir="third"))
    assert Counted.closed == 2

"""What users' evaluations meet: episodes without end, an environment that exists once, one that remembers, one that
normalises."""

import csv
import dataclasses
import functools
import json
import multiprocessing
import time

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import NormalizeObservation, NormalizeReward, TimeLimit
from gymnasium.wrappers import vector as vector_wrappers
from scripted import Endless, ScriptedVector
from settings import run_config

import jaxrl.training.evaluate
from jaxrl import BadInput, DDPGConfig, PPOConfig, load_policy, train, train_many
from jaxrl.cli.arguments import parse_run
from jaxrl.cli.main import evaluate_command, train_command
from jaxrl.envs.wrappers import follow, normalizers
from jaxrl.errors import EnvironmentLost
from jaxrl.loggers.console import Display
from jaxrl.loggers.logger import Evaluation
from jaxrl.runs import folder
from jaxrl.runs.checks import check_settings
from jaxrl.runs.record import load_run
from jaxrl.training.evaluate import episode_bound, evaluate, make_eval_envs
from jaxrl.training.evaluator import Evaluator

NEVER = 10**9
DEFAULT = 30  # What these tests make of the bound of 20,000 steps.
NEXT_STEP, SAME_STEP, DISABLED = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED


class Walk(gym.Env):
    """A random walk whose reward is where it stands; it ends after `length` steps."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, length=NEVER):
        self._length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps, self._at = 0, self.np_random.normal()
        return np.array([self._at], np.float32), {}

    def step(self, action):
        self._steps += 1
        self._at += self.np_random.normal()
        return np.array([self._at], np.float32), self._at, self._steps >= self._length, False, {}


class Continuous(Walk):
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)


class Once(Walk):
    """As a licence or a port: this process has one at a time, and after it is closed none."""

    built = 0

    def __init__(self, length=8):
        type(self).built += 1
        if type(self).built > 1:
            raise RuntimeError("it exists once")
        super().__init__(length)


class Remembers(Walk):
    """Its rewards are how often it was reset."""

    def __init__(self):
        super().__init__(4)
        self._resets = 0

    def reset(self, *, seed=None, options=None):
        self._resets += 1
        return super().reset(seed=seed)

    def step(self, action):
        obs, _, *rest = super().step(action)
        return obs, float(self._resets), *rest


class HangsElsewhere(Walk):
    """Gives no answer in processes that this one has started."""

    def step(self, action):
        if multiprocessing.parent_process() is not None:
            time.sleep(60)
        return super().step(action)


gym.register("UsersNever-v0", Walk)
gym.register("UsersTen-v0", Walk, kwargs={"length": 10})
PPO = PPOConfig(hidden_sizes=(4,), num_minibatches=1, num_epochs=1)
RUN = run_config(
    env=functools.partial(Walk, 4), agent=PPO, num_envs=1, num_steps=16, total_steps=16, eval_every=16, eval_episodes=2
)
ENDS_AT_ONCE = -1e9  # As stop_return: the first evaluation ends the run, before anything is compiled for an update.


@pytest.fixture(autouse=True)
def _small_bound(monkeypatch):
    monkeypatch.setattr(jaxrl.training.evaluate, "DEFAULT_MAX_STEPS", DEFAULT)
    Once.built = 0


def act(envs):
    return lambda obs: np.zeros((envs.num_envs, *envs.action_space.shape), envs.action_space.dtype)


def scripted(mode, *lengths):
    return lambda: ScriptedVector([functools.partial(Walk, length) for length in lengths], mode)


def synchronous(mode, *lengths):
    return lambda: SyncVectorEnv([functools.partial(Walk, length) for length in lengths], autoreset_mode=mode)


def around(make):
    return lambda: vector_wrappers.NormalizeObservation(make())


NEVER_ENDS = functools.partial(Walk, NEVER)
BOUNDS = {  # The environment, episodes, max_steps; the lengths that count, and how many of them are cut.
    "never ends": (NEVER_ENDS, 2, None, [DEFAULT] * 2, 2),
    "never ends, more episodes than environments": (NEVER_ENDS, 12, None, [DEFAULT] * 12, 12),
    "never ends, a bound of its own": (NEVER_ENDS, 2, 7, [7, 7], 2),
    "never ends, a bound of one step": (NEVER_ENDS, 2, 1, [1, 1], 2),
    "a time limit": (lambda: TimeLimit(Walk(), 40), 2, None, [40, 40], 0),
    "a time limit under another wrapper": (lambda: NormalizeReward(TimeLimit(Walk(), 40)), 2, None, [40, 40], 0),
    "a bound before the time limit": (lambda: TimeLimit(Walk(), 40), 2, 7, [7, 7], 2),
    "a bound after the time limit": (lambda: TimeLimit(Walk(), 40), 2, 50, [40, 40], 0),
    "ends on the step of the bound": (functools.partial(Walk, DEFAULT), 2, None, [DEFAULT] * 2, 0),
    "would end a step after the bound": (functools.partial(Walk, DEFAULT + 1), 2, None, [DEFAULT] * 2, 2),
    "truncated on the step of the bound": (lambda: Endless(DEFAULT), 2, None, [DEFAULT] * 2, 0),
    "taken out of its time limit": (lambda: gym.make("MountainCar-v0").unwrapped, 1, None, [DEFAULT], 1),
    "an id without a limit": ("UsersNever-v0", 2, None, [DEFAULT] * 2, 2),
    "an id that ends": ("UsersTen-v0", 2, None, [10, 10], 0),
    "an id with a limit": ("MountainCar-v0", 1, None, [200], 0),
    "natively vectorised": ("CartPole-v1", 3, 5, [5, 5, 5], 3),
    "natively vectorised, it ends": ("CartPole-v1", 1, None, [9], 0),
    "vector, SAME_STEP": (synchronous(SAME_STEP, NEVER, 9), 4, None, [DEFAULT] * 2 + [9] * 2, 2),
    "vector, NEXT_STEP": (synchronous(NEXT_STEP, NEVER, 9), 4, None, [DEFAULT] * 2 + [9] * 2, 2),
    "vector, DISABLED": (scripted(DISABLED, NEVER, 9), 4, None, [DEFAULT] * 2 + [9] * 2, 2),
    "vector, no reset of one alone": (scripted(NEXT_STEP, NEVER, 9), 4, None, [DEFAULT] * 2 + [9] * 2, 2),
    "vector, no reset of one alone, SAME_STEP": (scripted(SAME_STEP, NEVER, 9), 6, None, [DEFAULT] * 3 + [9] * 3, 3),
    "vector, no reset of one alone, all never end": (scripted(NEXT_STEP, NEVER, NEVER), 4, None, [DEFAULT] * 4, 4),
    "vector, it ends while it waits": (scripted(SAME_STEP, 12, 45), 4, 10, [10] * 4, 4),
    "vector, a wrapper around all": (around(synchronous(NEXT_STEP, NEVER, 9)), 4, None, [DEFAULT] * 2 + [9] * 2, 2),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_an_evaluation_ends(name):
    env, count, max_steps, lengths, num_cut = BOUNDS[name]
    both = []
    for _ in range(2):
        given = env() if name.startswith("vector") else env
        envs, cut = make_eval_envs(given, count), []
        returns, found = evaluate(act(envs), envs, count, 3, max_steps=max_steps, cut=cut)
        assert (found.tolist(), len(cut)) == (lengths, num_cut)
        assert {each.episode_length for each in cut} <= {episode_bound(envs, max_steps)}
        both.append(returns)
        envs.close()
    np.testing.assert_array_equal(*both)
    if "CartPole" not in str(env) and count > 1 and max_steps != 1 and "truncated" not in name and "id" not in name:
        assert len(set(both[0])) == count, "each episode is another"


def test_a_cut_episode_counts_with_its_return_up_to_there():
    env, total = Walk(), 0.0
    envs = make_eval_envs(NEVER_ENDS, 1)
    env.reset(seed=envs.seeds(5)[0])
    for _ in range(9):
        total += env.step(0)[1]
    returns, _ = evaluate(act(envs), envs, 1, 5, max_steps=9)
    assert returns.tolist() == [total]


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """A run on an environment that never ends, and what it printed."""
    folder = tmp_path_factory.mktemp("endless") / "run"
    run = dataclasses.replace(RUN, env="UsersNever-v0", run_dir=str(folder), eval_max_steps=9, stop_return=ENDS_AT_ONCE)
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Display, "say", lambda _, line: lines.append(line))
        return train(run), lines


def test_stop_return_waits_where_an_episode_was_cut(endless):
    result, lines = endless
    assert [each.step for each in result.evaluations] == [0, 16]
    said = [line for line in lines if "cut" in line]
    assert len(said) == 1 and "2 of 2 episodes were cut at 9 steps" in said[0] and "stop_return waits" in said[0]
    assert "cut" not in (result.run_dir / "evaluations.csv").read_text()


def test_stop_return_ends_where_none_was_cut(tmp_path):
    assert train(dataclasses.replace(RUN, run_dir=str(tmp_path / "a"), stop_return=ENDS_AT_ONCE)).step == 0


@pytest.mark.parametrize("which", ["best", "latest"])
def test_a_cut_evaluation_is_recorded_and_repeated(endless, capsys, which):
    folder = endless[0].run_dir / "policy" / which
    assert load_policy(folder).notes["evaluation"]["max_steps"] == 9
    assert evaluate_command([str(folder), "--recorded"]) == 0
    out = capsys.readouterr().out
    assert out.endswith(", the same\n") and out.count("were cut at 9 steps") == 1


EVALUATED = {
    "the default": ([], f"return {{}}, {DEFAULT} steps", f"2 of 2 episodes were cut at {DEFAULT} steps"),
    "a limit of the user's": (["--max-episode-steps", "40"], "return {}, 40 steps", None),
    "a task that ends": (["--env", "UsersTen-v0"], "return {}, 10 steps", None),
}


@pytest.mark.parametrize("name", EVALUATED)
def test_the_evaluate_command_ends(endless, capsys, name):
    flags, line, cut = EVALUATED[name]
    assert evaluate_command([str(endless[0].run_dir), "--episodes", "2", *flags]) == 0
    out = capsys.readouterr().out
    assert out.count(line.partition("{}")[2]) == 2
    assert ("were cut" in out) == (cut is not None) and (cut or "") in out


def test_a_bundle_of_before_has_no_bound(tmp_path, monkeypatch):
    run = dataclasses.replace(RUN, env="UsersTen-v0", run_dir=str(tmp_path / "a"), stop_return=ENDS_AT_ONCE)
    save = folder.save_policy
    forget = lambda notes: {**notes, "evaluation": {k: v for k, v in notes["evaluation"].items() if k in OLD}}  # noqa: E731
    monkeypatch.setattr(folder, "save_policy", lambda *given: save(*given[:-1], forget(given[-1])))
    OLD = {*Evaluation._fields, "env", "on_fault", "num_envs", "seeds"}
    train(run)
    monkeypatch.setattr(jaxrl.training.evaluate, "DEFAULT_MAX_STEPS", 5)
    assert evaluate_command([run.run_dir, "--recorded"]) == 0


# One simulator only.


@pytest.fixture(scope="module")
def unevaluated(tmp_path_factory):
    Once.built = 0
    run = dataclasses.replace(RUN, env=Once, eval_every=None, run_dir=str(tmp_path_factory.mktemp("once") / "run"))
    return train(run), Once.built


def test_an_environment_that_exists_once_is_built_once(unevaluated):
    result, built = unevaluated
    assert (built, result.step, result.evaluations) == (1, 16, [])
    with (result.run_dir / "evaluations.csv").open() as file:
        assert list(csv.DictReader(file)) == []


def test_without_evaluations_the_best_policy_is_the_latest(unevaluated):
    obs = np.linspace(-3, 3, 7, dtype=np.float32)[:, None]
    best, latest = (load_policy(unevaluated[0].run_dir / "policy" / name) for name in ("best", "latest"))
    np.testing.assert_array_equal(best(obs), latest(obs))
    assert best.notes["step"] == 16 and best.notes["evaluation"] is None


def test_a_run_without_evaluations_is_resumed(unevaluated):
    run_dir = str(unevaluated[0].run_dir)
    result = train(dataclasses.replace(RUN, env=Once, eval_every=None, total_steps=32, resume=run_dir))
    assert (result.step, Once.built, load_policy(run_dir).notes["step"]) == (32, 1, 32)


def test_a_vector_environment_alone_trains_without_evaluations(tmp_path):
    vector = synchronous(SAME_STEP, 4)()
    assert train(dataclasses.replace(RUN, env=vector, eval_every=None, run_dir=str(tmp_path / "a"))).step == 16


def test_a_sweep_without_evaluations_leaves_a_table(tmp_path, capsys):
    flags = "--env UsersTen-v0 --num-envs 1 --num-steps 16 --total-steps 16 --hidden-sizes 4 --num-minibatches 1"
    flags += " --num-epochs 1 --eval-every none --sweep gamma=0.9,0.99"
    assert train_command([*flags.split(), "--run-dir", str(tmp_path / "a")]) == 0
    assert "2 runs are done; eval_every is none" in capsys.readouterr().out
    assert (tmp_path / "a" / "results.csv").read_text() == "gamma,seed\n0.9,0\n0.99,0\n"


VECTOR = synchronous(SAME_STEP, 4)
REFUSED = {
    "stop_return": ({"eval_every": None, "stop_return": 1.0}, "stop_return needs evaluations"),
    "render": ({"eval_every": None, "render": True, "env": "CartPole-v1"}, "render needs evaluations"),
    "eval_env": ({"eval_every": None, "eval_env": "CartPole-v1"}, "eval_env needs evaluations"),
    "eval_max_steps": ({"eval_every": None, "eval_max_steps": 3}, "eval_max_steps needs evaluations"),
    "eval_backend": ({"eval_every": None, "eval_backend": "async"}, "eval_backend needs evaluations"),
    "eval_every 0": ({"eval_every": 0}, "eval_every is 0"),
    "eval_max_steps 0": ({"eval_max_steps": 0}, "eval_max_steps is 0: it must be from 1"),
    "a timeout that nothing has a use for": ({"env_timeout": 2.0}, "eval_backend async, or leave it off"),
    "a vector environment and no evaluation's": ({"env": VECTOR()}, "give another as eval_env, or eval_every none"),
    "a vector environment for many": ({"eval_env": VECTOR(), "num_seeds": 2}, "belongs to one run"),
    "a vector environment for a sweep": ({"eval_env": VECTOR(), "sweep": ("gamma=0.9,1",)}, "belongs to one run"),
    "a vector environment under async": ({"eval_env": VECTOR(), "eval_backend": "async"}, "leave eval_backend off"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_one_line_says_what_cannot_be(name):
    settings, line = REFUSED[name]
    with pytest.raises(BadInput, match=line):
        check_settings(dataclasses.replace(RUN, **settings))


ACCEPTED = {
    "a timeout of evaluations": {"env_timeout": 2.0, "eval_backend": "async"},
    "a timeout of a vector environment's": {"env_timeout": 2.0, "eval_env": VECTOR()},
    "no evaluation": {"eval_every": None},
    "a bound": {"eval_max_steps": 1},
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_can_be_is_accepted(name):
    check_settings(dataclasses.replace(RUN, **ACCEPTED[name]))


def test_the_algorithm_chooses_how_often_unless_told():
    assert (run_config().eval_every, run_config(agent=DDPGConfig()).eval_every) == (50_000, 5_000)
    assert run_config(eval_every=None).eval_every is None
    assert dataclasses.replace(run_config(eval_every=None), seed=1).eval_every is None
    assert parse_run(["--eval-every", "none"]).eval_every is None
    assert parse_run(["--eval-every", "1e3"]).eval_every == 1000
    assert parse_run(["--eval-max-steps", "7", "--eval-backend", "async"]).eval_max_steps == 7


def test_the_command_refuses_what_needs_evaluations(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train_command(["--eval-every", "none", "--stop-return", "1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_run_of_before_is_resumed(endless, tmp_path):
    """Its config.json knows neither the bound nor where evaluations run."""
    run = dataclasses.replace(RUN, env="UsersTen-v0", run_dir=str(tmp_path / "a"), stop_return=ENDS_AT_ONCE)
    train(run)
    path = tmp_path / "a" / "config.json"
    about = json.loads(path.read_text())
    for name in ("eval_max_steps", "eval_backend"):
        del about["run"][name]
    path.write_text(json.dumps(about))
    old = dataclasses.replace(load_run(run.run_dir), stop_return=None)
    with pytest.raises(BadInput, match=r"eval_max_steps is 3, but the run in .* had None"):
        train(dataclasses.replace(old, eval_max_steps=3))
    assert train(old).step == 16


# Evaluation where training runs.


def once_for_three_steps():
    return NormalizeObservation(TimeLimit(Once(), 3))


def test_evaluations_in_processes_are_those_in_this_one(tmp_path, capsys):
    """Where the spaces are known, none is built here only to see them; and what is inside is seen from here."""
    run = dataclasses.replace(RUN, eval_episodes=1)
    here = train(dataclasses.replace(run, env=Walk, eval_max_steps=3, run_dir=str(tmp_path / "a")))
    assert "were cut at 3 steps" in capsys.readouterr().out
    there = dataclasses.replace(run, env=once_for_three_steps, eval_backend="async", run_dir=str(tmp_path / "b"))
    assert [each[:-1] for each in train(there).evaluations] == [each[:-1] for each in here.evaluations]
    out = capsys.readouterr().out
    assert "were cut" not in out and "NormalizeObservation inside:" in out and OWN in out
    assert Once.built == 1
    notes = load_policy(tmp_path / "b").notes["evaluation"]
    assert (notes["backend"], notes["max_steps"]) == ("async", None)


def test_an_evaluation_that_hangs_ends_the_run(tmp_path):
    run = dataclasses.replace(
        RUN, env=HangsElsewhere, eval_backend="async", env_timeout=1.0, run_dir=str(tmp_path / "a")
    )
    with pytest.raises(EnvironmentLost, match=r"in the evaluation at step 0, .* within 1 s .* saved in"):
        train(run)
    assert (tmp_path / "a" / "checkpoints" / "latest.npz").is_file()


# Each seed in environments of its own.


def test_a_seed_is_evaluated_as_it_is_alone(tmp_path):
    run = dataclasses.replace(RUN, env=Remembers, eval_episodes=12, run_dir=str(tmp_path / "many"))
    many = train_many(dataclasses.replace(run, num_seeds=2))
    alone = train(dataclasses.replace(run, seed=1, run_dir=str(tmp_path / "alone")))
    assert [each[:-1] for each in many[1].evaluations] == [each[:-1] for each in alone.evaluations]
    assert len({each.mean_return for each in alone.evaluations}) == 2, "it does remember"


def test_environments_of_runs_that_cannot_begin_are_closed(tmp_path, monkeypatch):
    made, closed = [], []

    def make(*given, **options):
        if made:
            raise BadInput("the second cannot be built")
        made.append(make_eval_envs(*given, **options))
        monkeypatch.setattr(made[0], "close", lambda: closed.append(True))
        return made[0]

    monkeypatch.setattr("jaxrl.training.evaluator.make_eval_envs", make)
    with pytest.raises(BadInput, match="the second"):
        train_many(dataclasses.replace(RUN, num_seeds=2, run_dir=str(tmp_path / "a")))
    assert closed == [True]


# Statistics inside the environment.

DDPG = run_config(
    env=functools.partial(Continuous, 4),
    agent=DDPGConfig(hidden_sizes=(4, 4)),
    eval_episodes=2,
    learning_starts=9,
    batch_size=4,
    buffer_size=9,
)
BOTH = NormalizeObservation, NormalizeReward
FROZEN, OWN = "evaluations use those of the training, frozen", "evaluations use their own"
SAID = {
    "observations": (RUN, {"wrapper": BOTH[:1]}, ["NormalizeObservation inside", "use --normalize-obs instead"]),
    "rewards": (RUN, {"wrapper": BOTH[1:]}, ["sums of normalised rewards", FROZEN, "use --normalize-reward instead"]),
    "both": (RUN, {"wrapper": BOTH}, ["NormalizeObservation and NormalizeReward inside", "--normalize-obs and --n"]),
    "in a factory": (RUN, {"env": lambda: NormalizeObservation(Walk(4))}, ["NormalizeObservation inside", FROZEN]),
    "under others": (RUN, {"env": lambda: TimeLimit(NormalizeObservation(Walk()), 4)}, ["inside", FROZEN]),
    "evaluated without": (RUN, {"wrapper": (), "env": lambda: NormalizeObservation(Walk(4)),
                                "eval_env": functools.partial(Walk, 4)}, ["inside", OWN]),
    "around all": (RUN, {"env": around(synchronous(NEXT_STEP, 4))(),
                         "eval_env": lambda: NormalizeObservation(Walk(4))}, ["inside", FROZEN]),
    "in a vector environment": (RUN, {"env": SyncVectorEnv([lambda: NormalizeReward(Walk(4))]),
                                      "eval_env": lambda: NormalizeReward(Walk(4))}, ["inside", FROZEN]),
    "ddpg": (DDPG, {"wrapper": BOTH[:1]}, ["NormalizeObservation inside", FROZEN, "ddpg has no setting for it"]),
    "none": (RUN, {}, []),
    "ours": (RUN, {"normalize_obs": True, "normalize_reward": True}, []),
}  # fmt: skip


@pytest.mark.parametrize("name", SAID)
def test_statistics_inside_are_said_in_one_line(tmp_path, capsys, name):
    run, settings, parts = SAID[name]
    train(run.with_settings(**settings, stop_return=ENDS_AT_ONCE, run_dir=str(tmp_path / "a")))
    lines = [line for line in capsys.readouterr().out.splitlines() if "inside:" in line]
    assert len(lines) == bool(parts)
    assert all(part in lines[0] for part in parts)


def test_an_evaluation_sees_what_the_training_saw(tmp_path, monkeypatch):
    """The training's statistics when it begins, which do not move in it."""
    seen = []

    def watched(evaluator, training, *rest):
        result = evaluate_once(evaluator, training, *rest)
        [[trained]] = training.envs.normalizers
        mean = trained.obs_rms.mean.copy()
        for [wrapper] in evaluator.envs.normalizers:
            np.testing.assert_array_equal(mean, wrapper.obs_rms.mean)
            assert wrapper.obs_rms is not trained.obs_rms
        seen.append(float(mean[0]))
        return result

    evaluate_once = Evaluator.evaluate
    monkeypatch.setattr(Evaluator, "evaluate", watched)
    train(dataclasses.replace(RUN, wrapper=BOTH[:1], run_dir=str(tmp_path / "a")))
    assert len(set(seen)) == 2, "they move in the training"


def test_statistics_of_several_environments_are_merged():
    data = [np.random.default_rng(i).normal(5 * i, 1 + i, (20 + i, 1)) for i in range(3)]
    trained, evaluated = [[NormalizeObservation(Walk())] for _ in data], [[NormalizeObservation(Walk())]]
    for [wrapper], rows in zip(trained, data, strict=True):
        wrapper.obs_rms.update(rows)
    assert follow(evaluated, trained)
    every, [[wrapper]] = np.concatenate(data), evaluated
    np.testing.assert_allclose(wrapper.obs_rms.mean, every.mean(0), rtol=1e-4)
    np.testing.assert_allclose(wrapper.obs_rms.var, every.var(0), rtol=1e-4)
    assert not wrapper.update_running_mean and all(each.update_running_mean for [each] in trained)


UNLIKE = {
    "nothing to see in the training": ([[NormalizeObservation(Walk())]], []),
    "nothing to see in the evaluation": ([], [[NormalizeObservation(Walk())]]),
    "another kind": ([[NormalizeObservation(Walk())]], [[NormalizeReward(Walk())]]),
    "one more": ([normalizers(NormalizeReward(NormalizeObservation(Walk())))], [[NormalizeReward(Walk())]]),
    "another shape": ([[NormalizeObservation(Walk())]], [[NormalizeObservation(gym.make("CartPole-v1"))]]),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_statistics_of_something_else_are_not_taken(name):
    evaluated, trained = UNLIKE[name]
    assert not follow(evaluated, trained)
    assert all(wrapper.update_running_mean for wrappers in evaluated for wrapper in wrappers)


def test_a_policy_that_learned_under_statistics_says_so_when_it_is_evaluated(tmp_path, capsys):
    name = "gymnasium.wrappers:NormalizeObservation"
    run = dataclasses.replace(RUN, env="UsersTen-v0", wrapper=(name,), stop_return=ENDS_AT_ONCE)
    train(dataclasses.replace(run, run_dir=str(tmp_path / "a")))
    assert evaluate_command([str(tmp_path / "a"), "--wrapper", name, "--episodes", "1"]) == 0
    assert "has NormalizeObservation inside: it begins with new statistics" in capsys.readouterr().out

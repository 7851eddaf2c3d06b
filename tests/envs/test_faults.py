"""Steps of which nothing can be learned: each that is injected is found, none is stored, and the run stops or goes on,
as it was asked to."""

import csv
import dataclasses
import types

import gymnasium as gym
import jax
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import DictInfoToList
from scripted import EPISODES, Scripted, ScriptedVector
from settings import run_config

from jaxrl import BadInput, DDPGConfig, EnvironmentFault, EnvironmentLost, PPOConfig, make_envs, train
from jaxrl.data.normalize import normalizer_init
from jaxrl.data.transition import Transition
from jaxrl.envs.faults import MAX_FAULTS_PER_EPISODE
from jaxrl.runs.stack import Stack
from jaxrl.runs.state import Training
from jaxrl.storage.files import load_arrays
from jaxrl.training.on_policy import collect_rollout
from jaxrl.training.train import train_in

# At which of its steps each environment fails, and how; step 9 of the second is the last of an episode.
PLANS = [
    {5: ("obs", np.nan), 11: ("reward", np.inf), 12: ("obs", -np.inf), 33: ("reward", -np.inf), 34: ("first", np.nan)},
    {9: ("obs", np.inf), 20: ("reward", np.nan), 27: ("first", np.inf)},
]


class Injected(gym.Env):
    """Episodes of nine steps, observed as [episode, step], that fail as planned."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, plan, length=9):
        self._plan, self._length, self._episode, self._total, self._fails_at_first = plan, length, -1, 0, None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._episode, self._step = self._episode + 1, 0
        first, self._fails_at_first = self._fails_at_first, None
        return np.array([self._episode, 0.0 if first is None else first], np.float32), {}

    def step(self, action):
        self._total, self._step = self._total + 1, self._step + 1
        what, value = self._plan.get(self._total, ("nothing", 0.0))
        obs = np.array([self._episode, self._step], np.float32)
        over = self._step == self._length
        if what == "first":
            over, self._fails_at_first = True, value
        if what == "obs":
            obs[1] = value
        return obs, value if what == "reward" else 1.0, over, False, {}


def injected(plan):
    return lambda: Injected(plan)


MAKERS = [injected(plan) for plan in PLANS]
KINDS = {
    **{f"sync {mode.name}": lambda mode=mode: SyncVectorEnv(MAKERS, autoreset_mode=mode) for mode in AutoresetMode},
    "custom DISABLED": lambda: ScriptedVector(MAKERS, AutoresetMode.DISABLED),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_fault_is_found_and_no_row_of_it_stays(kind):
    envs = make_envs(KINDS[kind](), 2, 0, on_fault="reset")
    found, lengths = [[], []], [[], []]
    for _ in range(60):
        row = envs.step(np.zeros((2, 1), np.float32))
        for index, what in envs.faults:
            found[index].append(what)
        for i in np.flatnonzero(row.valid):
            assert np.isfinite([*row.obs[i], row.reward[i], *row.next_obs[i]]).all()
            np.testing.assert_array_equal(row.next_obs[i] - row.obs[i], [0, 1])
        for index, episode_return, length in envs.finished:
            assert episode_return == length
            lengths[index].append(length)
        assert np.isfinite(envs.obs).all()
    words = {"obs": "gave an observation that", "first": "gave an observation that", "reward": "gave a reward that"}
    for index, plan in enumerate(PLANS):
        assert len(found[index]) == len(plan)
        for what, (kind_of, _) in zip(found[index], plan.values(), strict=True):
            assert what.startswith(words[kind_of])
    # Nine steps each but where "first" ends one early: none that a fault broke off is counted.
    assert lengths[0].count(9) == len(lengths[0]) - 1
    assert lengths[1].count(9) == len(lengths[1]) - 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("plan", [{4: ("obs", np.nan)}, {4: ("reward", np.inf)}, {4: ("first", np.nan)}])
def test_a_fault_stops_where_it_is_asked_to(kind, plan):
    makers = [injected({}), injected(plan)]
    mode = AutoresetMode[kind.split()[1]]
    vector_env = SyncVectorEnv(makers, autoreset_mode=mode) if "sync" in kind else ScriptedVector(makers, mode)
    envs = make_envs(vector_env, 2, 0)
    for _ in range(3):
        envs.step(np.zeros((2, 1), np.float32))
    with pytest.raises(EnvironmentFault, match=r"environment 1 gave .* not finite"):
        for _ in range(2):  # In NEXT_STEP mode the next episode begins one step later.
            envs.step(np.zeros((2, 1), np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_action_that_is_not_finite_reaches_no_environment(value):
    made = [Scripted(EPISODES) for _ in range(2)]
    action = np.array([[0.5], [value]], np.float32)
    envs = make_envs(SyncVectorEnv([lambda env=env: env for env in made], autoreset_mode=AutoresetMode.SAME_STEP), 2, 0)
    with pytest.raises(EnvironmentFault, match="environment 1 was given an action that is not finite"):
        envs.step(action)
    assert not made[0].received
    assert not made[1].received
    envs = make_envs(lambda: Scripted(EPISODES), 2, 0, on_fault="reset")
    row = envs.step(action)
    np.testing.assert_array_equal(row.valid, [True, False])
    np.testing.assert_array_equal(envs.obs, [[0, 1], [1, 0]])
    assert envs.faults == [(1, "was given an action that is not finite")]


def test_numbers_that_are_large_are_no_fault():
    class Large(Scripted):
        def _observation(self):
            return np.full(2, 3e38)

    envs = make_envs(lambda: Large([[(1e38, False, False)] * 9 + [(0.0, True, False)]]), 4, 0)
    with np.errstate(all="raise"):
        envs.step(np.zeros((4, 1), np.float32))
    with pytest.raises(EnvironmentFault, match="an observation"):  # But float32 cannot hold this one.
        make_envs(lambda: type("Huge", (Scripted,), {"_observation": lambda self: np.full(2, 1e39)})(EPISODES), 1, 0)


class Diverging(gym.Wrapper):
    """Spoils the state of the simulation before the tenth step; MuJoCo replaces it and says nothing."""

    def step(self, action):
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps == 10:
            self.unwrapped.data.qpos[2] = np.nan
        return self.env.step(action)


@pytest.mark.parametrize("backend", ["gymnasium", "async", "brought"])
def test_a_diverged_simulation_is_found(backend, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    action = np.zeros((2, 3), np.float32)
    if backend == "brought":
        vector_env = SyncVectorEnv([lambda: Diverging(gym.make("Hopper-v5"))] * 2)
        envs = make_envs(vector_env, 2, 0)
        envs.step(action)
        assert vector_env.envs[0].steps == 1  # Whoever brought it finds in it what was there.
        vector_env.envs[0].env.steps = vector_env.envs[1].env.steps = 0
    else:
        envs = make_envs("Hopper-v5", 2, 0, backend, wrapper=[Diverging])
    try:
        for _ in range(9):
            assert np.isfinite(envs.step(action).next_obs).all()
        with pytest.raises(EnvironmentFault, match=r"environment 0 left what MuJoCo can compute \(BADQPOS\)"):
            envs.step(action)
    finally:
        envs.close()
    assert not list(tmp_path.iterdir()), "MuJoCo's log file"
    assert "unstable" not in "".join(capfd.readouterr())


def test_a_diverged_simulation_is_reset():
    envs = make_envs("Hopper-v5", 1, 0, wrapper=[Diverging], on_fault="reset")
    rows = [envs.step(np.zeros((1, 3), np.float32)) for _ in range(15)]
    assert [bool(row.valid[0]) for row in rows] == [t != 9 for t in range(15)]
    assert np.abs(rows[10].obs[0, 5:]).max() < 0.01, "an episode begins almost at rest"


def test_an_environment_that_never_recovers_ends_the_run():
    envs = make_envs(injected(dict.fromkeys(range(1, 1000), ("reward", np.nan))), 1, 0, on_fault="reset")
    with pytest.raises(
        EnvironmentFault, match=f"reset for a fault {MAX_FAULTS_PER_EPISODE} times without finishing an episode"
    ):
        for _ in range(MAX_FAULTS_PER_EPISODE + 1):
            envs.step(np.zeros((1, 1), np.float32))

    class NeverBegins(Injected):
        def reset(self, *, seed=None, options=None):
            obs, info = super().reset(seed=seed)
            return obs * (np.nan if self._total else 1), info

    envs = make_envs(lambda: NeverBegins({3: ("reward", np.nan)}), 1, 0, on_fault="reset")
    with pytest.raises(EnvironmentFault, match="twice in a row after a reset"):
        for _ in range(3):
            envs.step(np.zeros((1, 1), np.float32))


def test_what_cannot_be_reset_alone_is_refused():
    vector_env = ScriptedVector(MAKERS, AutoresetMode.NEXT_STEP)
    with pytest.raises(BadInput, match="ScriptedVector cannot reset one of its environments alone"):
        make_envs(vector_env, 2, 0, on_fault="reset")
    envs = make_envs("CartPole-v1", 2, 0, on_fault="reset")  # Its native vector environment could not either.
    assert isinstance(envs.vector_env, SyncVectorEnv)
    with pytest.raises(BadInput, match="on_fault is 'ignore'"):
        make_envs("CartPole-v1", 2, 0, on_fault="ignore")


# --- what the loops make of it ----------------------------------------------------------------------------------------

DDPG = run_config(
    env=Injected, agent=DDPGConfig(hidden_sizes=(8, 8)), num_envs=2, total_steps=120, learning_starts=20, batch_size=16,
    buffer_size=200, eval_every=1000, eval_episodes=1, eval_env=injected({}),
)  # fmt: skip
PPO = run_config(
    env=Injected, agent=PPOConfig(hidden_sizes=(8, 8), num_minibatches=2), num_envs=2, num_steps=8, total_steps=128,
    eval_every=1000, eval_episodes=1, eval_env=injected({}), normalize_obs=True, normalize_reward=True,
)  # fmt: skip


def planned(plans):
    """A factory that makes one environment after the other as planned."""
    left = iter(plans)
    return lambda: Injected(next(left))


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("run", [PPO, DDPG], ids=["ppo", "ddpg"])
@pytest.mark.parametrize("what, value", [("obs", np.nan), ("reward", np.inf), ("first", np.nan)])
def test_a_fault_stops_the_run_and_changes_nothing(tmp_path, run, what, value):
    seen = []
    run = dataclasses.replace(run, env=planned([{}, {30: (what, value)}]), run_dir=str(tmp_path / "run"))
    with pytest.raises(BadInput, match=r"<lambda> gave an? \w+ that is not finite, environment 1 at step 60: .*saved"):
        train(run, lambda snapshot: seen.append(snapshot.state))
    arrays, notes = load_arrays(tmp_path / "run" / "checkpoints" / "latest.npz")
    assert all(np.isfinite(array).all() for array in arrays.values())
    assert notes["step"] == 58
    if notes["segments"]:  # Of DDPG. Its update before the step was of what came before.
        [(first, last, _)] = notes["segments"]
        assert (first, last) == (0, 58)
        return
    last = {"actor": seen[-1].actor.params, "critic": seen[-1].critic.params}
    for path, leaf in jax.tree_util.tree_leaves_with_path(last):
        name = jax.tree_util.keystr(path, simple=True, separator=".").replace(".", ".params.", 1)
        np.testing.assert_array_equal(arrays[f"state.{name}"], leaf)


@pytest.mark.parametrize("run", [PPO, DDPG], ids=["ppo", "ddpg"])
def test_a_run_goes_on_where_faults_are_reset(tmp_path, run, capsys):
    folder = tmp_path / "run"
    run = dataclasses.replace(run, env=planned(PLANS), on_fault="reset", run_dir=str(folder))
    result = train(run)
    assert result.step >= run.total_steps
    faults = rows(folder / "faults.csv")
    assert [sum(row["env_index"] == str(i) for row in faults) for i in range(2)] == [len(plan) for plan in PLANS]
    assert capsys.readouterr().out.count("; it was reset") == len(faults)
    assert {row["episode_length"] for row in rows(folder / "episodes.csv")} <= {"9", "7", "6", "5", "4", "3", "2", "1"}
    for leaf in jax.tree.leaves((result.state.actor.params, result.state.critic.params)):
        assert np.isfinite(leaf).all()


def test_no_fault_reaches_the_buffer(tmp_path):
    run = dataclasses.replace(DDPG, env=planned(PLANS), on_fault="reset", run_dir=str(tmp_path / "run"))
    [session] = train_in([run], [make_envs(run.env, 2, 0, on_fault="reset")])
    training = session.training
    size = int(training.replay.size)
    assert size == training.step
    stored = jax.tree.map(lambda x: np.asarray(x)[:size], training.replay.rows)
    np.testing.assert_array_equal(stored.next_obs - stored.obs, [[0, 1]] * size)
    np.testing.assert_array_equal(stored.reward, 1)


def test_an_advantage_does_not_run_on_across_a_fault():
    """Its episode is cut off before the row of the fault, or where that is the first row, forgotten."""

    def policy(obs):
        return types.SimpleNamespace(sample=lambda rng: np.zeros((2, 1), np.float32), to_env=lambda action: action)

    envs = make_envs(planned([{3: ("reward", np.nan), 5: ("reward", np.nan)}, {}]), 2, 0, on_fault="reset")
    normalizer = normalizer_init(2, 2, False, True)
    normalizer.discounted[:] = 7.0
    columns = [
        np.zeros((4, *shape), kind) for shape, kind in (((2, 2), "f"), ((2, 1), "f"), ((2,), "f"), ((2, 2), "f"))
    ]
    rollout = Transition(*columns, *(np.zeros((4, 2), bool) for _ in range(3)))
    training = Training(Stack([None]), normalizer, np.random.default_rng(0), envs, rollout=rollout)
    run, runner = run_config(num_envs=2, num_steps=4), types.SimpleNamespace(episodes=lambda: None, stop_asked=False)
    collect_rollout(run, training, runner, policy)
    np.testing.assert_array_equal(rollout.valid[:, 0], [True, True, False, True])
    np.testing.assert_array_equal(rollout.truncated[:, 0], [False, True, False, False])
    np.testing.assert_array_equal(training.normalizer.discounted, [7, 7])
    training.rows, rollout.truncated[:] = 0, False
    collect_rollout(run, training, runner, policy)
    np.testing.assert_array_equal(rollout.valid[:, 0], [False, True, True, True])
    np.testing.assert_array_equal(training.normalizer.discounted, [0, 7])
    assert not rollout.truncated.any()


# --- what hides a fault -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_fault", ["stop", "reset"])
def test_a_reward_that_float32_cannot_hold_is_a_fault(on_fault):
    envs = make_envs(injected({3: ("reward", 1e39)}), 1, 0, on_fault=on_fault)
    action = np.zeros((1, 1), np.float32)
    with np.errstate(all="raise"):
        envs.step(action)
        envs.step(action)
        if on_fault == "stop":
            with pytest.raises(EnvironmentFault, match="reward"):
                envs.step(action)
        else:
            assert not envs.step(action).valid[0]


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED], ids=lambda mode: mode.name)
def test_flags_and_rewards_are_copies(mode):
    """An environment may keep one array for its flags, and clear it when it resets."""

    class Reusing(ScriptedVector):
        def step(self, actions):
            obs, *rest, infos = super().step(actions)
            self._kept = getattr(self, "_kept", rest)
            for kept, new in zip(self._kept, rest, strict=True):
                kept[:] = new
            return obs, *self._kept, infos

        def reset(self, *, seed=None, options=None):
            for kept in getattr(self, "_kept", ()):
                kept[:] = 0
            return super().reset(seed=seed, options=options)

    makers = [lambda: Scripted(EPISODES)] * 2
    pair = [make_envs(kind(makers, mode), 2, 0) for kind in (Reusing, ScriptedVector)]
    seen = [[envs.step(np.zeros((2, 1), np.float32)) for _ in range(20)] for envs in pair]
    for ours, theirs in zip(*seen, strict=True):
        for a, b in zip(ours[:6], theirs[:6], strict=True):
            np.testing.assert_array_equal(a, b)


def test_what_stands_in_an_ignored_row_does_no_harm():
    class Careless(ScriptedVector):
        def step(self, actions):
            over = self._over.copy()
            obs, reward, *rest = super().step(actions)
            return obs, np.where(over, np.nan, reward), *rest

    envs = make_envs(Careless([lambda: Scripted(EPISODES)] * 2, AutoresetMode.NEXT_STEP), 2, 0)
    returns, ended = [], np.zeros(2, bool)
    for _ in range(20):
        row = envs.step(np.where(ended[:, None], np.nan, 0).astype(np.float32))
        ended = row.terminated | row.truncated
        assert np.isfinite(row.reward).all()
        returns += [episode.episode_return for episode in envs.finished]
    assert len(returns) > 4
    assert np.isfinite(returns).all()


def test_infos_of_any_kind():
    envs = make_envs(DictInfoToList(SyncVectorEnv(MAKERS)), 2, 0)
    envs.step(np.zeros((2, 1), np.float32))

    class Odd(ScriptedVector):
        def step(self, actions):
            *rest, infos = super().step(actions)
            return *rest, {**infos, "final_info": None}

    envs = make_envs(Odd([lambda: Scripted(EPISODES)] * 2, AutoresetMode.SAME_STEP), 2, 0)
    for _ in range(10):
        envs.step(np.zeros((2, 1), np.float32))

    class Silent(Odd):
        def step(self, actions):
            *rest, _ = super().step(actions)
            return *rest, {}

    envs = make_envs(Silent([lambda: Scripted(EPISODES)] * 2, AutoresetMode.SAME_STEP), 2, 0)
    with pytest.raises(EnvironmentLost, match="without infos"):
        for _ in range(10):
            envs.step(np.zeros((2, 1), np.float32))


def test_a_fault_in_an_evaluation_is_told_as_one(tmp_path, capsys):
    run = dataclasses.replace(PPO, env=injected({}), eval_env=injected({5: ("obs", np.nan)}))
    with pytest.raises(BadInput, match="in the evaluation at step 0, environment 0 gave an observation"):
        train(dataclasses.replace(run, run_dir=str(tmp_path / "stop")))
    result = train(dataclasses.replace(run, run_dir=str(tmp_path / "reset"), on_fault="reset"))
    assert result.step >= run.total_steps
    assert [row["fault"] for row in rows(tmp_path / "reset" / "faults.csv")] == [
        "gave an observation that is not finite, in evaluation"
    ]
    assert "in evaluation; it was reset" in capsys.readouterr().out


def test_a_fault_of_the_first_reset_is_counted(tmp_path):
    class BadStart(Injected):
        starts = 0

        def reset(self, *, seed=None, options=None):
            BadStart.starts += 1
            obs, info = super().reset(seed=seed)
            return obs * (
                np.nan if BadStart.starts == 3 else 1
            ), info  # Of the run's own reset, after that of making it.

    run = dataclasses.replace(PPO, env=lambda: BadStart({}), on_fault="reset", run_dir=str(tmp_path / "run"))
    train(run)
    assert [row["step"] for row in rows(tmp_path / "run" / "faults.csv")] == ["0"]

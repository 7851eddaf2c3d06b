"""DDPG's loop: what reaches the buffer, how it explores, how often it learns, faults, resuming, and that it learns."""

import csv
import dataclasses
import re
from pathlib import Path

import gymnasium as gym
import jax
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from scripted import EPISODES, Scripted, Still
from settings import run_config

from jaxrl import BadInput, DDPGConfig, ddpg_act, load_policy, make_envs, train
from jaxrl.algos.ddpg import METRICS, ddpg_update
from jaxrl.cli.arguments import parse_run
from jaxrl.cli.main import evaluate_command, train_command
from jaxrl.runs.algorithms import DDPG, ROWS
from jaxrl.runs.config import default_run
from jaxrl.runs.record import load_run, run_from_json, run_to_json
from jaxrl.runs.streams import EVALUATION, stream
from jaxrl.storage.files import load_arrays, save_tree
from jaxrl.training.evaluate import evaluate, make_eval_envs
from jaxrl.training.train import train_in

SMALL = DDPGConfig(hidden_sizes=(16, 12))
TINY = run_config(
    env="Pendulum-v1",
    agent=SMALL,
    total_steps=300,
    learning_starts=100,
    buffer_size=250,
    batch_size=16,
    eval_every=100,
    eval_episodes=2,
    checkpoint_every=150,
    log_every=50,
)


def tiny(tmp_path, name="run", **changes):
    return TINY.with_settings(run_dir=str(tmp_path / name), **changes)


def learned(tmp_path, name="run", envs=None, **changes):
    """Trains; returns where training stands at the end, buffer included."""
    run = tiny(tmp_path, name, **changes)
    envs = make_envs(run.env, run.num_envs, run.seed) if envs is None else envs
    [session] = train_in([run], [envs])
    return session.training


def table(path):
    with Path(path).open() as file:
        return list(csv.DictReader(file))


def networks(state):
    learners = state.actor, state.critic
    return [np.asarray(x) for x in jax.tree.leaves([(x.params, x.target_params, x.opt_state) for x in learners])]


def assert_equal(a, b):
    for x, y in zip(networks(a), networks(b), strict=True):
        np.testing.assert_array_equal(x, y)


# --- what reaches the buffer ------------------------------------------------------------------------------------------


class Wide(Scripted):
    """The scripted episodes under actions with bounds of their own."""

    action_space = spaces.Box(np.array([-2.0, 0.1], np.float32), np.array([2.0, 0.7], np.float32))


@pytest.mark.parametrize("mode", AutoresetMode, ids=lambda mode: mode.name)
@pytest.mark.parametrize("num_envs", [1, 3])
def test_the_buffer_holds_what_happened(tmp_path, mode, num_envs):
    made = [Wide(EPISODES, reuse_buffer=False) for _ in range(num_envs)]
    vector_env = SyncVectorEnv([lambda env=env: env for env in made], autoreset_mode=mode)
    training = learned(
        tmp_path, env=lambda: Wide(EPISODES), envs=make_envs(vector_env, num_envs, 0), num_envs=num_envs,
        total_steps=120, learning_starts=60,
    )  # fmt: skip
    size = int(training.replay.size)
    assert size == training.step
    rows = jax.tree.map(lambda x: np.asarray(x)[:size], training.replay.rows)
    # The observation is [episode, step]: a row that links two episodes would show.
    np.testing.assert_array_equal(rows.next_obs, rows.obs + np.array([0, 1]))
    script = [EPISODES[int(e) % len(EPISODES)][int(s)] for e, s in rows.obs]
    np.testing.assert_array_equal(rows.reward, [reward for reward, _, _ in script])
    np.testing.assert_array_equal(rows.terminated, [terminated for _, terminated, _ in script])
    np.testing.assert_array_equal(rows.truncated, [truncated for _, _, truncated in script])
    # What was stored is what the environment was given, within its bounds.
    space = Wide.action_space
    assert (rows.action >= space.low).all()
    assert (rows.action <= space.high).all()
    stored = {tuple(action) for action in rows.action}
    assert stored <= {tuple(action) for env in made for action in env.received}
    assert len(stored) > size / 2


def test_uniform_first_then_noise_in_units_of_each_range(tmp_path):
    frozen = SMALL.replace(actor_learning_rate=0.0)
    training = learned(
        tmp_path, env=Still, agent=frozen, total_steps=4000, learning_starts=2000, buffer_size=4000,
        exploration_noise=0.05, eval_every=10**6,
    )  # fmt: skip
    action = np.asarray(training.replay.rows.action)
    low, high = Still.action_space.low, Still.action_space.high
    unit = (action[:2000] - low) / (high - low)
    np.testing.assert_allclose(unit.mean(0), 0.5, atol=0.03)
    np.testing.assert_allclose(unit.std(0), 12**-0.5, atol=0.02)
    noise = action[2000:] - np.asarray(ddpg_act(training.state, np.zeros((1, 1), np.float32)))
    np.testing.assert_allclose(noise.std(0) / ((high - low) / 2), 0.05, rtol=0.1)
    np.testing.assert_allclose(noise.mean(0), 0, atol=0.01)
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.1


def test_noise_never_leaves_the_bounds(tmp_path):
    training = learned(tmp_path, env=Still, exploration_noise=50.0)
    action = np.asarray(training.replay.rows.action)
    low, high = Still.action_space.low, Still.action_space.high
    assert ((action >= low) & (action <= high)).all()
    assert ((action == low) | (action == high)).mean() > 0.5


# --- how often it learns, and what it leaves --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "num_envs, updates_per_step, updates, ratio",
    [(1, 1, 200, "1 updates per 1 steps: a ratio of 1 "), (4, 1, 50, "0.25 "), (2, 3, 300, "3 updates per 2 .* 1.5 ")],
)
def test_the_ratio_of_updates_to_steps_is_kept_and_stated(tmp_path, capsys, num_envs, updates_per_step, updates, ratio):
    result = train(tiny(tmp_path, num_envs=num_envs, updates_per_step=updates_per_step))
    assert result.step == 300
    assert int(result.state.num_updates) == int(result.state.actor.step) == int(result.state.critic.step) == updates
    assert re.search(ratio, capsys.readouterr().out)


def test_a_run_that_ends_before_it_learns_says_so(tmp_path, capsys):
    result = train(tiny(tmp_path, total_steps=100))
    assert "all 100 steps are random" in capsys.readouterr().out
    assert int(result.state.num_updates) == 0
    assert [row["step"] for row in table(tmp_path / "run" / "evaluations.csv")] == ["0", "100"]
    assert table(tmp_path / "run" / "metrics.csv") == []


def test_the_folder_a_run_leaves(tmp_path):
    train(tiny(tmp_path))
    folder = tmp_path / "run"
    assert run_from_json(run_to_json(tiny(tmp_path))) == load_run(folder).__class__(
        **{**vars(load_run(folder)), "resume": None}
    )
    assert [row["step"] for row in table(folder / "evaluations.csv")] == ["0", "100", "200", "300"]
    assert [row["step"] for row in table(folder / "episodes.csv")] == ["200"]
    metrics = table(folder / "metrics.csv")
    assert list(metrics[0]) == [
        "step", "critic_loss", "actor_loss", "q_mean", "td_error_abs", "grad_norm_actor", "grad_norm_critic",
        "skipped_updates", "wall_time",
    ]  # fmt: skip
    assert [row["step"] for row in metrics] == ["150", "200", "250", "300"]
    assert np.isfinite(np.array([list(row.values()) for row in metrics], float)).all()
    for name in ("best", "latest"):
        policy = load_policy(folder / "policy" / name)
        returns, _ = evaluate(policy, make_eval_envs("Pendulum-v1", 2), 2, stream(0, EVALUATION, policy.notes["step"]))
        np.testing.assert_allclose(returns.mean(), policy.notes["evaluation"]["mean_return"], rtol=1e-6)


def test_equal_seeds_equal_bytes_and_evaluation_leaves_no_trace(tmp_path):
    a, b = learned(tmp_path, "a"), learned(tmp_path, "b", eval_every=37, log_every=1, checkpoint_every=60)
    assert_equal(a.state, b.state)
    np.testing.assert_array_equal(a.replay.rows.action, b.replay.rows.action)
    other = learned(tmp_path, "c", seed=1)
    assert not np.array_equal(a.replay.rows.action, other.replay.rows.action)


def test_one_trace_of_the_update_for_the_whole_run(tmp_path, monkeypatch):
    traces = []
    row = DDPG._replace(update=lambda *given: (traces.append(1), ddpg_update(*given))[1])
    monkeypatch.setitem(ROWS, "ddpg", row)
    learned(tmp_path, num_envs=3, updates_per_step=2)
    assert len(traces) == 2  # The first is the check that a row which is not built in goes through.


def test_a_callback_sees_copies_and_ends_the_run(tmp_path):
    kept = []

    def callback(snapshot):
        kept.append((snapshot.state, snapshot.metrics))
        return snapshot.step < 150

    result = train(tiny(tmp_path), callback)
    assert result.step == 150
    states, metrics = zip(*kept, strict=True)
    assert [int(state.num_updates) for state in states] == list(range(1, 51))
    assert not np.array_equal(networks(states[0])[0], networks(states[-1])[0])
    assert set(metrics[0]) == set(METRICS)


def test_resume_goes_on_with_the_buffer(tmp_path):
    whole = learned(tmp_path, "whole")
    part = tiny(tmp_path, "part", total_steps=200)
    train(part)
    resumed = dataclasses.replace(load_run(tmp_path / "part"), total_steps=300)
    [session] = train_in([resumed], [make_envs("Pendulum-v1", 1, 0)])
    training = session.training
    assert training.step == 300
    assert int(training.state.num_updates) == int(whole.state.num_updates) == 200
    assert int(training.replay.size) == 250
    # 300 rows in 250 places: the last 50 came after the stop, the 150 oldest of the rest before.
    for ours, theirs in zip(training.replay.rows[:2], whole.replay.rows[:2], strict=True):
        np.testing.assert_array_equal(ours[50:200], theirs[50:200])
    for name in ("evaluations", "metrics"):
        steps = [int(row["step"]) for row in table(tmp_path / "part" / f"{name}.csv")]
        assert steps == sorted(set(steps))
        assert steps[-1] == 300


def test_a_run_starts_from_anothers_networks(tmp_path):
    first = learned(tmp_path, "first")
    second = learned(tmp_path, "second", init_from=str(tmp_path / "first"), total_steps=50, seed=5)
    for name in ("actor", "critic"):
        for part in ("params", "target_params"):
            old, new = getattr(getattr(first.state, name), part), getattr(getattr(second.state, name), part)
            jax.tree.map(np.testing.assert_array_equal, old, new)


# --- faults and mistakes ----------------------------------------------------------------------------------------------


class Faulty(Still):
    """Gives something that is not finite at its step 120."""

    def __init__(self, field, value):
        self._field, self._value, self._steps = field, value, 0

    def step(self, action):
        self._steps += 1
        bad = self._steps == 120
        obs = np.array([self._value if bad and self._field == "observation" else 0.5], np.float32)
        return obs, self._value if bad and self._field == "reward" else 1.0, False, False, {}


@pytest.mark.parametrize("field", ["observation", "reward"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_fault_stops_the_run_and_nothing_of_it_is_stored(tmp_path, field, value):
    def broken():
        return Faulty(field, value)

    with pytest.raises(BadInput, match=rf"broken gave an? {field} that is not finite, environment 0 at step 120"):
        train(tiny(tmp_path, env=broken, eval_env=Still))
    folder = tmp_path / "run"
    assert [row["step"] for row in table(folder / "evaluations.csv")] == ["0", "100"]
    run = dataclasses.replace(tiny(tmp_path), env=Still, run_dir=None, resume=str(folder), total_steps=119)
    notes = (folder / "checkpoints" / "latest.npz").read_bytes()
    assert notes
    with pytest.raises(BadInput, match="env is Still, but the run"):
        train(run)
    [session] = train_in([dataclasses.replace(run, env=broken, eval_env=Still)], [make_envs(Still, 1, 0)])
    training = session.training
    assert training.step == int(training.replay.size) == 119
    assert all(np.isfinite(np.asarray(x)).all() for x in [*networks(training.state), *jax.tree.leaves(training.replay)])


class BadStart(Still):
    """Its third episode begins with an observation that is not finite."""

    episodes = 0

    def reset(self, *, seed=None, options=None):
        self.episodes += 1
        return np.full(1, np.nan if self.episodes > 3 else 0.0, np.float32), {}

    def step(self, action):
        assert np.isfinite(action).all()
        return np.zeros(1, np.float32), 0.0, False, self.np_random.random() < 0.02, {}


def test_a_first_observation_that_is_not_finite_is_found_before_it_is_acted_on(tmp_path):
    with pytest.raises(BadInput, match="BadStart gave an observation that is not finite, environment 0"):
        train(tiny(tmp_path, env=BadStart, eval_env=Still, learning_starts=16))
    assert (tmp_path / "run" / "checkpoints" / "latest.npz").is_file()


@pytest.mark.parametrize("num_envs", [1, 4])
def test_updates_go_by_steps_where_rows_are_spent_on_resetting(tmp_path, num_envs):
    """Episodes of one step: under NEXT_STEP every other row is none."""
    vector_env = SyncVectorEnv([Echo] * num_envs, autoreset_mode=AutoresetMode.NEXT_STEP)
    training = learned(tmp_path, env=Echo, envs=make_envs(vector_env, num_envs, 0), num_envs=num_envs)
    assert training.step == 300
    assert int(training.state.num_updates) == 200 // num_envs


def test_each_environment_explores_on_its_own(tmp_path):
    training = learned(tmp_path, env=Still, num_envs=2, agent=SMALL.replace(actor_learning_rate=0.0))
    action = np.asarray(training.replay.rows.action)[: int(training.replay.size)]
    assert len(np.unique(action[:, 0])) > 0.95 * len(action)


@pytest.mark.parametrize(
    "change",
    [
        *({"segments": each} for each in (None, [], [[0, 10**9, ""]], [["../x", 1, ""]], [[0, 1]])),
        *({"rng": {}}, {"step": None}, {"step": 10**9}, {"marks": [1]}),
        *({"envs": each} for each in ({}, {"envs": [{}], "obs": [[0, 0, 0]]})),
    ],
    ids=str,
)
def test_damaged_notes_are_refused(tmp_path, change):
    train(tiny(tmp_path, total_steps=120))
    path = tmp_path / "run" / "checkpoints" / "latest.npz"
    arrays, notes = load_arrays(path)
    save_tree(path, arrays, notes | change)
    with pytest.raises(BadInput):
        train(dataclasses.replace(load_run(tmp_path / "run"), total_steps=150))


def test_another_capacity_is_refused(tmp_path):
    train(tiny(tmp_path, total_steps=300))
    with pytest.raises(BadInput, match=r"buffer_size is 400, but the run in .* had 250"):
        train(load_run(tmp_path / "run").with_settings(total_steps=350, buffer_size=400))


BAD = {
    "a rate beyond float32": (["--actor-learning-rate", "1e39"], "actor_learning_rate is 1e+39"),
    "noise beyond float32": (["--exploration-noise", "1e308"], "exploration_noise is 1e+308"),
    "layers beyond memory": (["--hidden-sizes", "10000000", "10000000"], "at most 16,384"),
    "discrete actions": (["--env", "CartPole-v1"], "takes Box actions; ppo and ppo_kl take Discrete"),
    "a batch larger than what is stored": (["--batch-size", "2000"], "at most learning_starts, 1,000"),
    "a batch larger than the buffer": (["--buffer-size", "100"], "at most buffer_size, 100"),
    "a buffer larger than memory": (["--buffer-size", "2000000000"], "GiB"),
    "a buffer beyond counting": (["--buffer-size", "1e12"], "GiB"),
    "no buffer": (["--buffer-size", "0"], "buffer_size is 0"),
    "no batch": (["--batch-size", "0"], "batch_size is 0"),
    "no first steps": (["--learning-starts", "0"], "learning_starts is 0"),
    "no updates": (["--updates-per-step", "0"], "updates_per_step is 0"),
    "noise below 0": (["--exploration-noise", "-1"], "exploration_noise is -1"),
    "noise that is no number": (["--exploration-noise", "nan"], "exploration_noise is nan"),
    "tau above 1": (["--tau", "2"], "tau is 2"),
    "a flag of ppo's": (["--num-steps", "5"], "--num-steps"),
    "one layer": (["--hidden-sizes", "64"], "2 or more widths"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_costs_one_line_and_writes_nothing(tmp_path, monkeypatch, capfd, name):
    monkeypatch.chdir(tmp_path)
    flags, words = BAD[name]
    assert train_command(["--algo", "ddpg", "--env", "Pendulum-v1", *flags]) == 2
    out, err = capfd.readouterr()
    assert err.count("\n") == 1
    assert words in err
    assert "Traceback" not in out + err
    assert list(tmp_path.iterdir()) == []


class Unbounded(Still):
    action_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)


def test_unbounded_actions_are_refused(tmp_path):
    with pytest.raises(BadInput, match="unbounded"):
        train(tiny(tmp_path, env=Unbounded))
    assert not (tmp_path / "run").exists()


def test_settings_that_the_algorithm_has_no_use_for_are_refused(tmp_path):
    with pytest.raises(BadInput, match="ddpg has no setting num_steps"):
        train(tiny(tmp_path, num_steps=8))
    with pytest.raises(BadInput, match="ppo has no setting batch_size"):
        train(run_config(batch_size=8))


def test_defaults_are_the_papers():
    for task in ("Ant-v5", "HalfCheetah-v5", "Walker2d-v5", "Hopper-v4"):
        run = parse_run(["--algo", "ddpg", "--env", task])
        assert run == run_config(env=task, agent=DDPGConfig()) == default_run("ddpg", task)
        assert (run.num_envs, run.loop.updates_per_step, run.total_steps, run.eval_every) == (1, 1, 1_000_000, 5_000)
        assert (run.loop.buffer_size, run.loop.learning_starts, run.loop.batch_size) == (1_000_000, 25_000, 256)
        assert (run.loop.exploration_noise, run.eval_episodes) == (0.1, 10)
    assert parse_run(["--algo", "ddpg", "--env", "Pendulum-v1"]).loop.learning_starts <= 1000


def test_the_command_line_from_training_to_evaluation(tmp_path, capsys):
    flags = "--algo ddpg --env Pendulum-v1 --total-steps 120 --learning-starts 60 --batch-size 16 --hidden-sizes 16 12"
    folder = str(tmp_path / "run")
    assert train_command([*flags.split(), "--eval-episodes", "1", "--run-dir", folder]) == 0
    assert train_command(["--resume", folder, "--total-steps", "150"]) == 0
    assert evaluate_command([folder, "--episodes", "2"]) == 0
    assert evaluate_command([folder, "--stochastic"]) == 2
    out, err = capsys.readouterr()
    assert "mean return" in out
    assert "deterministic: leave it off" in err
    policy = load_policy(folder)
    actions = policy(np.zeros((3, 3), np.float32))
    assert actions.shape == (3, 1)
    with pytest.raises(BadInput, match="deterministic"):
        policy(np.zeros((3, 3), np.float32), np.random.default_rng(0))


# --- that it learns ---------------------------------------------------------------------------------------------------

QUICK = DDPGConfig(
    gamma=0.9, tau=0.05, hidden_sizes=(32, 32), actor_learning_rate=3e-3, critic_learning_rate=5e-3,
    critic_weight_decay=0.0,
)  # fmt: skip


class Echo(gym.Env):
    """One step: the reward is how near the action comes to half the observation."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Box(-1.0, 2.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._obs = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self._obs, {}

    def step(self, action):
        return self._obs, -float((action[0] - self._obs[0] / 2) ** 2), True, False, {}


def test_it_finds_the_best_action(tmp_path):
    # Of ten seeds, none misses by more than 0.16 with 64 units, two by 0.25 with 32; one constant action would by 0.45.
    training = learned(
        tmp_path, env=Echo, agent=QUICK.replace(hidden_sizes=(64, 64)), total_steps=3000, learning_starts=500,
        buffer_size=3000, batch_size=64, eval_every=10**6,
    )  # fmt: skip
    obs = np.linspace(-0.9, 0.9, 7, dtype=np.float32)[:, None]
    np.testing.assert_allclose(ddpg_act(training.state, obs), obs / 2, atol=0.2)


class EndlessBox(Still):
    """Reward 1 for ever, cut by a time limit only, or with the cut declared an end."""

    def __init__(self, says_terminated):
        self._says_terminated = says_terminated

    def reset(self, *, seed=None, options=None):
        self._steps = 0
        return super().reset(seed=seed)

    def step(self, action):
        self._steps += 1
        over = self._steps >= 25
        return np.zeros(1, np.float32), 1.0, over and self._says_terminated, over and not self._says_terminated, {}


CASES = [(mode, False) for mode in AutoresetMode] + [(AutoresetMode.SAME_STEP, True)]


@pytest.mark.parametrize(
    "mode, says_terminated", CASES, ids=[f"{mode.name}{', the negative control' * control}" for mode, control in CASES]
)
def test_infinite_horizon(tmp_path, mode, says_terminated):
    """Reward 1 for ever, gamma 0.9: the value is 1 / (1 - 0.9) = 10, unless a time limit is taken for an end."""
    envs = make_envs(SyncVectorEnv([lambda: EndlessBox(says_terminated)], autoreset_mode=mode), 1, 0)
    training = learned(
        tmp_path, env=lambda: EndlessBox(says_terminated), envs=envs, agent=QUICK, total_steps=3500,
        learning_starts=500, buffer_size=4000, batch_size=64, eval_every=10**6,
    )  # fmt: skip
    critic, obs = training.state.critic, np.zeros((1, 1), np.float32)
    value = float(critic.apply_fn(critic.params, obs, ddpg_act(training.state, obs))[0])
    if says_terminated:
        assert value < 8.5
    else:
        assert value == pytest.approx(10, abs=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_pendulum(tmp_path, seed):
    folder = tmp_path / "run"
    argv = f"--algo ddpg --env Pendulum-v1 --total-steps 20000 --seed {seed} --run-dir {folder}"
    assert train_command(argv.split()) == 0
    policy = load_policy(folder / "policy" / "latest")
    returns, _ = evaluate(policy, make_eval_envs(policy.env, 100), 100, 12345)
    assert returns.mean() >= -250

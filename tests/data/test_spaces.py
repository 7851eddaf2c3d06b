"""Every space that is accepted, from the environment to the policy and back; and the names of those that are not."""

import dataclasses
import functools
from collections import OrderedDict

import gymnasium as gym
import jax
import numpy as np
import pytest
from gymnasium import spaces
from settings import run_config

from jaxrl import BadInput, DDPGConfig, PPOConfig, ddpg_init, load_policy, make_envs, ppo_init, train
from jaxrl.algos.networks import host_policy
from jaxrl.algos.ppo_config import num_outputs
from jaxrl.cli.main import evaluate_command, train_command
from jaxrl.data.normalize import normalizer_init
from jaxrl.data.spaces import describe, flatten, layout, width
from jaxrl.storage.policy import save_policy
from jaxrl.training.evaluate import evaluate, make_eval_envs

OBSERVATIONS = {
    "vector": spaces.Box(-1.0, 1.0, (3,)),
    "matrix": spaces.Box(-1.0, 1.0, (2, 3), np.float64),
    "scalar": spaces.Box(-1.0, 1.0, ()),
    "integers": spaces.Box(-9, 9, (2,), np.int64),
    "dict": spaces.Dict({"speed": spaces.Box(-1.0, 1.0, (2,)), "goal": spaces.Box(-5, 5, (2, 1), np.int32)}),
    "nested": spaces.Dict(
        {"b": spaces.Dict({"y": spaces.Box(-1, 1, (1,)), "x": spaces.Box(-1, 1, (2,))}), "a": spaces.Box(-1, 1, ())}
    ),
}
ACTIONS = {
    "discrete": spaces.Discrete(3, start=-1),
    "several": spaces.MultiDiscrete([3, 2]),
    "several, in rows": spaces.MultiDiscrete([[3, 2], [2, 4]], start=[[0, 1], [-1, 0]]),
    "binary": spaces.MultiBinary(3),
    "binary, in rows": spaces.MultiBinary([2, 2]),
    "box": spaces.Box(np.float32([-2, 0.1]), np.float32([2, 0.7])),
    "box, in rows": spaces.Box(-1.0, np.float32([[1, 2], [3, 4]]), (2, 2)),
    "box of float64": spaces.Box(-1.0, 1.0, (2,), np.float64),
    "box of one number": spaces.Box(-1.0, 1.0, ()),
}


class Strict(gym.Env):
    """Accepts only actions of its space, as they are; pays for the middle of a Box, the first of the others."""

    def __init__(self, observations, actions):
        self.observation_space, self.action_space = OBSERVATIONS[observations], ACTIONS[actions]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self._steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self._steps += 1
        space = self.action_space
        if isinstance(space, spaces.Box):
            reward = -float(np.abs((action - space.low) / (space.high - space.low) - 0.5).sum())
        else:
            reward = float(np.mean(action == getattr(space, "start", 0)))
        return self.observation_space.sample(), reward, False, self._steps == 10, {}


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_flattening_follows_the_documented_order(name):
    space = OBSERVATIONS[name]
    space.seed(0)
    samples = [space.sample() for _ in range(4)]

    def walk(space, sample):
        if isinstance(space, spaces.Dict):
            return [x for key in space.spaces for x in walk(space[key], sample[key])]
        return list(np.ravel(sample))

    def stack(space, each):
        if isinstance(space, spaces.Dict):
            return {key: stack(space[key], [one[key] for one in each]) for key in space.spaces}
        return np.stack(each)

    rows = flatten(layout(space), stack(space, samples), 4)
    np.testing.assert_array_equal(rows, np.array([walk(space, sample) for sample in samples], np.float32))
    assert rows.shape == (4, width(layout(space)))
    np.testing.assert_array_equal(rows[0], spaces.flatten(space, samples[0]).astype(np.float32))


def test_the_order_of_a_dict_is_that_of_its_sorted_keys():
    assert describe(layout(OBSERVATIONS["dict"])) == "goal (2, 1), speed (2,)"
    assert describe(layout(OBSERVATIONS["nested"])) == "a (), b x (2,), y (1,)"


def acted(tmp_path, init, config, observations, actions):
    """Acts as a fresh policy does, and as it does once it has been to disk and back."""
    make = functools.partial(Strict, observations, actions)
    envs, rng = make_envs(make, 3, 0), np.random.default_rng(0)
    state = init(jax.random.key(0), config, envs.observation_space, envs.action_space)
    policy = host_policy(state.actor.module, state.actor.params)
    normalizer = normalizer_init(envs.obs.shape[1], 3, False, False)
    save_policy(tmp_path, state.actor, normalizer, "Strict-v0", envs.observation_space, envs.action_space, {})
    loaded = load_policy(tmp_path)
    loaded.check_spaces(envs.observation_space, envs.action_space)
    for _ in range(12):
        distribution = policy(envs.obs)
        action = distribution.mode() if loaded.deterministic else distribution.sample(rng)
        row = envs.step(distribution.to_env(action))
        assert row.action.shape == np.shape(distribution.to_env(action))
    env = make()
    raw = [env.reset(seed=seed)[0] for seed in range(3)]
    if isinstance(raw[0], dict) and not any(isinstance(part, dict) for part in raw[0].values()):
        batch = {key: np.stack([each[key] for each in raw]) for key in raw[0]}
    elif not isinstance(raw[0], dict):
        batch = np.stack(raw)
    else:
        batch = np.stack([spaces.flatten(env.observation_space, each) for each in raw])
    flat = np.stack([spaces.flatten(env.observation_space, each) for each in raw]).astype(np.float32)
    distribution = policy(flat)
    chosen = loaded(batch)
    expected = np.reshape(distribution.to_env(distribution.mode()), chosen.shape)
    if isinstance(env.action_space, spaces.Box):
        expected = np.clip(expected, env.action_space.low, env.action_space.high)
    np.testing.assert_allclose(chosen, expected)
    for action in chosen:
        assert env.action_space.contains(np.asarray(action, env.action_space.dtype))


@pytest.mark.parametrize("actions", [*ACTIONS, "squashed"])
def test_ppo_acts_in_every_space(tmp_path, actions):
    config = PPOConfig(hidden_sizes=(4, 4), squash_actions=actions == "squashed", initial_log_std=1.0)
    acted(tmp_path, ppo_init, config, "dict", "box, in rows" if actions == "squashed" else actions)


@pytest.mark.parametrize("space", ACTIONS.values(), ids=ACTIONS)
def test_the_last_layer_has_as_many_outputs_as_is_said(space):
    state = ppo_init(jax.random.key(0), PPOConfig(hidden_sizes=(4, 5)), spaces.Box(-1.0, 1.0, (3,)), space)
    assert state.actor.params["params"]["mlp"]["Dense_2"]["kernel"].shape == (5, num_outputs(space))


@pytest.mark.parametrize("observations", OBSERVATIONS)
def test_ppo_sees_every_space(tmp_path, observations):
    acted(tmp_path, ppo_init, PPOConfig(hidden_sizes=(4, 4)), observations, "discrete")


@pytest.mark.parametrize("actions", [name for name in ACTIONS if name.startswith("box")])
def test_ddpg_acts_in_every_box(tmp_path, actions):
    acted(tmp_path, ddpg_init, DDPGConfig(hidden_sizes=(4, 4)), "nested", actions)


PPO = run_config(
    agent=PPOConfig(hidden_sizes=(16, 16), num_minibatches=4, num_epochs=8, actor_learning_rate=1e-2),
    total_steps=8_000, num_envs=4, num_steps=64, eval_every=10**6, eval_episodes=1,
)  # fmt: skip
DDPG = run_config(
    agent=DDPGConfig(hidden_sizes=(4, 4)), total_steps=40, learning_starts=8, batch_size=4, buffer_size=64,
    eval_every=10**6, eval_episodes=1,
)  # fmt: skip


@pytest.mark.parametrize("run, actions", [(PPO, "several, in rows"), (PPO, "binary"), (DDPG, "box, in rows")])
def test_a_run_says_what_it_flattens_and_learns_each_component(tmp_path, capsys, run, actions):
    make = functools.partial(Strict, "dict", actions)
    train(dataclasses.replace(run, env=make, run_dir=str(tmp_path / "run")))
    said = capsys.readouterr().out
    assert "observations are flattened to 4 numbers: goal (2, 1), speed (2,)" in said
    assert ("actions of shape (2, 2) are flattened to 4" in said) == ("in rows" in actions)
    returns, _ = evaluate(load_policy(tmp_path / "run"), make_eval_envs(make, 4), 8, 1)
    assert returns.mean() > 7 or run is DDPG  # At random it is about 4; DDPG has hardly begun.


@pytest.mark.parametrize("backend", ["async"])
def test_workers_speak_of_every_space(backend):
    envs = make_envs(functools.partial(Strict, "nested", "several, in rows"), 2, 0, backend)
    try:
        row = envs.step(np.array([[0, 1, -1, 3], [2, 2, 0, 0]]))
        assert row.obs.shape == row.next_obs.shape == (2, 4)
        assert row.action.shape == (2, 4)
    finally:
        envs.close()


def test_ppo_learns_where_the_bounds_are_far_from_one(tmp_path):
    """Actions from 0 to 1,000: in the environment's own units a standard deviation of 1 would explore nothing."""

    class Far(Strict):
        def __init__(self):
            super().__init__("vector", "box")
            self.action_space = spaces.Box(0.0, 1000.0, (1,))

        def step(self, action):
            obs, _, terminated, truncated, info = super().step(action)
            return obs, -float(np.square(action[0] / 1000 - 0.8)), terminated, truncated, info

    agent = PPO.agent.replace(squash_actions=True)
    train(dataclasses.replace(PPO, env=Far, agent=agent, run_dir=str(tmp_path / "run")))
    action = load_policy(tmp_path / "run" / "policy" / "latest")(np.zeros((1, 3), np.float32))
    assert action[0, 0] == pytest.approx(800, abs=100)


def test_the_parts_of_a_dict_in_another_order_are_another_space(tmp_path):
    """Flattened they would be the same numbers in other places."""
    parts = {"pos": spaces.Box(-1, 1, (2,)), "vel": spaces.Box(-1, 1, (2,))}
    ours, theirs = (
        spaces.Dict(OrderedDict((key, parts[key]) for key in keys)) for keys in (("pos", "vel"), ("vel", "pos"))
    )
    state = ppo_init(jax.random.key(0), PPOConfig(hidden_sizes=(4, 4)), ours, ACTIONS["discrete"])
    save_policy(tmp_path, state.actor, normalizer_init(4, 1, False, False), "Any-v0", ours, ACTIONS["discrete"], {})
    load_policy(tmp_path).check_spaces(ours, ACTIONS["discrete"])
    with pytest.raises(BadInput, match="the environment has vel"):
        load_policy(tmp_path).check_spaces(theirs, ACTIONS["discrete"])


REFUSED = [
    (spaces.Text(4), spaces.Discrete(2), "observation space Text .*FlattenObservation"),
    (spaces.Tuple([spaces.Sequence(spaces.Discrete(2))]), spaces.Discrete(2), "observation space Sequence"),
    (spaces.Dict(a=spaces.Graph(spaces.Discrete(3), None)), spaces.Discrete(2), "observation space Graph"),
    (spaces.Dict({}), spaces.Discrete(2), "observation space Dict is empty"),
    (spaces.Dict({1: spaces.Box(0, 1, (2,))}), spaces.Discrete(2), "key 1: its keys must be strings"),
    (spaces.Box(0, 255, (8, 8, 3), np.uint8), spaces.Discrete(2), "pixels"),
    (spaces.Tuple([spaces.Box(0, 255, (8, 8, 3), np.uint8)]), spaces.Discrete(2), "pixels"),
    (spaces.Box(-1.0, 1.0, (2,)), spaces.Tuple([spaces.Discrete(2)]), "action space Tuple"),
    (spaces.Box(-1.0, 1.0, (2,)), spaces.Dict(a=spaces.Discrete(2)), "action space Dict"),
    (spaces.Box(-1.0, 1.0, (2,)), spaces.Box(0, 4, (2,), np.int64), "MultiDiscrete"),
    (spaces.Box(-1.0, 1.0, (2,)), spaces.Text(3), "action space Text"),
]


@pytest.mark.parametrize("observations, actions, words", REFUSED)
@pytest.mark.parametrize("init, config", [(ppo_init, PPOConfig()), (ddpg_init, DDPGConfig())])
def test_what_is_not_supported_is_refused_by_name(init, config, observations, actions, words):
    if init is ddpg_init and isinstance(actions, spaces.Discrete):
        actions = spaces.Box(-1.0, 1.0, (1,))
    with pytest.raises(BadInput, match=words) as caught:
        init(jax.random.key(0), config, observations, actions)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("actions", ["discrete", "several", "binary"])
def test_what_one_algorithm_takes_another_does_not(actions):
    with pytest.raises(BadInput, match="not supported by ddpg, which takes Box actions; ppo and ppo_kl take"):
        ddpg_init(jax.random.key(0), DDPGConfig(), OBSERVATIONS["vector"], ACTIONS[actions])
    with pytest.raises(BadInput, match="squash_actions keeps Box actions"):
        ppo_init(jax.random.key(0), PPOConfig(squash_actions=True), OBSERVATIONS["vector"], ACTIONS[actions])


# --- wrappers ---------------------------------------------------------------------------------------------------------

MODULE = """
import gymnasium as gym

class FrameSkip(gym.Wrapper):
    def step(self, action):
        total = 0.0
        for _ in range(4):
            obs, reward, terminated, truncated, info = self.env.step(action)
            total += reward
            if terminated or truncated:
                break
        return obs, total, terminated, truncated, info

def short(env):
    return gym.wrappers.TimeLimit(env, 10)

def nothing(env):
    return 3

gym.register("Mine-v0", entry_point="gymnasium.envs.classic_control:PendulumEnv", max_episode_steps=40)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("backend", ["gymnasium", "async"])
@pytest.mark.parametrize(
    "wrapper, length",
    [((), 40), (("mine:FrameSkip",), 10), (("mine:short",), 10), (("mine:short", "mine:FrameSkip"), 3)],
)
def test_wrappers_time_limits_and_registrations_of_the_user(module, wrapper, length, backend):
    if backend == "async" and length != 3:
        wrapper, length = (*wrapper, "mine:short"), min(length, 10)
    envs = make_envs("mine:Mine-v0", 2, 0, backend, wrapper=wrapper)
    try:
        for _ in range(length):
            assert not envs.finished
            envs.step(np.zeros((2, 1), np.float32))
        assert [episode.episode_length for episode in envs.finished] == [length] * 2
    finally:
        envs.close()


def test_wrappers_from_the_command_line_to_the_evaluation(module, capsys):
    argv = "--algo ppo --env mine:Mine-v0 --wrapper mine:short mine:FrameSkip --total-steps 64 --num-envs 2"
    argv += " --num-steps 16 --num-minibatches 2 --eval-episodes 2 --run-dir run"
    assert train_command(argv.split()) == 0
    lengths = {line.split(",")[2] for line in (module / "run" / "episodes.csv").read_text().splitlines()[1:]}
    assert lengths == {"3"}
    for words, code, said in [
        ("", 2, "say --env mine:Mine-v0"),
        ("--env mine:Mine-v0", 2, "say --wrapper mine:short mine:FrameSkip, or none"),
        ("--env mine:Mine-v0 --episodes 2 --wrapper mine:short mine:FrameSkip", 0, "3 steps"),
        ("--env mine:Mine-v0 --episodes 2 --wrapper none", 0, "40 steps"),
    ]:
        assert evaluate_command(["run", *words.split()]) == code
        assert said in "".join(capsys.readouterr())
    again = ["--resume", "run", "--total-steps", "96"]
    for named in ([], ["--env", "mine:Mine-v0"], ["--wrapper", "mine:short", "mine:FrameSkip"]):
        assert train_command([*again, *named]) == 2
        assert "say --env mine:Mine-v0 --wrapper mine:short mine:FrameSkip too" in capsys.readouterr().err
    assert train_command([*again, "--env", "other:Env-v0"]) == 2
    assert train_command([*again, "--env", "mine:Mine-v0", "--wrapper", "mine:short", "mine:FrameSkip"]) == 0


@pytest.mark.parametrize(
    "wrapper, words",
    [
        ("mine:FrameSkp", "mine has no FrameSkp; did you mean FrameSkip"),
        ("mine", "must be module:callable"),
        ("nowhere:at_all", "ModuleNotFoundError"),
        ("mine:MODULE", "mine has no MODULE"),
        ("mine:__name__", "is no callable but a str"),
        ("mine:nothing", "wrapper nothing gave 3: it must give an environment"),
        ("gymnasium.wrappers:TimeLimit", "TypeError"),
    ],
)
def test_a_wrapper_that_is_none_costs_one_line(module, wrapper, words, capsys):
    assert train_command(["--env", "Pendulum-v1", "--wrapper", wrapper]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not (module / "runs").exists()

"""A user's observations: spaces that hold numbers of a kind, from the environment to the bundle; and a loaded policy
that is asked with one observation, with many, and with what is no observation."""

import copy
import functools
import itertools
import json
import math
import multiprocessing
import os
import pickle
import types

import cloudpickle
import gymnasium as gym
import jax
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from settings import run_config

from jaxrl import BadInput, DDPGConfig, PPOConfig, load_policy, make_envs
from jaxrl.algos.built_in import ddpg_networks, ppo_networks
from jaxrl.algos.ppo_config import num_outputs
from jaxrl.cli.main import evaluate_command, train_command
from jaxrl.data.normalize import Moments, Normalizer
from jaxrl.data.spaces import describe, flatten, layout, layout_from_json, layout_to_json, width
from jaxrl.errors import EnvironmentFault
from jaxrl.storage.files import load_arrays, save_tree
from jaxrl.storage.policy import save_policy
from jaxrl.training.train import train_in

TWO = spaces.Discrete(2)
ZERO = np.zeros(3, np.float32)
OBSERVATIONS = {
    "vector": spaces.Box(-9.0, 9.0, (3,)),
    "one number": spaces.Box(-9.0, 9.0, (1,)),
    "scalar": spaces.Box(-9.0, 9.0, ()),
    "image": spaces.Box(-9.0, 9.0, (2, 3)),
    "one row": spaces.Box(-9.0, 9.0, (1, 3)),
    "whole": spaces.Box(-9, 9, (3,), np.int64),
    "dict": spaces.Dict({"x": spaces.Box(-9.0, 9.0, (2,)), "y": spaces.Box(-9.0, 9.0, ())}),
    "nested": spaces.Dict(
        {"a": spaces.Dict({"p": spaces.Box(-1, 1, (3,)), "q": spaces.Box(-1, 1, (3,))}), "b": spaces.Box(-1, 1, (3,))}
    ),
    "discrete": spaces.Discrete(4),
    "discrete from -2": spaces.Discrete(3, start=-2),
    "discrete, int8": spaces.Discrete(3, dtype=np.int8),
    "several": spaces.MultiDiscrete([3, 2]),
    "several, in rows": spaces.MultiDiscrete([[3, 2], [2, 4]], start=[[0, 1], [-1, 5]]),
    "binary": spaces.MultiBinary(3),
    "binary, in rows": spaces.MultiBinary([2, 2]),
    "tuple": spaces.Tuple([spaces.Discrete(5), spaces.Discrete(3, start=1), spaces.Box(-1.0, 1.0, (2,))]),
    "tuple of one": spaces.Tuple([spaces.Box(-1.0, 1.0, (2,))]),
    "all": spaces.Dict(
        {
            "z": spaces.Discrete(2),
            "m": spaces.Tuple([spaces.MultiBinary(2), spaces.Dict({"k": spaces.MultiDiscrete([2, 2])})]),
            "a": spaces.Box(-1.0, 1.0, (2, 1)),
        }
    ),
}
KINDS = [name for name, space in OBSERVATIONS.items() if any(part in str(space) for part in ("Discrete", "Binary"))]


def samples(space, number):
    space.seed(0)
    return [space.sample() for _ in range(number)]


def stacked(space, each):
    """Observations with a leading axis, as a vector environment gives them."""
    if isinstance(space, spaces.Dict):
        return {key: stacked(part, [one[key] for one in each]) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(stacked(part, [one[i] for one in each]) for i, part in enumerate(space.spaces))
    return np.stack(each)


def flat(space, each):
    return np.array([spaces.flatten(space, one) for one in each], np.float32)


def bundle(folder, observations, actions, deterministic=False, normalized=True, dtype=np.float32):
    """A policy whose weights are drawn here: nothing is compiled. Gives it as it is loaded."""
    rng, size = np.random.default_rng(0), width(layout(observations))
    config = PPOConfig(hidden_sizes=(4,))
    module, _ = (ddpg_networks if deterministic else ppo_networks)(config, actions)
    outputs = math.prod(actions.shape) if isinstance(actions, spaces.Box) else num_outputs(actions)
    layers = {
        f"Dense_{i}": {"kernel": rng.normal(0, 1.5, (rows, columns)).astype(dtype), "bias": np.zeros(columns, dtype)}
        for i, (rows, columns) in enumerate([(size, 4), (4, outputs)])
    }
    params = layers if deterministic else {"mlp": layers, "log_std": np.zeros(outputs, dtype)}
    moments = Moments(np.array(9.0), rng.uniform(-0.5, 0.5, size), rng.uniform(0.5, 2, size)) if normalized else None
    actor, normalizer = (
        types.SimpleNamespace(module=module.clone(dtype=np.dtype(dtype)), params={"params": params}),
        Normalizer(moments, None, ZERO),
    )
    save_policy(folder, actor, normalizer, "Any-v0", observations, actions, {})
    return load_policy(folder)


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    """For each observation space a policy that normalises and chooses one of many actions."""
    return {
        name: bundle(tmp_path_factory.mktemp("bundle"), space, spaces.Discrete(50))
        for name, space in OBSERVATIONS.items()
    }


# --- one observation, and many ----------------------------------------------------------------------------------------

NUMBER = "it must be .* for one, .* for N of them"
SHAPES = [
    # (the space, the shape of what the policy is given, how many actions come: None for one alone; or what is said)
    ("vector", (3,), None),
    ("vector", (1, 3), 1),
    ("vector", (3, 3), 3),
    ("vector", (5, 3), 5),
    ("vector", (0, 3), 0),
    ("vector", (), NUMBER),
    ("vector", (0,), NUMBER),
    ("vector", (3, 1), NUMBER),
    ("vector", (5, 1), NUMBER),
    ("vector", (5, 3, 1), NUMBER),
    ("vector", (1, 5, 3), NUMBER),
    ("vector", (4,), NUMBER),
    ("vector", (5, 4), NUMBER),
    ("vector", (6,), NUMBER),
    ("one number", (1,), None),
    ("one number", (5, 1), 5),
    ("one number", (5,), NUMBER),
    ("scalar", (), None),
    ("scalar", (5,), 5),
    ("scalar", (1,), 1),
    ("scalar", (5, 1), 5),
    ("scalar", (1, 5), NUMBER),
    ("image", (2, 3), None),
    ("image", (4, 2, 3), 4),
    ("image", (6,), None),
    ("image", (4, 6), 4),
    ("image", (0, 6), 0),
    ("image", (3, 2), NUMBER),
    ("image", (4, 3, 2), NUMBER),
    ("image", (4, 2, 3, 1), NUMBER),
    ("one row", (1, 3), None),
    ("one row", (5, 1, 3), 5),
    ("one row", (5, 3), 5),
    ("one row", (3,), None),
    ("dict", (3,), None),
    ("dict", (5, 3), 5),
    ("dict", (5, 2), "must be a dict with the keys x, y, or flattened, of shape .N, 3."),
    ("tuple", (7, 10, 1), "must be a tuple of 3 parts, or flattened"),
]


@pytest.mark.parametrize("observations, shape, answer", SHAPES, ids=lambda x: str(x)[:16])
def test_an_array_is_read_by_its_shape(policies, observations, shape, answer):
    policy = policies[observations]
    obs = np.random.default_rng(0).normal(0, 2, shape).astype(np.float32)
    if isinstance(answer, str):
        with pytest.raises(BadInput, match=answer) as caught:
            policy(obs)
        assert str(shape) in str(caught.value)
        assert "\n" not in str(caught.value)
        return
    # Bounds on what is right: the same rows one by one, each as a batch of one flattened observation.
    rows = obs.reshape(-1, width(layout(OBSERVATIONS[observations])))
    right = np.array([policy.act(row[None])[0] for row in rows], np.int64)
    given = policy(obs)
    assert np.shape(given) == (() if answer is None else (answer,))
    np.testing.assert_array_equal(np.atleast_1d(given), right)
    np.testing.assert_array_equal(policy(obs.tolist() if obs.size else obs), given)
    np.testing.assert_array_equal(policy(obs.astype(np.float64)), given)


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_one_observation_of_a_space_is_answered_as_it_is_among_others(policies, name):
    space, policy = OBSERVATIONS[name], policies[name]
    each = samples(space, 5)
    right = policy.act(flat(space, each))
    assert len(set(right.tolist())) > 1 or name == "tuple of one"
    np.testing.assert_array_equal(policy(stacked(space, each)), right)
    np.testing.assert_array_equal(policy(stacked(space, each[:1])), right[:1])
    assert [policy(one) for one in each] == right.tolist()
    assert all(np.shape(policy(one)) == () for one in each)
    empty = stacked(space, each)
    none = jax.tree.map(lambda part: part[:0], empty)
    assert policy(none).shape == (0,)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_nested_dict_is_as_many_observations_as_its_parts_hold(policies, number):
    policy = policies["nested"]
    x = np.random.default_rng(0).uniform(-1, 1, (3, number, 3)).astype(np.float32)
    given = policy({"a": {"p": x[0], "q": x[1]}, "b": x[2]})
    np.testing.assert_array_equal(given, policy.act(np.concatenate(x, axis=1)))


def test_flattened_kinds_are_taken_in_two_dimensions(policies):
    policy = policies["discrete"]
    assert policy(np.array([3, 0, 1, 2])).tolist() == policy(np.eye(4)[[3, 0, 1, 2]]).tolist()
    assert policy(np.array([0, 0, 1, 0])).shape == (4,)  # Four observations, though a row has four numbers too.
    policy = policies["several"]
    assert np.shape(policy([2, 1])) == np.shape(policy([0, 0, 1, 0, 1])) == ()


ODD = [
    ("vector", [0.0, np.nan, 0.0], "obs holds a number that is not finite"),
    ("vector", np.array([[0.0, np.inf, 0.0]]), "obs holds a number that is not finite"),
    ("vector", np.array([1e300, 0, 0]), "obs holds a number that is not finite in float32"),
    ("vector", ["a", "b", "c"], "obs is of type list and <U1: it must hold real numbers"),
    ("vector", None, "obs is of type NoneType and object"),
    ("vector", [ZERO, None], "obs is of type list"),
    ("vector", [[1.0, 2.0, 3.0], [1.0, 2.0]], "obs is of type list, no array"),
    ("vector", {"x": ZERO}, "obs is of type dict"),
    ("vector", ZERO + 0j, "complex64: it must hold real numbers"),
    ("vector", (ZERO, {}), "obs is of type tuple"),
    ("dict", {"x": ZERO[:2]}, "obs has the keys x: it must be a dict with the keys x, y"),
    ("dict", {"x": ZERO[:2], "z": 0.0}, "obs has the keys x, z: it must be"),
    ("dict", {"x": ZERO[:2], "y": 0.0, "z": 0.0}, "obs has the keys x, y, z: it must be"),
    ("dict", {}, "obs has the keys : it must be"),
    ("dict", {"x": np.zeros((3, 2)), "y": np.zeros(4)}, r"obs\['x'\] holds 3, obs\['y'\] holds 4"),
    ("dict", {"x": np.zeros((3, 2)), "y": 0.0}, r"obs\['y'\] holds one without an axis for N"),
    ("dict", {"x": np.zeros(3), "y": 0.0}, r"obs\['x'\] has the shape \(3,\): it must be \(2,\) for one"),
    ("dict", {"x": ZERO[:2], "y": np.nan}, r"obs\['y'\] holds a number that is not finite"),
    ("dict", {"x": ZERO[:2], "y": "1"}, r"obs\['y'\] is of type str"),
    ("dict", (ZERO[:2], 0.0), "obs is of type tuple"),
    ("dict", 3.0, "obs has the shape .* it must be a dict"),
    ("nested", {"a": ZERO, "b": ZERO}, r"obs\['a'\] has the shape \(3,\): it must be a dict with the keys p, q"),
    ("nested", {"a": {"p": ZERO}, "b": ZERO}, r"obs\['a'\] has the keys p: it must be"),
    ("discrete", 4, "obs holds a value that is not in its space, Discrete 4 from 0"),
    ("discrete", -1, "not in its space"),
    ("discrete", 1.5, "not in its space"),
    ("discrete", np.array([0, 1, 9]), "not in its space"),
    ("discrete", np.nan, "not in its space"),
    ("discrete", "1", "it must hold real numbers"),
    ("discrete", [[0, 2, 1, 3], [1, 1, 1, 1]], "obs, taken as already flattened, holds a value that is not in its"),
    ("discrete from -2", 1, "not in its space, Discrete 3 from -2"),
    ("several", [3, 0], r"not in its space, MultiDiscrete \[3, 2\] from \[0, 0\]"),
    ("several", [1, 0, 0, 0, 0], "taken as already flattened"),
    ("several", 1, NUMBER),
    ("binary", [0, 2, 1], r"not in its space, MultiBinary \[3\]"),
    ("binary", [0, 0.5, 1], "not in its space"),
    ("tuple", (0, 1), "obs has 2 parts: it must be a tuple of 3 parts"),
    ("tuple", (5, 1, [0.0, 0.0]), r"obs\[0\] holds a value that is not in its space"),
    ("tuple", {"0": 0}, "obs is of type dict"),
    ("tuple", np.array([0, 1, 0]), "it must be a tuple of 3 parts"),
    ("tuple", (np.zeros(4), 1, [0.0, 0.0]), r"obs\[1\] holds one without an axis"),
]


@pytest.mark.parametrize("observations, obs, words", ODD, ids=lambda x: str(x)[:24])
def test_what_is_no_observation_costs_one_line(policies, observations, obs, words):
    with pytest.raises(BadInput, match=words) as caught:
        policies[observations](obs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "rng", [0, np.random.RandomState(0), jax.random.key(0), np.random.SeedSequence(0), "seed", np.random]
)
def test_a_generator_that_is_none_costs_one_line(policies, rng):
    with pytest.raises(BadInput, match=r"rng is of type \w+: it must be what numpy.random.default_rng makes") as caught:
        policies["vector"](ZERO, rng)
    assert "\n" not in str(caught.value)


def test_numbers_that_networks_cannot_compute_with_are_refused(tmp_path):
    policy = bundle(tmp_path, OBSERVATIONS["image"], spaces.Box(-1.0, 1.0, (2,)), True, normalized=False)
    signs = np.array(list(itertools.product([-1, 1], repeat=6)))
    policy(1e30 * signs)
    with pytest.raises(BadInput, match="too large"), np.errstate(all="raise"):
        policy(3e38 * signs)


# --- layouts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_rows_are_those_of_gymnasium(name):
    space, of = OBSERVATIONS[name], layout(OBSERVATIONS[name])
    each = samples(space, 7)
    rows = flatten(of, stacked(space, each), 7)
    assert rows.dtype == np.float32
    assert rows.shape == (7, width(of)) == (7, spaces.flatdim(space))
    np.testing.assert_array_equal(rows, flat(space, each))
    assert layout_from_json(json.loads(json.dumps(layout_to_json(of)))) == of


@pytest.mark.parametrize(
    "name, words",
    [
        ("image", "(2, 3)"),
        ("nested", "a p (3,), q (3,), b (3,)"),
        ("discrete from -2", "Discrete 3 from -2"),
        ("several, in rows", "MultiDiscrete [[3, 2], [2, 4]] from [[0, 1], [-1, 5]]"),
        ("binary, in rows", "MultiBinary [2, 2]"),
        ("tuple", "Tuple(Discrete 5 from 0, Discrete 3 from 1, (2,))"),
    ],
)
def test_layouts_in_words(name, words):
    assert describe(layout(OBSERVATIONS[name])) == words


@pytest.mark.parametrize("name, record", [("image", [2, 3]), ("scalar", []), ("dict", {"x": [2], "y": []})])
def test_boxes_and_dicts_are_recorded_as_before(name, record):
    assert layout_to_json(layout(OBSERVATIONS[name])) == record


@pytest.mark.parametrize(
    "space, words",
    [
        (spaces.Tuple([]), "Tuple is empty"),
        (spaces.Dict({}), "Dict is empty"),
        (spaces.Dict(a=spaces.Tuple([])), "Tuple is empty"),
        (spaces.Text(3), "Text is not supported"),
        (spaces.Tuple([spaces.Sequence(TWO)]), "Sequence is not supported"),
        (spaces.Dict(g=spaces.Graph(TWO, None)), "Graph is not supported"),
        (spaces.OneOf([TWO, TWO]), "OneOf is not supported"),
        (spaces.Discrete(10**9), "Discrete has 1,000,000,000 values.*at most 1,048,576"),
        (spaces.MultiDiscrete([2**20, 2]), "MultiDiscrete has 1,048,578 values"),
    ],
    ids=str,
)
def test_spaces_that_are_not_supported_are_refused_by_name(space, words):
    with pytest.raises(BadInput, match=words) as caught:
        layout(space)
    assert "\n" not in str(caught.value)


# --- environments -----------------------------------------------------------------------------------------------------


class Told(gym.Env):
    """Gives the observations that it is told, one after the other, in episodes of three steps."""

    action_space = TWO

    def __init__(self, space, told):
        self.observation_space, self._told, self._next = space, told, 0

    def _observation(self):
        self._next += 1
        return self._told[(self._next - 1) % len(self._told)]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._step = 0
        return self._observation(), {}

    def step(self, action):
        self._step += 1
        return self._observation(), 1.0, self._step == 3, False, {}


class Native(VectorEnv):
    """One of its own kind, in SAME_STEP, whose `final_obs` is batched as its observations are."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, make, num_envs):
        self._envs, self.num_envs = [make() for _ in range(num_envs)], num_envs
        self.single_observation_space, self.single_action_space = self._envs[0].observation_space, TWO
        self.observation_space = batch_space(self.single_observation_space, num_envs)

    def reset(self, *, seed=None, options=None):
        return stacked(self.single_observation_space, [env.reset()[0] for env in self._envs]), {}

    def step(self, actions):
        obs, reward, terminated, truncated, _ = zip(*(env.step(0) for env in self._envs), strict=True)
        final, infos = obs, {}
        if any(terminated):
            obs = [env.reset()[0] for env in self._envs]
            infos["final_obs"] = stacked(self.single_observation_space, final)
        return (
            stacked(self.single_observation_space, obs),
            np.array(reward),
            np.array(terminated),
            np.array(truncated),
            infos,
        )


VECTORS = {
    "in turn": lambda make: make_envs(make, 2, 0),
    "next step": lambda make: make_envs(SyncVectorEnv([make] * 2), 2, 0),
    "same step": lambda make: make_envs(SyncVectorEnv([make] * 2, autoreset_mode=AutoresetMode.SAME_STEP), 2, 0),
    "disabled": lambda make: make_envs(SyncVectorEnv([make] * 2, autoreset_mode=AutoresetMode.DISABLED), 2, 0),
    "native": lambda make: make_envs(Native(make, 2), 2, 0),
}


@pytest.mark.parametrize("vector", VECTORS)
@pytest.mark.parametrize("name", KINDS)
def test_transitions_hold_the_rows_of_one_episode(name, vector):
    space = OBSERVATIONS[name]
    told = samples(space, 9)
    rows, steps = flat(space, told), []
    envs = VECTORS[vector](functools.partial(Told, space, told))
    assert envs.state() is None
    while len(steps) < 6:
        step = envs.step(np.zeros(2, np.int64))
        if step.valid is None or step.valid.all():
            steps.append(step)
    for number, step in enumerate(steps):
        first = number + number // 3  # The reset between two episodes takes an observation too.
        np.testing.assert_array_equal(step.obs, rows[[first % 9] * 2])
        np.testing.assert_array_equal(step.next_obs, rows[[(first + 1) % 9] * 2])
        assert step.terminated.all() == (number % 3 == 2)


def test_workers_in_processes_give_them_too():
    space = OBSERVATIONS["all"]
    told = samples(space, 5)
    envs = make_envs(functools.partial(Told, space, told), 1, 0, "async")
    try:
        seen = [envs.step(np.zeros(1, np.int64)).next_obs[0] for _ in range(3)]
        np.testing.assert_array_equal(seen, flat(space, told)[1:4])
        np.testing.assert_array_equal(envs.obs, flat(space, told)[4:])
    finally:
        envs.close()


OUT = {
    "discrete": 4,
    "discrete from -2": 1,
    "discrete, int8": -1,
    "several": np.array([0, 2]),
    "several, in rows": np.array([[0, 1], [-1, 4]]),
    "binary": np.array([0, 1, 2], np.int8),
    "tuple": (0, 0, np.zeros(2, np.float32)),
    "all": {"z": 0, "m": (np.zeros(2, np.int8), {"k": np.array([0, -1])}), "a": np.zeros((2, 1), np.float32)},
}


@pytest.mark.parametrize("vector", ["in turn", "native"])
@pytest.mark.parametrize("name", OUT)
def test_a_value_that_is_not_in_the_space_is_a_fault(name, vector):
    good = samples(OBSERVATIONS[name], 2)
    told = [*good, OUT[name]]
    envs = VECTORS[vector](functools.partial(Told, OBSERVATIONS[name], told))
    envs.step(np.zeros(2, np.int64))
    with pytest.raises(EnvironmentFault, match="gave an observation that is not finite, or not in its space"):
        envs.step(np.zeros(2, np.int64))
    with pytest.raises(EnvironmentFault, match="not in its space"):
        VECTORS[vector](functools.partial(Told, OBSERVATIONS[name], told[2:]))


def test_a_fault_that_resets_leaves_the_step_out():
    envs = make_envs(functools.partial(Told, OBSERVATIONS["discrete"], [0, 1, 7, 2]), 1, 0, on_fault="reset")
    assert envs.step(np.zeros(1, np.int64)).valid.all()
    assert not envs.step(np.zeros(1, np.int64)).valid.any()
    assert envs.faults[0].what == "gave an observation that is not finite, or not in its space"
    np.testing.assert_array_equal(envs.obs, np.eye(4)[[2]])


# --- runs -------------------------------------------------------------------------------------------------------------

MODULE = """
import gymnasium as gym

gym.register("Lake-v0", entry_point="gymnasium.envs.toy_text.frozen_lake:FrozenLakeEnv", max_episode_steps=100,
             kwargs={"map_name": "4x4", "is_slippery": False})
"""


def test_frozen_lake_is_solved_from_the_command_line_and_resumed(tmp_path, monkeypatch, capsys):
    (tmp_path / "lake.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    argv = "--algo ppo --env lake:Lake-v0 --num-envs 8 --num-steps 64 --num-minibatches 2 --num-epochs 4 --gamma 0.95"
    argv += " --actor-learning-rate 0.01 --critic-learning-rate 0.01 --ent-coef 0.02 --hidden-sizes 16 16"
    argv += " --total-steps 8192 --eval-every 1024 --eval-episodes 1 --stop-return 1 --run-dir"
    assert train_command([*argv.split(), str(tmp_path / "run")]) == 0
    assert "observations are flattened to 16 numbers: Discrete 16 from 0" in capsys.readouterr().out
    policy, env = load_policy(tmp_path / "run"), gym.make("FrozenLake-v1", is_slippery=False)
    (obs, _), total, over = env.reset(), 0.0, False
    while not over:  # The environment looks the action up in a dict: it must be a number, not an array.
        obs, reward, terminated, truncated, _ = env.step(policy(obs))
        total, over = total + reward, terminated or truncated
    assert total == 1
    policy.check_spaces(env.observation_space, env.action_space)
    with pytest.raises(BadInput, match=r"Discrete 16 from 0 .* the environment has Discrete 16 from 1"):
        policy.check_spaces(spaces.Discrete(16, start=1), env.action_space)
    assert evaluate_command([str(tmp_path / "run"), "--env", "lake:Lake-v0", "--episodes", "2"]) == 0
    assert "mean return 1.0" in capsys.readouterr().out
    resumed = ["--resume", str(tmp_path / "run"), "--env", "lake:Lake-v0", "--total-steps", "8192"]
    assert train_command(resumed) == 0
    assert "episodes begin anew" in capsys.readouterr().out


TAXI = next(name for name in ("Taxi-v4", "Taxi-v3") if name in gym.registry)


@pytest.mark.parametrize(
    "env, said",
    [
        ("Blackjack-v1", "45 numbers: Tuple(Discrete 32 from 0, Discrete 11 from 0, Discrete 2 from 0)"),
        pytest.param(TAXI, "500 numbers: Discrete 500 from 0", marks=pytest.mark.slow),
    ],
)
def test_toy_text_trains_from_the_command_line(tmp_path, capsys, env, said):
    argv = "--algo ppo --num-envs 2 --num-steps 16 --num-minibatches 1 --num-epochs 1 --hidden-sizes 4 4"
    argv += " --total-steps 64 --eval-episodes 1 --normalize-obs --env"
    assert train_command([*argv.split(), env, "--run-dir", str(tmp_path / "run")]) == 0
    assert said in capsys.readouterr().out
    env = gym.make(env)
    action = load_policy(tmp_path / "run")(env.reset(seed=0)[0])
    assert env.action_space.contains(action)


class Paid(Told):
    action_space = spaces.Box(-1.0, 1.0, (), np.float16)

    def step(self, action):
        obs, _, *rest = super().step(action)
        return obs, -abs(float(action)), *rest


def test_ddpg_learns_from_kinds_and_its_buffer_holds_rows(tmp_path):
    space = OBSERVATIONS["all"]
    run = run_config(
        env=functools.partial(Paid, space, samples(space, 8)), agent=DDPGConfig(hidden_sizes=(4, 4)), total_steps=24,
        learning_starts=8, batch_size=4, buffer_size=32, eval_episodes=1, run_dir=str(tmp_path / "run"),
    )  # fmt: skip
    told = flat(space, samples(space, 8))
    [session] = train_in([run], [make_envs(run.env, 1, 0)])
    stored = np.concatenate([session.training.replay.rows.obs[:24], session.training.replay.rows.next_obs[:24]])
    assert {row.tobytes() for row in stored} == {row.tobytes() for row in told}
    action = load_policy(tmp_path / "run")(samples(space, 1)[0])
    assert isinstance(action, np.ndarray)
    assert Paid.action_space.contains(action)


# --- what a policy gives ----------------------------------------------------------------------------------------------

ACTIONS = {
    "float16": spaces.Box(np.float16([-0.1, 0.3]), np.float16([0.1, 0.7]), dtype=np.float16),
    "float32": spaces.Box(np.float32([-0.1, 0.3]), np.float32([0.1, 0.7])),
    "float64": spaces.Box(np.array([-0.1, 0.3]), np.array([0.1, 0.7]), dtype=np.float64),
    "one number": spaces.Box(-0.1, 0.1, ()),
    "one number, float64": spaces.Box(-0.1, 0.1, (), np.float64),
    "in rows": spaces.Box(-0.1, 0.1, (2, 2)),
    "int8": spaces.Discrete(3, start=-1, dtype=np.int8),
    "int64": spaces.Discrete(3),
    "several, int8": spaces.MultiDiscrete([3, 2], dtype=np.int8),
    "several, int32": spaces.MultiDiscrete([[3, 2]], dtype=np.int32, start=[[1, 2]]),
    "binary": spaces.MultiBinary(3),
    "binary, in rows": spaces.MultiBinary([2, 2]),
}


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("actions", ACTIONS)
def test_actions_are_of_their_space(tmp_path, actions, deterministic, tolerance):
    """In float64, and in float32: `tolerance` chooses."""
    space, rng = ACTIONS[actions], None if deterministic else np.random.default_rng(0)
    if deterministic and not isinstance(space, spaces.Box):
        return
    dtype = jax.numpy.result_type(float)
    policy = bundle(tmp_path, OBSERVATIONS["vector"], space, deterministic, dtype=dtype)
    for obs in np.random.default_rng(0).uniform(-9, 9, (20, 3)):
        for action in (policy(obs), policy(obs, rng)):
            assert space.contains(action), action
            assert (action.dtype, action.shape) == (space.dtype, space.shape)
            assert isinstance(action, np.ndarray) or isinstance(space, spaces.Discrete)
    batch = policy(np.zeros((4, 3)), rng)
    assert (batch.dtype, batch.shape) == (space.dtype, (4, *space.shape))


@pytest.mark.parametrize("actions, dtype", [("float64", np.float64), ("int8", np.int64), ("binary", np.int64)])
def test_older_bundles_do_not_say_the_type(tmp_path, actions, dtype):
    policy = bundle(tmp_path / "new", OBSERVATIONS["dict"], ACTIONS[actions])
    arrays, notes = load_arrays(tmp_path / "new" / "policy.npz")
    del notes["action_dtype"]
    save_tree(tmp_path / "policy.npz", arrays, notes)
    older, obs = load_policy(tmp_path), {"x": np.ones((4, 2)), "y": np.ones(4)}
    assert older(obs).dtype == dtype
    np.testing.assert_array_equal(older(obs), policy(obs))


# --- copies and links -------------------------------------------------------------------------------------------------

COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda policy: pickle.loads(pickle.dumps(policy)),
    "cloudpickle": lambda policy: pickle.loads(cloudpickle.dumps(policy)),
    "twice": lambda policy: copy.deepcopy(pickle.loads(pickle.dumps(policy))),
}
COPIED = {
    "discrete": ("discrete", TWO, False),
    "float16": ("vector", ACTIONS["float16"], False),
    "several": ("all", ACTIONS["several, int8"], False),
    "deterministic": ("image", ACTIONS["float64"], True),
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", COPIED)
def test_copies_give_the_same_actions(tmp_path, how, name):
    observations, actions, deterministic = COPIED[name]
    policy = bundle(tmp_path, OBSERVATIONS[observations], actions, deterministic)
    copied, obs = COPIES[how](policy), stacked(OBSERVATIONS[observations], samples(OBSERVATIONS[observations], 9))
    np.testing.assert_array_equal(copied(obs), policy(obs))
    assert copied(obs).dtype == policy(obs).dtype == actions.dtype
    assert copied.notes == policy.notes
    if not deterministic:
        rngs = np.random.default_rng(3), np.random.default_rng(3)
        np.testing.assert_array_equal(copied(obs, rngs[0]), policy(obs, rngs[1]))


def test_a_policy_reaches_another_process(policies):
    policy, obs = policies["vector"], np.random.default_rng(1).normal(size=(9, 3))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply_async(policy, (obs,)).get(timeout=300)
    np.testing.assert_array_equal(there, policy(obs))


@pytest.mark.parametrize("linked", ["file", "folder", "chain"])
def test_a_policy_behind_links_is_read_and_verified(tmp_path, linked):
    policy, obs = bundle(tmp_path / "blobs", OBSERVATIONS["vector"], TWO), np.random.default_rng(1).normal(size=(9, 3))
    blob = (tmp_path / "blobs" / "policy.npz").rename(tmp_path / "blobs" / "4f2a")
    snapshot = tmp_path / "snapshot"
    if linked == "folder":
        blob.rename(tmp_path / "blobs" / "policy.npz")
        snapshot.symlink_to(tmp_path / "blobs")
    else:
        snapshot.mkdir()
        (tmp_path / "between").symlink_to(blob)
        target = os.path.relpath(tmp_path / "between" if linked == "chain" else blob, snapshot)
        (snapshot / "policy.npz").symlink_to(target)
    np.testing.assert_array_equal(load_policy(snapshot)(obs), policy(obs))
    real = (snapshot / "policy.npz").resolve()
    content = bytearray(real.read_bytes())
    content[len(content) // 2] ^= 1
    real.write_bytes(content)
    with pytest.raises(BadInput, match="damaged"):
        load_policy(snapshot)
    real.unlink()
    with pytest.raises(BadInput, match="there is no policy"):
        load_policy(snapshot)

"""What users' environments do, and what is done to them: taken where it is plain, else refused in one line."""

import dataclasses
import fractions
import functools
import os
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from plain import FAULT, FLAT, INFOS, CInt, Everything, Plain
from settings import run_config

from jaxrl import BadInput, EnvironmentLost, PPOConfig, make_envs, train
from jaxrl.envs.building import Builder
from jaxrl.report import tell


class PlainVector(VectorEnv):
    """Two environments that never end, observed as their index and their step."""

    single_observation_space, single_action_space, num_envs = FLAT, spaces.Discrete(2), 2
    observation_space, action_space = batch_space(FLAT, 2), batch_space(spaces.Discrete(2), 2)
    answer = reset_answer = staticmethod(lambda *answer: answer)

    def __init__(self, mode=AutoresetMode.SAME_STEP, **instead):
        self.__dict__ |= instead
        self.metadata, self.now, self.seeds = {"autoreset_mode": mode}, 0, []

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        return self.reset_answer(self.obs(), {})

    def step(self, actions):
        self.now += 1
        return self.answer(self.obs(), np.ones(2), np.zeros(2, bool), np.zeros(2, bool), {})

    def obs(self):
        return np.array([[0, self.now], [1, self.now]], np.float32)


@pytest.fixture(autouse=True)
def _nothing_is_told_yet():
    tell.cache_clear()


def in_one_line(kind, *words):
    """Expects an exception whose message is one line with these words."""
    pattern = "(?s)^(?!.*\n)" + "".join(f"(?=.*{word})" for word in words)
    return pytest.raises(kind, match=pattern)


def taking(action_space, number=2):
    made = [Plain(action_space=action_space) for _ in range(number)]
    left = iter(made)
    return made, make_envs(lambda: next(left), number, 0)


# --- actions ----------------------------------------------------------------------------------------------------------

BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)
GRID = spaces.Box(-1.0, 1.0, (2, 2), np.float32)
ALONE = spaces.Box(-1.0, 1.0, (), np.float32)


@pytest.mark.parametrize(
    "space, shape",
    [
        (BOX, (2, 3)), (GRID, (2, 4)), (GRID, (2, 2, 2)), (ALONE, (2,)), (ALONE, (2, 1)), (spaces.Discrete(3), (2,)),
        (spaces.Discrete(3), (2, 1)), (spaces.Box(-1, 1, (1,)), (2,)), (spaces.MultiDiscrete([3, 3]), (2, 2)),
    ],
    ids=str,
)  # fmt: skip
def test_actions_of_a_plain_shape_are_taken(space, shape):
    made, envs = taking(space)
    action = np.zeros(shape, np.float32)
    assert envs.step(action).action.shape == shape
    assert all(np.shape(env.received[0]) == space.shape for env in made)


@pytest.mark.parametrize(
    "space, shape",
    [
        (BOX, (3, 2)), (BOX, (6,)), (BOX, (1, 3)), (BOX, (2, 3, 1)), (BOX, (2,)), (GRID, (4, 2)), (ALONE, ()),
        (spaces.Discrete(3), (1, 2)), (spaces.Discrete(3), ()), (spaces.MultiBinary(3), (3, 2)),
    ],
    ids=str,
)  # fmt: skip
def test_actions_of_another_shape_are_refused(space, shape):
    made, envs = taking(space)
    wanted = (2, *space.shape)
    with in_one_line(BadInput, str(shape).replace("(", r"\(").replace(")", r"\)"), rf"\({str(wanted)[1:-1]}\)"):
        envs.step(np.zeros(shape, np.float32))
    assert not made[0].received
    envs.step(np.zeros(wanted, np.float32))  # Nothing has happened.


@pytest.mark.parametrize(
    "space, given",
    [
        (spaces.Discrete(5), 1.7), (spaces.Discrete(5), 7), (spaces.Discrete(5), -3), (spaces.Discrete(5), 5),
        (spaces.Discrete(3, start=2), 1), (spaces.Discrete(3, start=-1), 2), (spaces.Discrete(300), 1e30),
        (spaces.MultiDiscrete([2, 3]), [1, 3]), (spaces.MultiDiscrete([2, 3]), [0.5, 0]),
        (spaces.MultiDiscrete([2, 3], start=[1, 1]), [0, 1]), (spaces.MultiBinary(2), [0, 2]),
        (spaces.MultiBinary(2), [0, -1]), (spaces.MultiBinary(2), [0.5, 1]),
    ],
    ids=str,
)  # fmt: skip
def test_actions_that_are_none_are_refused(space, given):
    made, envs = taking(space)
    with in_one_line(BadInput, "environment 1 was given the action", type(space).__name__):
        envs.step(np.array([made[0].action_space.sample(), given]))
    assert not made[0].received


@pytest.mark.parametrize("given", ["left", None, 1j, np.datetime64("2020-01-01")], ids=repr)
def test_actions_that_are_no_numbers_are_refused(given):
    _, envs = taking(spaces.Discrete(2))
    with in_one_line(BadInput, "must be numbers"):
        envs.step(np.array([given, given]))


@pytest.mark.parametrize(
    "space, given, received",
    [
        (spaces.Discrete(5), 3.0, 3), (spaces.Discrete(5), True, 1), (spaces.Discrete(5, dtype=np.int8), 4, 4),
        (spaces.Discrete(3, start=-1), np.float32(-1), -1), (spaces.MultiDiscrete([200, 3]), [199.0, 2.0], [199, 2]),
        (spaces.MultiDiscrete([2, 3], dtype=np.int8), [1, 2], [1, 2]), (spaces.MultiBinary(2), [1.0, 0.0], [1, 0]),
        (spaces.MultiBinary((2, 2)), [[1, 0], [0, 1]], [[1, 0], [0, 1]]),
        (spaces.Box(-1, 1, (2,), np.float32), [np.pi, 0.1], [1.0, np.float32(0.1)]),
        (spaces.Box(-1, 1, (2,), np.float16), [-1e30, 0.1], [-1.0, np.float16(0.1)]),
        (spaces.Box(-1, 1, (2,), np.float64), [0.1, -7], [0.1, -1.0]),
        (spaces.Box(0.1, 0.3, (1,), np.float32), [0.30000001], [np.float32(0.3)]),
        (spaces.Box(-1, 1, (), np.float32), 2.0, 1.0), (spaces.Box(-1, 1, (), np.float16), 0.5, 0.5),
        (spaces.Box(0, 200, (1,), np.uint8), [1e9], [200]),
    ],
    ids=str,
)  # fmt: skip
def test_an_action_arrives_in_its_space(space, given, received):
    """The environment asserts that it is in the space. In float64, as where JAX_ENABLE_X64 is set."""
    made, envs = taking(space)
    action = np.array([given, given])
    row = envs.step(action)
    np.testing.assert_array_equal(row.action, action)
    assert row.action.dtype == action.dtype
    np.testing.assert_array_equal(made[1].received[0], received)
    assert made[1].received[0].dtype == space.dtype


def test_an_environment_that_writes_over_its_action_changes_nothing_else():
    class Writes(Plain):
        action_space = spaces.MultiDiscrete([5, 5])

        def step(self, action):
            answer = super().step(action)
            action[:] = 4
            return answer

    action = np.ones((1, 2), np.int64)
    assert make_envs(Writes, 1, 0).step(action).action.tolist() == [[1, 1]]


def test_a_fault_gives_a_discrete_environment_an_action_all_the_same():
    made = [Plain(), Plain()]
    left = iter(made)
    envs = make_envs(lambda: next(left), 2, 0, on_fault="reset")
    row = envs.step(np.array([1, np.nan]))
    assert row.valid.tolist() == [True, False]
    assert made[1].received == [0]


# --- one object for all -----------------------------------------------------------------------------------------------


def one_in_two_slots(env):
    make_envs(lambda: env, 2, 0)


def one_under_two_wrappers(env):
    left = iter((gym.wrappers.TimeLimit(env, 9), gym.wrappers.TimeLimit(env, 5)))
    make_envs(lambda: next(left), 2, 0)


def one_for_training_and_evaluation(env):
    first = make_envs(lambda: env, 1, 0)
    make_envs(lambda: gym.wrappers.TimeLimit(env, 9), 1, 0)
    first.close()


@pytest.mark.parametrize(
    "uses",
    [one_in_two_slots, one_under_two_wrappers, one_for_training_and_evaluation],
)
def test_one_environment_is_not_stepped_twice_at_once(uses):
    with in_one_line(BadInput, "given twice", "new environment at each call"):
        uses(Plain())


@pytest.mark.parametrize("make", [lambda: SyncVectorEnv([Plain, Plain]), PlainVector], ids=["sync", "native"])
def test_a_vector_environment_goes_over_to_its_latest_adapter(make):
    vector_env = make()
    first = make_envs(vector_env, 2, 0)
    second = make_envs(vector_env, 2, 1)
    assert second.step(np.zeros(2, int)).obs.shape[0] == 2
    del first
    make_envs(VectorWrapper(vector_env), 2, 2).step(np.zeros(2, int))


def shared_in_two_vector_environments():
    env = Plain()
    return SyncVectorEnv([lambda: env]), SyncVectorEnv([lambda: env])


def one_vector_environment_and_a_wrapper_of_it():
    vector_env = SyncVectorEnv([Plain])
    return vector_env, VectorWrapper(vector_env)


@pytest.mark.parametrize("make", [shared_in_two_vector_environments, one_vector_environment_and_a_wrapper_of_it])
def test_training_and_evaluation_do_not_share_an_environment(make, tmp_path):
    env, eval_env = make()
    run = run_config(env=env, eval_env=eval_env, num_envs=1, num_steps=8, total_steps=8, run_dir=str(tmp_path / "run"))
    run = dataclasses.replace(run, agent=PPOConfig(num_minibatches=2), eval_episodes=1)
    with in_one_line(BadInput, "env and eval_env step one and the same environment: evaluation needs one of its own"):
        train(run)
    assert not (tmp_path / "run").exists()


def test_a_subclass_reads_its_infos():
    class Costly(SyncVectorEnv):
        def step(self, actions):
            answer = super().step(actions)
            self.cost = answer[-1]["cost"]
            return answer

    class Costs(Plain):
        def step(self, action):
            return *super().step(action)[:4], {"cost": 2.0}

    vector_env = Costly([Costs, Costs])
    make_envs(vector_env, 2, 0).step(np.zeros(2, int))
    assert vector_env.cost.tolist() == [2.0, 2.0]


def test_one_environment_takes_one_action():
    assert make_envs(Plain, 1, 0).step(np.int64(1)).reward.shape == (1,)


def closed(env):
    make_envs(lambda: env, 1, 0).close()


def forgotten(env):
    make_envs(lambda: env, 1, 0)


def refused(env):
    with pytest.raises(BadInput):
        make_envs(lambda: env, 2, 0)


@pytest.mark.parametrize("before", [closed, forgotten, refused])
def test_an_environment_may_be_used_again_once_nobody_steps_it(before):
    env = Plain()
    before(env)
    assert make_envs(lambda: env, 1, 0).step(np.zeros(1, int)).reward == 1


def test_a_run_does_not_evaluate_where_it_trains(tmp_path):
    env = Plain()
    run = run_config(
        env=lambda: env, num_envs=1, num_steps=8, total_steps=8, eval_episodes=1, run_dir=str(tmp_path / "run"),
        agent=PPOConfig(hidden_sizes=(8,), num_minibatches=2),
    )  # fmt: skip
    with in_one_line(BadInput, "given twice"):
        train(run)
    assert not (tmp_path / "run").exists()


# --- infos ------------------------------------------------------------------------------------------------------------


def built(makers):
    left = iter(makers)
    return make_envs(lambda: next(left)(), 2, 0)


def brought(makers):
    return make_envs(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP), 2, 0)


@pytest.mark.parametrize("how", [built, brought])
@pytest.mark.parametrize("name", INFOS)
def test_infos_of_any_kind_change_nothing(how, name):
    kinds = {"info": INFOS[name], "reset_info": INFOS[name]}
    odd = how([functools.partial(Plain, index=i, **kinds) for i in range(2)])
    plain = built([Plain, Plain])
    for _ in range(8):
        for a, b in zip(odd.step(np.zeros(2, int))[:6], plain.step(np.zeros(2, int))[:6], strict=True):
            np.testing.assert_array_equal(a, b)
    assert odd.finished == plain.finished


@pytest.mark.parametrize("name", ["none", "list", "our key", "our key in final_info", "final_obs"])
def test_infos_reach_who_reads_them_without_what_would_be_mistaken(name):
    """A vector environment in a wrapper, which may read them, keeps its infos."""
    seen = []

    class Reads(VectorWrapper):
        def step(self, actions):
            *rest, infos = self.env.step(actions)
            seen.append(infos)
            return *rest, infos

    def info(i):
        found = INFOS[name](i)
        return {"speed": 3.0, **found} if isinstance(found, dict) else found

    makers = [functools.partial(Plain, info=info, reset_info=INFOS[name])] * 2
    envs = make_envs(Reads(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)), 2, 0)
    rows = [envs.step(np.zeros(2, int)) for _ in range(3)]
    assert rows[-1].next_obs.tolist() == [[0, 3], [0, 3]]
    if name.startswith(("our", "final")):
        assert seen[0]["speed"].tolist() == [3, 3]


@pytest.mark.parametrize(
    "infos", [None, [1], {FAULT: "gave up", f"_{FAULT}": True}, {"final_info": np.zeros(2)}], ids=str
)
def test_infos_of_a_vector_environment(infos):
    envs = make_envs(PlainVector(answer=lambda *answer: (*answer[:4], infos)), 2, 0)
    assert envs.step(np.zeros(2, int)).reward.tolist() == [1, 1]


# --- rewards and flags ------------------------------------------------------------------------------------------------


class Torchlike:
    """A number that is no array, as of a library that is not there."""

    def __float__(self):
        return 1.0


ONES = {
    "(1,)": np.ones(1), "(1, 1)": np.ones((1, 1), np.float32), "0-d": np.array(1), "float32": np.float32(1), "int": 1,
    "bool": True, "list": [1.0], "fraction": fractions.Fraction(1), "jax": jnp.ones(()), "jax (1,)": jnp.ones(1, bool),
    "torchlike": Torchlike(), "object": np.array([1], object),
}  # fmt: skip
NONE = {
    "None": None, "text": "1.0", "two": np.ones(2), "empty": [], "complex": 1j, "dict": {"reward": 1.0}, "bytes": b"1",
}  # fmt: skip


@pytest.mark.parametrize("name", ONES)
def test_what_is_plainly_one_number_is_taken(name):
    envs = make_envs(functools.partial(Plain, reward=ONES[name], truncated=ONES[name], terminated=ONES[name]), 2, 0)
    row = envs.step(np.zeros(2, int))
    assert (row.reward.tolist(), row.reward.shape) == ([1, 1], (2,))
    assert row.terminated.tolist() == row.truncated.tolist() == [True, True]


@pytest.mark.parametrize("name", NONE)
@pytest.mark.parametrize("field", ["reward", "terminated"])
def test_what_is_not_is_named(field, name):
    envs = make_envs(functools.partial(Plain, **{field: NONE[name]}), 2, 0)
    with in_one_line(EnvironmentLost, rf"environment 0 \(Plain\) gave .* as {field}: it must be"):
        envs.step(np.zeros(2, int))
    assert envs.failed


@pytest.mark.parametrize("value", [2, 0.5, np.nan])
def test_a_flag_is_true_or_false(value):
    envs = make_envs(functools.partial(Plain, terminated=value), 1, 0)
    with in_one_line(EnvironmentLost, "as terminated: it must be True or False"):
        envs.step(np.zeros(1, int))


@pytest.mark.parametrize("huge", [10**400, -(10**400)])
def test_an_int_that_no_float_holds_is_a_fault(huge):
    envs = make_envs(functools.partial(Plain, reward=huge), 1, 0, on_fault="reset")
    assert envs.step(np.zeros(1, int)).valid.tolist() == [False]


VECTORS = {
    "column": lambda x: np.asarray(x)[:, None], "row": lambda x: np.asarray(x)[None],
    "object": lambda x: x.astype(object), "list": lambda x: x.tolist(), "tuple": lambda x: tuple(x),
    "jax": jnp.asarray, "int8": lambda x: x.astype(np.int8),
    "list of arrays": lambda x: [np.array([each]) for each in x],
}  # fmt: skip


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
def test_vectors_of_a_plain_shape_are_taken(mode, name):
    def answer(obs, reward, terminated, truncated, infos):
        terminated = np.array([False, True])
        return obs, *map(VECTORS[name], (reward, terminated, truncated)), {"final_obs": jnp.asarray(obs)}

    envs = make_envs(PlainVector(mode, answer=answer), 2, 0)
    row = envs.step(np.zeros(2, int))
    assert (row.reward.tolist(), row.terminated.tolist()) == ([1, 1], [False, True])
    envs.step(np.zeros(2, int))


@pytest.mark.parametrize(
    "place, name, value",
    [
        (1, "reward", np.ones((2, 2))), (1, "reward", np.ones(3)), (1, "reward", 1.0), (1, "reward", ["1", "1"]),
        (1, "reward", None), (1, "reward", [[1], [1, 2]]), (2, "terminated", np.ones(3, bool)),
        (2, "terminated", np.array([0, 2])), (3, "truncated", ["yes", "no"]), (3, "truncated", [None, None]),
    ],
)  # fmt: skip
def test_vectors_of_another_shape_are_named(place, name, value):
    envs = make_envs(PlainVector(answer=lambda *a: (*a[:place], value, *a[place + 1 :])), 2, 0)
    with in_one_line(EnvironmentLost, "PlainVector gave", name, "must be"):
        envs.step(np.zeros(2, int))


# --- observations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("obs", [np.zeros(3), np.zeros((2, 1)), np.zeros((1, 2)), 0.0, None, [], "ab"], ids=repr)
@pytest.mark.parametrize("when", ["reset", "step"])
def test_an_observation_of_another_shape_is_named(when, obs):
    class Odd(Plain):
        def obs(self):
            return super().obs() if self.now == 0 and when == "step" else obs

    with in_one_line(EnvironmentLost, r"environment 0 \(Odd\) gave an observation", r"of shape \(.*\(2,\)"):
        make_envs(Odd, 2, 0).step(np.zeros(2, int))


@pytest.mark.parametrize(
    "obs, words",
    [
        ({"a": np.zeros(2)}, "without the part 'b'"), (np.zeros(3), "a dict"),
        ({"a": np.zeros(3), "b": 0.0}, "part 'a'"),
    ],
    ids=str,
)  # fmt: skip
def test_a_dict_that_lacks_or_changes_a_part_is_named(obs, words):
    parts = spaces.Dict({"a": FLAT, "b": spaces.Box(-1, 1, ())})
    with in_one_line(EnvironmentLost, "gave an observation", words):
        make_envs(functools.partial(Plain, observation_space=parts, obs=lambda: obs), 2, 0)


VECTOR_OBS = {"transposed": (3, 2), "wider": (2, 4), "one row": (3,), "an axis more": (2, 1, 3), "too few": (1, 3)}


@pytest.mark.parametrize("name", VECTOR_OBS)
@pytest.mark.parametrize("when", ["reset", "step"])
def test_vector_observations_of_another_shape_are_named(when, name):
    class Odd(PlainVector):
        single_observation_space = spaces.Box(-1, 1, (3,), np.float32)

        def obs(self):
            return np.zeros((2, 3) if self.now == 0 and when == "step" else VECTOR_OBS[name], np.float32)

    shape = str(VECTOR_OBS[name])[1:-1]
    with in_one_line(EnvironmentLost, rf"Odd gave an observation of shape \({shape}\): .* \(2, 3\)"):
        make_envs(Odd(), 2, 0).step(np.zeros(2, int))


@pytest.mark.parametrize(
    "kind", [jnp.asarray, np.ndarray.tolist, lambda x: x.astype(object)], ids=["jax", "list", "object"]
)
def test_vector_observations_of_another_kind_are_taken(kind):
    vector_env = PlainVector(
        answer=lambda obs, *rest: (kind(obs), *rest), reset_answer=lambda obs, info: (kind(obs), info)
    )
    envs = make_envs(vector_env, 2, 0)
    np.testing.assert_array_equal(envs.step(np.zeros(2, int)).next_obs, [[0, 1], [1, 1]])
    envs.obs[0] = 7  # An array of our own.


@pytest.mark.parametrize("final", [np.zeros((1, 2)), np.array([None, None]), np.zeros((2, 3)), 5], ids=str)
def test_a_final_observation_of_another_shape_is_named(final):
    ends = np.array([False, True])
    envs = make_envs(PlainVector(answer=lambda o, r, _, cut, i: (o, r, ends, cut, {"final_obs": final})), 2, 0)
    with in_one_line(EnvironmentLost, "PlainVector gave"):
        envs.step(np.zeros(2, int))


@pytest.mark.parametrize(
    "wrapper", [(), (functools.partial(gym.wrappers.TimeLimit, max_episode_steps=9),)], ids=["bare", "wrapped"]
)
def test_the_answers_of_old_gym_are_named(wrapper):
    with in_one_line(EnvironmentLost, "environment 0", "a step must give five values"):
        old = functools.partial(Plain, step_answer=lambda obs, reward, end, cut, info: (obs, reward, end or cut, info))
        make_envs(old, 1, 0, wrapper=wrapper).step(np.zeros(1, int))
    with in_one_line(EnvironmentLost, "environment 0", "a reset must give two values"):
        make_envs(functools.partial(Plain, reset_answer=lambda obs, info: obs), 1, 0, wrapper=wrapper)


def test_the_answers_of_old_vector_environments_are_named():
    with in_one_line(EnvironmentLost, "PlainVector gave a tuple of 4: a step must give five values"):
        make_envs(PlainVector(answer=lambda *answer: answer[:4]), 2, 0).step(np.zeros(2, int))
    with in_one_line(EnvironmentLost, "PlainVector gave .*: a reset must give two values"):
        make_envs(PlainVector(reset_answer=lambda obs, info: obs), 2, 0)


# --- large numbers ----------------------------------------------------------------------------------------------------

WIDE = spaces.Box(-np.inf, np.inf, (2,), np.float64)


@pytest.mark.parametrize(
    "space, obs, told",
    [
        (WIDE, [1.7e9 + 1, 0], 1), (WIDE, [0, -1.7e9 - 1], 1),
        (spaces.Box(0, 2**40, (2,), np.int64), [2**30 + 1, 0], 1),
        (spaces.Dict({"a": FLAT, "b": WIDE}), {"a": [0, 0], "b": [1.7e9 + 1, 0]}, 1),
        (WIDE, [1e6, 0.1], 0), (WIDE, [2.0**30, 0], 0), (FLAT, [1.7e9 + 1, 0], 0),
        (spaces.Dict({"a": FLAT, "b": WIDE}), {"a": [1e30, 0], "b": [0, 1.5]}, 0),
    ],
    ids=str,
)  # fmt: skip
def test_numbers_whose_digits_float32_loses_are_told_once(space, obs, told, capsys):
    def now(self=None):
        kinds = {key: np.array(part, space[key].dtype) for key, part in obs.items()} if isinstance(obs, dict) else None
        return kinds or np.array(obs, space.dtype)

    for _ in range(2):  # To train and to evaluate in.
        envs = make_envs(functools.partial(Plain, observation_space=space, obs=now), 2, 0)
        for _ in range(4):
            envs.step(np.zeros(2, int))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == told
    assert all("float32" in line and "TransformObservation" in line for line in lines)


# --- seeds ------------------------------------------------------------------------------------------------------------


def test_a_seed_that_is_too_large_is_cut_and_that_is_told(capsys):
    seeds = make_envs(Plain, 6, 3).seeds(3)
    assert max(seeds) >= 2**31 > min(seeds)
    made = [CInt() for _ in seeds]
    left = iter(made)
    make_envs(lambda: next(left), len(seeds), 3)
    assert [env.seeds[0] for env in made] == [seed if seed < 2**31 else seed - 2**31 for seed in seeds]
    [line] = capsys.readouterr().err.splitlines()
    assert "CInt refuses seeds of 2**31 and more (OverflowError)" in line


def test_a_vector_environment_may_refuse_a_seed_too(capsys):
    class Refuses(PlainVector):
        def reset(self, *, seed=None, options=None):
            assert seed is None or seed < 2**31
            return super().reset(seed=seed, options=options)

    large = next(seed for seed in range(9) if make_envs(PlainVector(), 2, 0).seeds(seed)[0] >= 2**31)
    vector_env = Refuses()
    envs = make_envs(vector_env, 2, large)
    assert vector_env.seeds == [envs.seeds(large)[0] - 2**31]
    assert "Refuses refuses seeds" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError, AssertionError])
def test_a_reset_that_fails_for_another_reason_says_its_own(error):
    class Broken(Plain):
        def reset(self, *, seed=None, options=None):
            raise error(f"no licence, {'large' if seed >= 2**31 else 'small'}")

    for seed in range(4):
        large = make_envs(Plain, 1, 0).seeds(seed)[0] >= 2**31
        with in_one_line(EnvironmentLost, f"no licence, {'large' if large else 'small'}"):
            make_envs(Broken, 1, seed)


# --- what ends the process --------------------------------------------------------------------------------------------


def leaves(*_, **__):
    sys.exit(0)


class LeavesAtClose(Plain):
    def close(self):
        sys.exit(0)


@pytest.mark.parametrize(
    "maker, wrapper",
    [
        (leaves, ()), (Plain, (leaves,)),
        (functools.partial(Plain, reset_info=leaves), ()), (functools.partial(Plain, info=leaves), ()),
    ],
    ids=["constructor", "wrapper", "reset", "step"],
)  # fmt: skip
def test_an_exit_is_a_failure(maker, wrapper):
    with in_one_line(EnvironmentLost, r"SystemExit: 0 \(test_users_environments.py:\d+\)"):
        make_envs(maker, 2, 0, wrapper=wrapper).step(np.zeros(2, int))


def test_an_exit_of_a_vector_environment_is_a_failure():
    with in_one_line(EnvironmentLost, "PlainVector raised SystemExit: 0"):
        make_envs(PlainVector(answer=leaves), 2, 0).step(np.zeros(2, int))


def test_what_is_raised_while_environments_are_closed_is_told_and_all_are_closed(capsys):
    shut = []

    class Counts(Plain):
        def close(self):
            shut.append(self)

    left = iter((LeavesAtClose(), Counts()))
    make_envs(lambda: next(left), 2, 0).close()
    assert len(shut) == 1
    assert "an environment raised SystemExit: 0 (test_users" in capsys.readouterr().err


def test_a_signal_to_stop_is_none_of_the_environments():
    def terminated():
        raise SystemExit(143)

    with pytest.raises(SystemExit, match="143"):
        make_envs(terminated, 1, 0)


# --- constructors -----------------------------------------------------------------------------------------------------


def test_a_constructor_that_fails_without_a_word_names_the_package():
    names = {"__name__": "gymnasium.envs.robots"}
    exec(compile("def make():\n    assert 1 > 2\n", "site-packages/gymnasium/envs/robots.py", "exec"), names)
    with in_one_line(BadInput, rf"cannot be built: AssertionError \(robots.py:2 of gymnasium {gym.__version__}\)"):
        make_envs(names["make"], 1, 0)


def test_a_constructor_of_the_users_own_names_its_line():
    def make():
        raise RuntimeError

    with in_one_line(BadInput, r"make cannot be built: RuntimeError \(test_users_environments.py:\d+\)$"):
        make_envs(make, 1, 0)


# --- many environments ------------------------------------------------------------------------------------------------


def test_what_no_memory_holds_is_refused_after_a_few(monkeypatch):
    made = []
    monkeypatch.setattr("jaxrl.envs.building.free_host_bytes", lambda: 2.0**30)
    monkeypatch.setattr("jaxrl.envs.building.resident_bytes", lambda: len(made) * 2**20)
    with in_one_line(BadInput, "num_envs is 65,536", "GiB", "1.0 GiB are free"):
        make_envs(lambda: made.append(1) or Plain(), 65536, 0)
    assert len(made) == 17


def test_processes_that_no_memory_holds_are_refused_before_one_is_started(monkeypatch):
    monkeypatch.setattr("jaxrl.envs.building.free_host_bytes", lambda: 2.0**30)
    with in_one_line(BadInput, "num_envs is 65,536", "GiB"):
        make_envs(Plain, 65536, 0, "async")


@pytest.mark.parametrize(
    "seconds, size, number, told",
    [(0.01, 0, 5000, 1), (2.0, 0, 9, 1), (0, 2**22, 64, 1), (0.001, 2**10, 5000, 0), (9, 0, 1, 0)],
)
def test_what_takes_long_or_much_is_told_once(monkeypatch, capsys, seconds, size, number, told):
    made = []
    monkeypatch.setattr("jaxrl.envs.building.free_host_bytes", lambda: 2.0**30)
    monkeypatch.setattr("jaxrl.envs.building.resident_bytes", lambda: len(made) * size)
    monkeypatch.setattr("jaxrl.envs.building.time.monotonic", lambda: len(made) * seconds)
    build = Builder(number)
    for _ in range(min(number, 40)):
        build(lambda: made.append(1))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == told
    assert all(f"to build {number:,} environments takes about" in line for line in lines)


# --- processes of their own -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workers():
    tell.cache_clear()
    envs = make_envs(Everything, 2, 3, "async")
    yield envs
    envs.close()


def test_workers_take_what_environments_in_this_process_may_give(workers):
    rows = [workers.step(np.full((2, 1), 3.0)) for _ in range(3)]
    assert rows[-1].reward.tolist() == [1, 1]
    assert rows[-1].truncated.tolist() == [True, True]
    assert rows[-1].next_obs[:, 1].tolist() == [3, 3]
    assert workers.finished == [(0, 3.0, 3), (1, 3.0, 3)]


def test_processes_that_workers_have_started_end_with_them(workers):
    helpers = [int(pid) for pid in workers.obs[:, 0]]
    assert all(Path(f"/proc/{pid}").exists() for pid in helpers)
    workers.close()
    assert not any(process.is_alive() for process in workers.vector_env.processes)
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() and "sleep" in Path(f"/proc/{pid}/cmdline").read_text() for pid in helpers):
        assert time.monotonic() < deadline, "a process stays"
        time.sleep(0.02)


def test_infos_of_processes_that_a_user_brings():
    ragged = INFOS["ragged"]
    makers = [functools.partial(Plain, index=i, info=ragged, reset_info=ragged) for i in range(2)]
    envs = make_envs(AsyncVectorEnv(makers, context="spawn", autoreset_mode=AutoresetMode.SAME_STEP), 2, 0)
    assert [envs.step(np.zeros(2, int)) for _ in range(3)][-1].next_obs.tolist() == [[0, 3], [0, 3]]
    envs.close()


def test_a_script_that_closes_nothing_ends_and_leaves_nothing(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom jaxrl import make_envs\n"
        "if __name__ == '__main__':\n"
        "    envs = make_envs('CartPole-v1', 2, 0, 'async')\n"
        "    print(*[process.pid for process in envs.vector_env.processes], flush=True)\n"
        "    sys.exit(3)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert (run.returncode, run.stderr) == (3, "")
    assert len(run.stdout.split()) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in run.stdout.split())

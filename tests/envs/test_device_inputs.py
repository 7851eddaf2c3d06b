"""What cannot work on the device: one line each, that says what is wrong and what would be right."""

import dataclasses
import sys
import types
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from device_tasks import Noisy, ScriptedOnDevice
from gymnasium import spaces

from jaxrl import BadInput, collect, evaluate_on_device, make_device_envs
from jaxrl.envs import gymnax_tasks


def refused(env, words, num_envs=2, backend="jax"):
    with pytest.raises(BadInput) as caught:
        make_device_envs(env, num_envs, backend)
    message = str(caught.value)
    assert words in message and "\n" not in message
    return message


def altered(**parts):
    """The noisy task with other functions or attributes."""
    return type("Mine", (Noisy,), parts)()


def test_names_that_are_none():
    assert "did you mean CartPole-v1?" in refused("cartpole-v0", "backend jax has no environment cartpole-v0")
    assert "Acrobot-v1, CartPole-v1, " in refused("Xyzzy", "backend jax has no environment Xyzzy: it has")
    refused(
        "CartPole-v1",
        "backend 'brax' is not on the device: it must be one of jax, gymnax, playground, envelope",
        backend="brax",
    )
    refused(Noisy(), "backend 'brax' is not on the device", backend="brax")
    refused(Noisy(), "env is an environment of your own: backend must be 'jax', not 'gymnax'", backend="gymnax")


@pytest.mark.parametrize("num_envs", [0, -3, 2.0, True, "4"])
def test_numbers_of_environments_that_are_none(num_envs):
    refused("CartPole-v1", f"num_envs is {num_envs!r}: it must be a whole number, and at least 1", num_envs)


class Pair(NamedTuple):
    x: object
    y: object = ()


ALIKE = "environment Mine: the state that step gives must be like that of reset, but "


@pytest.mark.parametrize(
    ("env", "words"),
    [
        (altered(step=lambda self, state, action, key: (state[:, None], state, 1.0, False)),
         ALIKE + "reset gives the shape (1,), and step (1, 1)"),
        (altered(step=lambda self, state, action, key: (state.astype(jnp.int32), state, 1.0, False)),
         ALIKE + "reset gives the type float32, and step int32"),
        (altered(reset=lambda self, key: (Pair(jnp.zeros(1)), jnp.zeros(1)),
                 step=lambda self, state, action, key: (Pair(state.x, state.x), state.x, 1.0, False)),
         ALIKE + "reset gives nothing at y"),
        (altered(reset=lambda self, key: ({"a": jnp.zeros(1), "b": 0}, jnp.zeros(1)),
                 step=lambda self, state, action, key: ({"a": state["a"]}, state["a"], 1.0, False)),
         ALIKE + "step gives nothing at b"),
        (altered(step=lambda self, state, action, key: (state, jnp.zeros(2), 1.0, False)),
         "the observation that step gives must be like that of reset, but reset gives the shape (1,), and step (2,)"),
        (altered(step=lambda self, state, action, key: (state, state, state, False)),
         "gives a reward of shape (1,): it must be one number, ()"),
        (altered(step=lambda self, state, action, key: (state, state, 1.0, 0.0)),
         "gives terminated of type float32: it must be bool"),
        (altered(step=lambda self, state, action, key: (state, state, 1.0, False, {})),
         "step gives 5 parts: it must give (state, obs, reward, terminated)"),
        (altered(reset=lambda self, key: jnp.zeros(1)), "reset gives a ShapeDtypeStruct: it must give (state, obs)"),
        (altered(reset=lambda self, key: np.asarray(key)), "reset cannot be traced by JAX: TracerArrayConversionError"),
        (altered(observation_space=spaces.Box(-1, 1, (3,))), "gives observations of 1 numbers, and its space has 3"),
        (altered(observation_space=spaces.Dict(a=spaces.Box(-1, 1))), "gives observations that are not in its space"),
        (altered(observation_space=spaces.Text(3)), "observation space Text is not supported"),
        (altered(action_space=spaces.Dict(a=spaces.Discrete(2))), "action space Dict is not supported"),
        (dataclasses.replace(Noisy(), time_limit=0), "has the time_limit 0: it must be a whole number of steps, "),
        (dataclasses.replace(Noisy(), time_limit=1e3), "has the time_limit 1000.0: it must be a whole number"),
        (dataclasses.replace(Noisy(), num_first_states=-1), "has num_first_states -1: it must be a whole number"),
        (dataclasses.replace(Noisy(), num_first_states="8"), "has num_first_states '8': it must be a whole number"),
        (altered(observation_space=(3,)), "has a tuple as observation_space: it must be a space of Gymnasium's"),
        (object(), "environment object has no reset: it must have reset, step, observation_space, action_space, "),
        (altered(__hash__=None), "environment Mine cannot be hashed: it must be, as a frozen dataclass is"),
    ],
)  # fmt: skip
def test_an_environment_of_ones_own_that_cannot_work(env, words):
    refused(env, words)


def test_structures_that_are_not_alike_though_their_leaves_are():
    """A tuple against a list of the same arrays."""
    env = altered(
        reset=lambda self, key: ((jnp.zeros(1), jnp.zeros(1)), jnp.zeros(1)),
        step=lambda self, state, action, key: (list(state), state[0], 1.0, False),
    )
    refused(env, ALIKE + "one is another kind of tree")


def test_one_that_can_work_passes():
    for env in (Noisy(), ScriptedOnDevice(), altered(num_first_states=3)):
        assert make_device_envs(env, 2).env is env


def test_a_time_limit_may_be_longer_than_an_int32_counts():
    envs = make_device_envs(dataclasses.replace(Noisy(), time_limit=10**12), 2)
    state = jax.eval_shape(envs.reset, jax.random.key(0))
    assert jax.eval_shape(envs.step, state, jnp.zeros((2, 1)))[1].truncated.shape == (2,)


def test_calls_that_cannot_be_made():
    envs = make_device_envs(Noisy(), 2)
    state = envs.reset(jax.random.key(0))
    for call, words in (
        (lambda: collect(envs, state, None, 0), "num_steps is 0: it must be at least 1"),
        (lambda: evaluate_on_device(envs, None, state.key, 0), "num_episodes is 0: it must be at least 1"),
        (lambda: envs.step(state, jnp.zeros((2, 3))), "actions have the shape (2, 3): it must be (2, 1)"),
        (lambda: envs.step(state, jnp.zeros(())), "actions have the shape (): it must be (2, 1)"),
    ):
        with pytest.raises(BadInput) as caught:
            call()
        assert str(caught.value) == words


@pytest.fixture
def another_gymnax(monkeypatch):
    """Puts modules in gymnax's place."""

    def put(**parts):
        package, inner = types.ModuleType("gymnax"), types.ModuleType("gymnax.environments.environment")
        package.registered_envs, inner.Environment = ["CartPole-v1"], type("Environment", (), parts)
        for name, module in (("gymnax", package), ("gymnax.environments", package), (inner.__name__, inner)):
            monkeypatch.setitem(sys.modules, name, module)
        gymnax_tasks.find_task.cache_clear()

    yield put
    gymnax_tasks.find_task.cache_clear()


def test_an_old_gymnax_is_refused_by_name(another_gymnax):
    another_gymnax()
    refused("CartPole-v1", "this gymnax is older than 1.0, and merges time limits", backend="gymnax")


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnax", None)
    gymnax_tasks.find_task.cache_clear()
    refused(
        "CartPole-v1", "backend gymnax needs the extra gymnax, pip install 'jaxrl-kernels[gymnax]'", backend="gymnax"
    )


def test_a_task_that_gymnax_has_not(another_gymnax):
    another_gymnax(is_truncated=None)
    words = "backend gymnax has no environment CartPole-v3: did you mean CartPole-v1?"
    refused("CartPole-v3", words, backend="gymnax")

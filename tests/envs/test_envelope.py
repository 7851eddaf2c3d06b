"""jax-envelope's tasks on the device. They need the extra `envelope`, gymnax and navix, and Python 3.12; run them in an
environment of its own, `python -m pytest -m slow tests/envs/test_envelope.py`."""

import jax
import numpy as np
import pytest

from jaxrl import BadInput, make_device_envs
from jaxrl.envs.on_device import collect

pytest.importorskip("envelope")
pytestmark = pytest.mark.slow

N, T = 3, 130


def random_actions(n):
    def act(key, obs):
        action = jax.random.randint(key, (len(obs),), 0, n)
        return action, action

    return act


def rollout_of(name, backend, num_steps=T):
    envs = make_device_envs(name, N, backend)
    act = random_actions(int(envs.action_space.n))
    _, rollout = jax.jit(lambda key: collect(envs, envs.reset(key), act, num_steps))(jax.random.key(0))
    return envs, jax.tree.map(np.asarray, rollout)


@pytest.mark.parametrize("name", ["gymnax::CartPole-v1", "gymnax::Breakout-MinAtar", "navix::Navix-Empty-5x5-v0"])
def test_transitions_are_true(name):
    pytest.importorskip(name.partition("::")[0])
    envs, rows = rollout_of(name, "envelope")
    ended = rows.terminated | rows.truncated
    assert rows.valid.all() and ended.any()
    going = ~ended[:-1]
    np.testing.assert_array_equal(rows.obs[1:][going], rows.next_obs[:-1][going])
    assert (rows.obs[1:][~going] != rows.next_obs[:-1][~going]).any()
    assert rows.obs.shape[2] == np.prod(envs.reset(jax.random.key(0)).obs.shape[1:])


def test_the_limit_is_the_suites_and_no_termination():
    pytest.importorskip("navix")
    envs, rows = rollout_of("navix::Navix-Empty-16x16-v0", "envelope", 210)
    assert envs.time_limit == 100
    alive = np.where(rows.terminated.any(0), 0, 1).astype(bool)
    assert (
        alive.any()
        and (rows.truncated[[99, 199]][:, alive]).all()
        and rows.truncated[:, alive].sum() == 2 * alive.sum()
    )


def test_cartpole_is_our_own():
    pytest.importorskip("gymnax")
    _, rows = rollout_of("gymnax::CartPole-v1", "envelope")
    rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)
    ours = make_device_envs("CartPole-v1", 1).env
    _, obs, _, terminated = jax.vmap(ours.step, (0, 0, None))(rows.obs, rows.action, None)
    np.testing.assert_allclose(rows.next_obs, obs, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(rows.terminated, terminated)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("CartPole-v1", "it must be suite::task, of brax, "),
        ("gymnax::CartPole-v9", "did you mean gymnax::CartPole-v1"),
        ("jumanji::Snake-v1", "envelope cannot make jumanji::Snake-v1: ImportError"),
    ],
)
def test_names_that_are_none(name, words):
    with pytest.raises(BadInput, match=words):
        make_device_envs(name, 2, "envelope")

"""The networks' forward pass on the host against the one that the kernels use."""

import jax
import numpy as np
import pytest
from gymnasium import spaces

from jaxrl import PPOConfig, ppo_act, ppo_init
from jaxrl.networks import apply_function, host_policy

OBSERVATIONS = spaces.Box(-np.inf, np.inf, (5,))


SPACES = {
    "discrete": (spaces.Discrete(4, start=-2), {}, (7,)),
    "several": (spaces.MultiDiscrete([[3, 2], [5, 2]], start=[[0, 4], [-1, 0]]), {}, (7, 4)),
    "binary": (spaces.MultiBinary([2, 3]), {}, (7, 6)),
    "box": (spaces.Box(-1.0, 1.0, (3,)), {}, (7, 3)),
    "box of other bounds": (spaces.Box(np.float32([[0, -5]]), np.float32([[10, -4]])), {}, (7, 2)),
    "squashed": (spaces.Box(np.float32([0, -5]), np.float32([10, -4])), {"squash_actions": True}, (7, 2)),
}


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("sizes", [(8,), (64, 64), (4,) * 11], ids=str)
def test_the_host_acts_as_the_kernel_recomputes(tolerance, name, sizes):
    space, settings, shape = SPACES[name]
    config = PPOConfig(hidden_sizes=sizes, initial_log_std=0.3, **settings)
    state = ppo_init(jax.random.key(1), config, OBSERVATIONS, space)
    # Weights as after training, not near zero.
    actor = state.actor.replace(params=jax.tree.map(lambda x: x * 2 + 0.1, state.actor.params))
    obs = np.random.default_rng(0).normal(size=(7, 5)).astype(actor.params["params"]["mlp"]["Dense_0"]["bias"].dtype)
    ours, theirs = host_policy(actor.apply_fn, actor.params)(obs), ppo_act(state.replace(actor=actor), obs)
    assert type(ours) is type(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert isinstance(a, np.ndarray)
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(ours.mode(), theirs.mode(), rtol=tolerance, atol=tolerance)
    assert ours.sample(np.random.default_rng(0)).shape == shape
    action = ours.to_env(ours.sample(np.random.default_rng(0)))
    assert action.shape == shape
    if not isinstance(space, spaces.Box):
        assert all(space.contains(row.reshape(space.shape).astype(space.dtype)) for row in action)


def test_equal_settings_give_the_same_objects():
    states = [ppo_init(jax.random.key(k), PPOConfig(), OBSERVATIONS, spaces.Discrete(2)) for k in (0, 1)]
    assert states[0].actor.apply_fn is states[1].actor.apply_fn
    assert states[0].actor.tx is states[1].actor.tx
    module = states[0].actor.apply_fn.__self__
    assert apply_function(type(module), (64, 64), 2, 0, module.dtype)[0] is module

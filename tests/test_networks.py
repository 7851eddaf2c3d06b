"""The networks' forward pass on the host against the one that the kernels use."""

import jax
import numpy as np
import pytest
from gymnasium import spaces

from jaxrl import PPOConfig, ppo_act, ppo_init
from jaxrl.networks import apply_function, host_policy

OBSERVATIONS = spaces.Box(-np.inf, np.inf, (5,))


@pytest.mark.parametrize("space", [spaces.Discrete(4, start=-2), spaces.Box(-1.0, 1.0, (3,))], ids=["discrete", "box"])
@pytest.mark.parametrize("sizes", [(8,), (64, 64), (4,) * 11], ids=str)
def test_the_host_acts_as_the_kernel_recomputes(tolerance, space, sizes):
    state = ppo_init(jax.random.key(1), PPOConfig(hidden_sizes=sizes, initial_log_std=0.3), OBSERVATIONS, space)
    # Weights as after training, not near zero.
    actor = state.actor.replace(params=jax.tree.map(lambda x: x * 2 + 0.1, state.actor.params))
    obs = np.random.default_rng(0).normal(size=(7, 5)).astype(actor.params["params"]["mlp"]["Dense_0"]["bias"].dtype)
    ours, theirs = host_policy(actor.apply_fn, actor.params)(obs), ppo_act(state.replace(actor=actor), obs)
    assert type(ours) is type(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert isinstance(a, np.ndarray)
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(ours.mode(), theirs.mode()) if isinstance(space, spaces.Discrete) else None
    assert ours.sample(np.random.default_rng(0)).shape == ((7,) if isinstance(space, spaces.Discrete) else (7, 3))


def test_equal_settings_give_the_same_objects():
    states = [ppo_init(jax.random.key(k), PPOConfig(), OBSERVATIONS, spaces.Discrete(2)) for k in (0, 1)]
    assert states[0].actor.apply_fn is states[1].actor.apply_fn
    assert states[0].actor.tx is states[1].actor.tx
    module = states[0].actor.apply_fn.__self__
    assert apply_function(type(module), (64, 64), 2, 0, module.dtype)[0] is module

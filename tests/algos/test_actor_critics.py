"""Promises that TD3 and SAC share: purity, one trace, both ends of an episode, refusals, and nothing that is not finite
lands."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import ACTIONS, OBSERVATIONS, S, random_batch
from gymnasium import spaces
from oracles import assert_equal

import jaxrl
from jaxrl import BadInput, SACConfig, TD3Config
from jaxrl.storage.files import load_tree, save_tree

B = 32


class Kernel(NamedTuple):
    name: str
    config: object

    def fresh(self, seed=0, actions=ACTIONS, **changes):
        init = getattr(jaxrl, f"{self.name}_init")
        return init(jax.random.key(seed), self.config.replace(**changes), OBSERVATIONS, actions)

    def update(self, state, rows):
        return UPDATES[self.name](state, rows)


UPDATES = {name: jax.jit(getattr(jaxrl, f"{name}_update")) for name in ("td3", "sac")}
KERNELS = [
    Kernel("td3", TD3Config(hidden_sizes=(16, 12), policy_delay=1)),
    Kernel("sac", SACConfig(hidden_sizes=(16, 12))),
]
kernels = pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)


batch = functools.partial(random_batch, size=B)


def learners(state):
    return state.actor, state.critic, getattr(state, "temperature", None)


@kernels
def test_the_same_state_and_batch_give_the_same_answer_and_the_state_stays(kernel):
    state = kernel.fresh()
    before = jax.tree.map(np.array, learners(state))
    (one, first), (two, second) = kernel.update(state, batch()), kernel.update(state, batch())
    assert_equal((learners(one), first), (learners(two), second))
    assert_equal(learners(state), before)
    assert not np.array_equal(*map(jax.random.key_data, (one.key, state.key)))


@kernels
def test_one_trace_for_a_thousand_updates(kernel):
    traces = []

    @jax.jit
    def counted(state, rows):
        traces.append(1)
        return getattr(jaxrl, f"{kernel.name}_update")(state, rows)

    state = kernel.fresh()
    for i in range(1000):
        state, _ = counted(state, batch(i % 7))
    state, _ = counted(state.replace_config(gamma=0.9, tau=0.1), batch())
    counted(kernel.fresh(seed=3, gamma=0.5), batch())
    assert len(traces) == 1
    assert int(state.num_updates) == 1001
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(learners(state)))


@kernels
def test_a_stored_state_continues_to_the_same_bits(kernel, tmp_path):
    state, _ = kernel.update(kernel.fresh(), batch())
    save_tree(tmp_path / "state.npz", state, {})
    restored, _ = load_tree(tmp_path / "state.npz", kernel.fresh(seed=9))
    assert_equal(learners(kernel.update(restored, batch(1))[0]), learners(kernel.update(state, batch(1))[0]))


@kernels
def test_the_state_can_be_donated_and_seeds_vmap(kernel):
    states = [kernel.fresh(seed, tau=tau) for seed, tau in enumerate((0.0, 0.5, 1.0))]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *states)
    together, _ = jax.jit(jax.vmap(UPDATES[kernel.name], in_axes=(0, None)))(stacked, batch())
    alone = [jax.jit(getattr(jaxrl, f"{kernel.name}_update"), donate_argnums=0)(state, batch())[0] for state in states]
    for i, state in enumerate(alone):
        for x, y in zip(jax.tree.leaves(learners(together)), jax.tree.leaves(learners(state)), strict=True):
            np.testing.assert_allclose(x[i], y, rtol=1e-4, atol=1e-5)


@kernels
@pytest.mark.parametrize("field", ["obs", "action", "reward", "next_obs"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nothing_that_is_not_finite_reaches_the_parameters(kernel, field, bad):
    rows = batch(terminated=np.zeros(B, bool))
    poisoned = getattr(rows, field).copy()
    poisoned[5] = bad
    state = kernel.fresh()
    # Targets away from the parameters: where they are equal, one that follows does not move.
    away = jax.tree.map(lambda x: x + 1.0, state.critic.target_params)
    state = state.replace(critic=state.critic.replace(target_params=away))
    new, metrics = kernel.update(state, rows._replace(**{field: poisoned}))
    assert metrics["skipped_updates"] == 1
    assert_equal(learners(new), learners(state))
    assert int(new.num_updates) == 1 and not np.array_equal(*map(jax.random.key_data, (new.key, state.key)))
    assert kernel.update(new, rows)[1]["skipped_updates"] == 0


@kernels
def test_rows_that_are_not_valid_weigh_nothing(kernel, float64):
    """With rows that differ where they are not valid, an update is the same; with none that is, nothing moves."""
    valid = np.arange(B) % 3 != 0
    rows = batch(valid=valid)
    spoilt = jax.tree.map(
        lambda x: np.where(valid.reshape(-1, *[1] * (x.ndim - 1)), x, np.nan if x.dtype == float else True), rows
    )
    (one, first), (two, second) = (
        kernel.update(kernel.fresh(), rows),
        kernel.update(kernel.fresh(), spoilt._replace(valid=valid)),
    )
    assert_equal((learners(one), first), (learners(two), second))
    state = kernel.fresh()
    none, metrics = kernel.update(state, batch(valid=np.zeros(B, bool)))
    assert_equal(learners(none), learners(state))
    assert metrics["skipped_updates"] == 0


@kernels
@pytest.mark.parametrize("flag, value", [("truncated", 10.0), ("terminated", 1.0)])
def test_values_bootstrap_through_a_truncation_and_not_through_a_termination(kernel, flag, value):
    """Reward 1 for ever is worth 1 / (1 - 0.9); cut by a termination it is worth 1, the negative control."""
    still = {"alpha_learning_rate": None, "initial_alpha": 0.0} if kernel.name == "sac" else {}
    state = kernel.fresh(gamma=0.9, tau=0.1, critic_learning_rate=3e-3, **still)
    yes, no = np.ones(B, bool), np.zeros(B, bool)
    ends = {"terminated": no, "truncated": no} | {flag: yes}
    for i in range(800):
        rows = batch(i)
        state, _ = kernel.update(
            state, rows._replace(reward=np.ones(B), obs=0 * rows.obs, next_obs=0 * rows.obs, **ends)
        )
    values = state.critic.apply_fn(state.critic.params, np.zeros((B, S), np.float32), batch().action.astype(np.float32))
    assert values.shape == (2, B)
    np.testing.assert_allclose(values, value, rtol=0.05)


@kernels
def test_gradients_are_bounded_by_their_norm_together(kernel):
    """Adam forgets a gradient's scale but for its epsilon, so the moments show the bound."""
    state, _ = kernel.update(kernel.fresh(max_grad_norm=1e-3), batch(reward=np.full(B, 1e3)))
    for learner in (state.actor, state.critic):
        moments = [x for x in jax.tree.leaves(learner.opt_state) if np.ndim(x) > 0]
        first = np.sqrt(sum(np.square(x).sum() for x in moments[: len(moments) // 2]))
        assert first == pytest.approx(1e-4, rel=1e-2)  # (1 - 0.9) times the bound.


@kernels
@pytest.mark.parametrize(
    "field, shape",
    [
        ("obs", (B, S, 1)),
        ("next_obs", (B, S + 1)),
        ("action", (B,)),
        ("reward", (B, 1)),
        ("valid", (1,)),
        ("action", (B, 3)),
    ],
)
def test_a_wrong_shape_is_named(kernel, field, shape):
    with pytest.raises(AssertionError, match=rf"batch\.{field}"):
        kernel.update(kernel.fresh(), batch(**{field: np.zeros(shape, bool if field == "valid" else float)}))


@kernels
@pytest.mark.parametrize(
    "changes, words",
    [
        ({"gamma": 1.5}, "gamma is 1.5: it must be between 0 and 1"),
        ({"tau": np.nan}, "tau is nan"),
        ({"actor_learning_rate": -1.0}, "actor_learning_rate is -1.0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm is 0.0: it must be positive and finite"),
        ({"max_grad_norm": "x"}, "max_grad_norm is 'x': it must be one number"),
        ({"gamma": None}, "gamma is None: it must be one number"),
        ({"tau": "0.5"}, "tau is '0.5': it must be one number"),
        ({"tau": 1j}, "tau is a complex: it must be one number"),
        ({"critic_learning_rate": np.ones(2)}, r"critic_learning_rate is a ndarray of shape \(2,\) and float64"),
        ({"hidden_sizes": ()}, "1 or more widths"),
        ({"hidden_sizes": (8.5, 8)}, "1 or more widths"),
        ({"hidden_sizes": ("a",)}, "1 or more widths"),
        ({"hidden_sizes": (True,)}, "1 or more widths"),
        ({"actions": None}, "action_space is None: it must be a Space"),
        ({"actions": spaces.Discrete(3)}, "Discrete is not supported by {name}, which takes Box actions; ppo"),
        ({"actions": spaces.Box(-np.inf, np.inf, (2,))}, "unbounded"),
        ({"actions": spaces.Box(0, 5, (2,), np.int32)}, "int32"),
    ],
)
def test_settings_that_cannot_be(kernel, changes, words):
    with pytest.raises(BadInput, match=words.format(name=kernel.name)):
        kernel.fresh(**changes)


@kernels
def test_replace_config_says_what_it_cannot(kernel):
    with pytest.raises(BadInput, match="hidden_sizes is no number"):
        kernel.fresh().replace_config(hidden_sizes=(3, 3))
    with pytest.raises(BadInput, match="max_grad_norm is no number of this state"):
        kernel.fresh().replace_config(max_grad_norm=1.0)
    with pytest.raises(BadInput, match=r"tau is 2\.0"):
        kernel.fresh().replace_config(tau=2.0)

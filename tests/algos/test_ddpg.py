"""The DDPG kernel: against an update written out in NumPy with gradients by hand, and against PyTorch where it is
installed; its promises, its refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from batches import ACTIONS, OBSERVATIONS, A, S, random_batch
from gymnasium import spaces

from jaxrl import BadInput, DDPGConfig, ddpg_act, ddpg_init, ddpg_update
from jaxrl.algos.ddpg import METRICS
from jaxrl.storage.files import load_tree, save_tree

B = 32
SMALL = DDPGConfig(hidden_sizes=(16, 12))
update = jax.jit(ddpg_update)


batch = functools.partial(random_batch, size=B)


def fresh(config=SMALL, seed=0, actions=ACTIONS):
    return ddpg_init(jax.random.key(seed), config, OBSERVATIONS, actions)


def assert_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def networks(state):
    actor, critic = state.actor, state.critic
    return actor.params, actor.target_params, actor.opt_state, critic.params, critic.target_params, critic.opt_state


# --- against an oracle ------------------------------------------------------------------------------------------------


def relu(x):
    return np.maximum(x, 0)


class Adam:
    """Kingma and Ba's algorithm 1 on a list of arrays, with L2 in the gradient."""

    def __init__(self, params, rate, decay=0.0):
        self.rate, self.decay, self.t = rate, decay, 0
        self.m, self.v = [np.zeros_like(p) for p in params], [np.zeros_like(p) for p in params]

    def step(self, params, grads):
        self.t += 1
        for i, gradient in enumerate(grads):
            g = gradient + self.decay * params[i]
            self.m[i] = 0.9 * self.m[i] + 0.1 * g
            self.v[i] = 0.999 * self.v[i] + 0.001 * g * g
            m, v = self.m[i] / (1 - 0.9**self.t), self.v[i] / (1 - 0.999**self.t)
            params[i] = params[i] - self.rate * m / (np.sqrt(v) + 1e-8)


class Oracle:
    """DDPG as the papers write it, one matrix [h, a] in the critic's second layer, gradients by the chain rule.

    Parameters are lists W1, b1, W2, b2, W3, b3; rows are samples.
    """

    def __init__(self, state, low, high):
        self.config = jax.tree.map(float, state.config)
        self.actor, self.critic = self.listed(state.actor.params), self.listed(state.critic.params)
        self.actor_target, self.critic_target = list(self.actor), list(self.critic)
        self.mid, self.half = (low + high) / 2, (high - low) / 2
        self.adam_actor = Adam(self.actor, self.config.actor_learning_rate)
        self.adam_critic = Adam(self.critic, self.config.critic_learning_rate, self.config.critic_weight_decay)

    @staticmethod
    def listed(params):
        layers = params["params"]
        return [np.asarray(layers[f"Dense_{i}"][part]) for i in range(3) for part in ("kernel", "bias")]

    def mu(self, params, s):
        w1, b1, w2, b2, w3, b3 = params
        h1 = relu(s @ w1 + b1)
        h2 = relu(h1 @ w2 + b2)
        t = np.tanh(h2 @ w3 + b3)
        return self.mid + self.half * t, (h1, h2, t)

    @staticmethod
    def q(params, s, a):
        w1, b1, w2, b2, w3, b3 = params
        h1 = relu(s @ w1 + b1)
        joined = np.concatenate([h1, a], axis=1)
        h2 = relu(joined @ w2 + b2)
        return (h2 @ w3 + b3)[:, 0], (h1, joined, h2)

    @staticmethod
    def q_backward(params, s, cache, dq):
        """Gradients of `sum(dq * Q)` with respect to the parameters and to the action."""
        _, _, w2, _, w3, _ = params
        h1, joined, h2 = cache
        d3 = dq[:, None]
        d2 = (d3 @ w3.T) * (h2 > 0)
        djoined = d2 @ w2.T
        width = h1.shape[1]
        d1 = djoined[:, :width] * (h1 > 0)
        grads = [s.T @ d1, d1.sum(0), joined.T @ d2, d2.sum(0), h2.T @ d3, d3.sum(0)]
        return grads, djoined[:, width:]

    def mu_backward(self, params, s, cache, da):
        _, _, w2, _, w3, _ = params
        h1, h2, t = cache
        d3 = da * self.half * (1 - t**2)
        d2 = (d3 @ w3.T) * (h2 > 0)
        d1 = (d2 @ w2.T) * (h1 > 0)
        return [s.T @ d1, d1.sum(0), h1.T @ d2, d2.sum(0), h2.T @ d3, d3.sum(0)]

    def update(self, rows):
        c, n = self.config, len(rows.reward)
        next_action, _ = self.mu(self.actor_target, rows.next_obs)
        next_value, _ = self.q(self.critic_target, rows.next_obs, next_action)
        y = rows.reward + c.gamma * (1 - rows.terminated) * next_value
        value, cache = self.q(self.critic, rows.obs, rows.action)
        grads, _ = self.q_backward(self.critic, rows.obs, cache, 2 * (value - y) / n)
        metrics = {
            "critic_loss": ((value - y) ** 2).mean(),
            "q_mean": value.mean(),
            "td_error_abs": np.abs(value - y).mean(),
            "grad_norm_critic": np.sqrt(sum((g**2).sum() for g in grads)),
            "skipped_updates": 0,
        }
        self.adam_critic.step(self.critic, grads)
        action, actor_cache = self.mu(self.actor, rows.obs)
        value, cache = self.q(self.critic, rows.obs, action)
        _, da = self.q_backward(self.critic, rows.obs, cache, np.full(n, -1 / n))
        grads = self.mu_backward(self.actor, rows.obs, actor_cache, da)
        self.adam_actor.step(self.actor, grads)
        metrics |= {"actor_loss": -value.mean(), "grad_norm_actor": np.sqrt(sum((g**2).sum() for g in grads))}
        for online, slow in ((self.actor, self.actor_target), (self.critic, self.critic_target)):
            slow[:] = [(1 - c.tau) * old + c.tau * new for new, old in zip(online, slow, strict=True)]
        return metrics


def in_float(rows, dtype):
    return jax.tree.map(lambda x: x.astype(dtype) if x.dtype == np.float64 else x, rows)


def test_a_hundred_updates_are_those_of_the_papers(tolerance):
    exact = tolerance < 1e-8
    state = fresh(DDPGConfig(hidden_sizes=(40, 30), actor_learning_rate=1e-3))
    dtype = state.config.gamma.dtype
    oracle = Oracle(jax.tree.map(lambda x: np.asarray(x, np.float64) if x.ndim else x, state), *bounds(ACTIONS))
    for i in range(100):
        rows = in_float(batch(i, size=64), dtype)
        state, metrics = update(state, rows)
        expected = oracle.update(in_float(rows, np.float64))
        assert set(metrics) == set(expected) == set(METRICS)
        for name, number in expected.items():
            np.testing.assert_allclose(
                metrics[name], number, rtol=1e-8 if exact else 1e-3, atol=1e-8 if exact else 1e-4
            )
    for params, wanted in (
        (state.actor.params, oracle.actor),
        (state.critic.params, oracle.critic),
        (state.actor.target_params, oracle.actor_target),
        (state.critic.target_params, oracle.critic_target),
    ):
        for ours, theirs in zip(Oracle.listed(params), wanted, strict=True):
            assert ours.dtype == dtype
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-8 if exact else 1e-4)


def bounds(space):
    return np.asarray(space.low, np.float64), np.asarray(space.high, np.float64)


def test_an_oracle_with_the_old_critic_or_decoupled_decay_would_be_noticed(float64):
    """Negative controls: the comparison above tells DDPG from what is often taken for it."""

    class OldCritic(Oracle):
        def update(self, rows):
            before = list(self.critic)
            metrics = super().update(rows)
            self.actor_loss_through_old = -self.q(before, rows.obs, self.mu(self.actor, rows.obs)[0])[0].mean()
            return metrics

    state = fresh()
    oracle = OldCritic(state, *bounds(ACTIONS))
    decoupled = Oracle(state, *bounds(ACTIONS))
    decoupled.adam_critic.decay = 0.0
    rows = batch()
    new, metrics = update(state, rows)
    oracle.update(rows)
    decoupled.update(rows)
    assert abs(float(metrics["actor_loss"]) - oracle.actor_loss_through_old) > 1e-5
    worst = max(
        np.abs(ours - theirs).max()
        for ours, theirs in zip(Oracle.listed(new.critic.params), decoupled.critic, strict=True)
    )
    assert worst > 1e-5


def test_torch_agrees(float64):
    """PyTorch's own autograd, Adam with weight_decay, and lerp, from the same parameters and batches."""
    torch = pytest.importorskip("torch")
    state = fresh(DDPGConfig(hidden_sizes=(40, 30)))

    def net(params, grad):
        return [torch.tensor(p, requires_grad=grad) for p in Oracle.listed(params)]

    actor, critic = net(state.actor.params, True), net(state.critic.params, True)
    actor_target, critic_target = net(state.actor.params, False), net(state.critic.params, False)
    low, high = (torch.tensor(x) for x in bounds(ACTIONS))
    actor_adam = torch.optim.Adam(actor, lr=1e-4)
    critic_adam = torch.optim.Adam(critic, lr=1e-3, weight_decay=1e-2)

    def mu(p, s):
        return (low + high) / 2 + (high - low) / 2 * torch.tanh(
            torch.relu(torch.relu(s @ p[0] + p[1]) @ p[2] + p[3]) @ p[4] + p[5]
        )

    def q(p, s, a):
        h = torch.cat([torch.relu(s @ p[0] + p[1]), a], dim=1)
        return (torch.relu(h @ p[2] + p[3]) @ p[4] + p[5])[:, 0]

    for i in range(100):
        rows = batch(i, size=64)
        s, a, r, s2, terminated = (torch.tensor(np.asarray(x)) for x in rows[:5])
        with torch.no_grad():
            y = r + 0.99 * (~terminated) * q(critic_target, s2, mu(actor_target, s2))
        critic_adam.zero_grad()
        torch.nn.functional.mse_loss(q(critic, s, a), y).backward()
        critic_adam.step()
        actor_adam.zero_grad()
        (-q(critic, s, mu(actor, s)).mean()).backward()
        actor_adam.step()
        with torch.no_grad():
            for online, slow in ((actor, actor_target), (critic, critic_target)):
                for new, old in zip(online, slow, strict=True):
                    old.lerp_(new, 0.005)
        state, _ = update(state, rows)
    for params, wanted in ((state.actor.params, actor), (state.critic.target_params, critic_target)):
        for ours, theirs in zip(Oracle.listed(params), wanted, strict=True):
            np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=0, atol=1e-8)


def test_adam_with_coupled_l2_follows_its_own_recurrence(float64):
    """With rewards, discount and a last layer of 0 the loss has no gradient: only the decay moves the critic."""
    state = fresh(SMALL.replace(gamma=0.0))
    last = state.critic.params["params"]["Dense_2"]
    params = {"params": state.critic.params["params"] | {"Dense_2": jax.tree.map(jnp.zeros_like, last)}}
    state = state.replace(critic=state.critic.replace(params=params))
    expected = Oracle.listed(params)
    adam = Adam(expected, 1e-3)
    for _ in range(20):
        state, metrics = update(state, batch(reward=np.zeros(B)))
        assert metrics["grad_norm_critic"] == 0
        adam.step(expected, [1e-2 * p for p in expected])
    for ours, theirs in zip(Oracle.listed(state.critic.params), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


# --- the targets ------------------------------------------------------------------------------------------------------


def test_tau_one_copies_and_tau_zero_keeps():
    state = fresh(SMALL.replace(tau=1.0))
    new, _ = update(state, batch())
    assert_equal(new.actor.target_params, new.actor.params)
    assert_equal(new.critic.target_params, new.critic.params)
    assert (
        np.abs(
            new.actor.target_params["params"]["Dense_1"]["kernel"] - state.actor.params["params"]["Dense_1"]["kernel"]
        ).max()
        > 0
    )
    new, _ = update(state.replace_config(tau=0.0), batch())
    assert_equal(new.actor.target_params, state.actor.target_params)
    assert_equal(new.critic.target_params, state.critic.target_params)


def test_n_updates_with_constant_parameters_have_a_closed_form(float64):
    """`theta'_n = theta + (1 - tau)^n (theta'_0 - theta)`, where nothing moves theta."""
    config = DDPGConfig(tau=0.05, actor_learning_rate=0.0, critic_learning_rate=0.0, hidden_sizes=(16, 12))
    state = fresh(config)
    start = {name: jax.tree.map(lambda x: x + 1.0, getattr(state, name).target_params) for name in ("actor", "critic")}
    state = state.replace(
        actor=state.actor.replace(target_params=start["actor"]),
        critic=state.critic.replace(target_params=start["critic"]),
    )
    for _ in range(30):
        state, _ = update(state, batch())
    for name in ("actor", "critic"):
        learner = getattr(state, name)
        for slow, online, first in zip(
            *map(jax.tree.leaves, (learner.target_params, learner.params, start[name])), strict=True
        ):
            np.testing.assert_allclose(slow, online + 0.95**30 * (first - online), rtol=1e-12)


def test_targets_are_copies_and_the_state_can_be_donated():
    state = fresh()
    assert_equal(state.actor.params, state.actor.target_params)
    donated = jax.jit(ddpg_update, donate_argnums=0)
    kept, _ = update(state, batch())
    new, _ = donated(state, batch())  # Raises if a parameter and its target share a buffer.
    assert_equal(networks(new), networks(kept))


# --- the two ends, and who may touch what -----------------------------------------------------------------------------


def test_terminated_cuts_the_bootstrap_and_truncated_does_not():
    yes, no = np.ones(B, bool), np.zeros(B, bool)
    losses = {}
    for terminated in (yes, no):
        for truncated in (yes, no):
            rows = batch(terminated=terminated, truncated=truncated)
            losses[terminated[0], truncated[0]] = float(update(fresh(), rows)[1]["critic_loss"])
    assert losses[True, True] == losses[True, False]
    assert losses[False, True] == losses[False, False] != losses[True, False]
    value = critic_value(fresh(), batch())
    np.testing.assert_allclose(losses[True, False], np.square(value - batch().reward).mean(), rtol=1e-5)


def critic_value(state, rows):
    return np.asarray(state.critic.apply_fn(state.critic.params, rows.obs, rows.action))


def test_where_terminated_the_next_observation_does_not_matter():
    rows = batch(terminated=np.arange(B) % 2 == 0)
    other = rows.next_obs.copy()
    other[::2] = np.nan
    a, _ = update(fresh(), rows)
    b, metrics = update(fresh(), rows._replace(next_obs=other))
    assert_equal(networks(a), networks(b))
    assert metrics["skipped_updates"] == 0


def test_the_actors_loss_never_touches_the_critic():
    """With a critic that does not step, an update leaves it bit for bit as it was, however the actor moves."""
    state = fresh(SMALL.replace(critic_learning_rate=0.0, actor_learning_rate=0.1))
    new, _ = update(state, batch())
    assert_equal(new.critic.params, state.critic.params)
    assert not np.array_equal(
        new.actor.params["params"]["Dense_2"]["bias"], state.actor.params["params"]["Dense_2"]["bias"]
    )
    # And the critic's step is the same whatever the actor's rate.
    slow, _ = update(fresh(SMALL.replace(actor_learning_rate=0.0)), batch())
    fast, _ = update(fresh(SMALL.replace(actor_learning_rate=0.1)), batch())
    assert_equal((slow.critic.params, slow.critic.opt_state), (fast.critic.params, fast.critic.opt_state))


def test_rows_that_are_not_valid_weigh_nothing(float64):
    rows = batch()
    valid = np.arange(B) % 3 != 0
    masked = jax.tree.map(
        lambda x: np.where(valid.reshape(-1, *[1] * (x.ndim - 1)), x, np.nan if x.dtype == float else True), rows
    )
    a, ours = update(fresh(), masked._replace(valid=valid))
    b, theirs = update(fresh(), jax.tree.map(lambda x: x[valid], rows))
    for x, y in zip(jax.tree.leaves((networks(a), ours)), jax.tree.leaves((networks(b), theirs)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12)
    state = fresh()
    none, metrics = update(state, rows._replace(valid=np.zeros(B, bool)))
    assert_equal(networks(none), networks(state))
    assert metrics["skipped_updates"] == 0


@pytest.mark.parametrize("field", ["obs", "action", "reward", "next_obs"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nothing_that_is_not_finite_reaches_the_parameters(field, bad):
    rows = batch(terminated=np.zeros(B, bool))
    poisoned = getattr(rows, field).copy()
    poisoned[5] = bad
    state = fresh()
    new, metrics = update(state, rows._replace(**{field: poisoned}))
    assert metrics["skipped_updates"] == 1
    assert_equal(networks(new), networks(state))
    healed, metrics = update(new, rows)
    assert metrics["skipped_updates"] == 0
    assert_equal(networks(healed), networks(update(state, rows)[0]))


# --- initialisation and acting ----------------------------------------------------------------------------------------


def test_layers_and_where_they_start():
    state = ddpg_init(jax.random.key(0), DDPGConfig(), spaces.Box(-1, 1, (17,)), spaces.Box(-1, 1, (6,)))
    shapes = {"actor": [(17, 400), (400, 300), (300, 6)], "critic": [(17, 400), (406, 300), (300, 1)]}
    for name, sizes in shapes.items():
        layers = getattr(state, name).params["params"]
        assert [layers[f"Dense_{i}"]["kernel"].shape for i in range(3)] == sizes
        for i, (fan_in, _) in enumerate(sizes):
            for part in ("kernel", "bias"):
                x = np.asarray(layers[f"Dense_{i}"][part]) * np.sqrt(fan_in)
                assert np.abs(x).max() <= 1 + 1e-6
                if x.size > 250:  # A uniform's extremes and standard deviation, 1 / sqrt(3).
                    assert np.abs(x).max() > 0.98
                    assert abs(x.std() - 3**-0.5) < 0.06
                    assert abs(x.mean()) < 0.1
    assert [
        float(getattr(state.config, n)) for n in ("gamma", "tau", "actor_learning_rate", "critic_learning_rate")
    ] == (pytest.approx([0.99, 0.005, 1e-4, 1e-3]))
    assert float(state.config.critic_weight_decay) == pytest.approx(1e-2)


@pytest.mark.parametrize(
    "low, high", [((-2.0,), (2.0,)), ((-0.4, -0.4), (0.4, 0.4)), ((-1.0, 0.1, 5.0), (3.0, 0.7, 5.5))]
)
def test_actions_fill_their_bounds_and_stay_within(low, high):
    space = spaces.Box(np.array(low, np.float32), np.array(high, np.float32))
    state = ddpg_init(jax.random.key(1), SMALL, OBSERVATIONS, space)
    obs = np.random.default_rng(0).normal(size=(500, S)).astype(np.float32)
    middle = np.asarray(ddpg_act(state, obs))
    assert middle.shape == (500, len(low))
    wide = np.asarray(ddpg_act(state, obs * 1e6))
    assert all(space.contains(action) for action in np.concatenate([middle, wide]))
    at_a_bound = np.isclose(wide, space.low) | np.isclose(wide, space.high)
    assert at_a_bound.mean() > 0.95
    assert ((middle - space.low) / (space.high - space.low)).mean() == pytest.approx(0.5, abs=0.2)
    assert_equal(ddpg_act(state, obs), middle)


# --- promises ---------------------------------------------------------------------------------------------------------


def test_pure_and_one_trace_for_a_thousand_updates():
    traces = []

    @jax.jit
    def counted(state, rows):
        traces.append(1)
        return ddpg_update(state, rows)

    state = first = fresh()
    again, _ = counted(first, batch())
    for i in range(1000):
        state, _ = counted(state, batch(i % 7))
        if i == 0:
            assert_equal(networks(again), networks(state))
    state = state.replace_config(gamma=0.9, tau=0.1, critic_weight_decay=0.0)
    state, _ = counted(state, batch())
    other, _ = counted(fresh(DDPGConfig(gamma=0.5, hidden_sizes=(16, 12)), seed=3), batch())
    assert len(traces) == 1
    assert int(state.num_updates) == 1001
    assert np.isfinite(np.concatenate([np.ravel(x) for x in jax.tree.leaves(networks(other))])).all()


def test_a_stored_state_continues_without_a_new_trace(tmp_path):
    traces = []

    @jax.jit
    def counted(state, rows):
        traces.append(1)
        return ddpg_update(state, rows)

    state, _ = counted(fresh(), batch())
    save_tree(tmp_path / "state.npz", state, {})
    restored, _ = load_tree(tmp_path / "state.npz", fresh(seed=9))
    assert_equal(networks(counted(restored, batch(1))[0]), networks(counted(state, batch(1))[0]))
    assert len(traces) == 1


def test_seeds_and_numbers_vmap():
    keys = jax.random.split(jax.random.key(0), 3)
    states = [
        ddpg_init(key, SMALL.replace(tau=tau), OBSERVATIONS, ACTIONS)
        for key, tau in zip(keys, (0.0, 0.5, 1.0), strict=True)
    ]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *states)
    together, _ = jax.jit(jax.vmap(ddpg_update, in_axes=(0, None)))(stacked, batch())
    for i, state in enumerate(states):
        alone, _ = update(state, batch())
        for x, y in zip(jax.tree.leaves(networks(together)), jax.tree.leaves(networks(alone)), strict=True):
            np.testing.assert_allclose(x[i], y, rtol=1e-4, atol=1e-6)


def test_polyak_is_optaxs(float64):
    state = fresh()
    new, _ = update(state, batch())
    expected = optax.incremental_update(new.critic.params, state.critic.target_params, 0.005)
    for x, y in zip(jax.tree.leaves(new.critic.target_params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field, shape",
    [
        ("obs", (B, S, 1)),
        ("next_obs", (B, S + 1)),
        ("action", (B - 1, A)),
        ("reward", (B, 1)),
        ("terminated", (B, 1)),
        ("truncated", (B + 1,)),
        ("valid", (1,)),
    ],
)
def test_a_wrong_shape_is_named(field, shape):
    with pytest.raises(AssertionError, match=rf"batch\.{field}"):
        ddpg_update(fresh(), batch(**{field: np.zeros(shape, bool)}))


def test_another_width_is_named():
    with pytest.raises(AssertionError, match=r"batch\.obs must be \(B, S\) with S = 3"):
        ddpg_update(fresh(), batch(obs=np.zeros((B, 4)), next_obs=np.zeros((B, 4))))
    with pytest.raises(AssertionError, match=r"batch\.action must be \(B, A\) with A = 2"):
        ddpg_update(fresh(), batch(action=np.zeros((B, 3))))


def test_actions_without_their_axis_are_refused():
    with pytest.raises(AssertionError, match=r"batch\.action must be \(B, A\)"):
        ddpg_update(fresh(), batch(action=np.zeros(B)))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"gamma": 1.5}, "gamma is 1.5: it must be between 0 and 1"),
        ({"tau": -0.1}, "tau is -0.1"),
        ({"tau": np.nan}, "tau is nan"),
        ({"actor_learning_rate": -1.0}, "actor_learning_rate is -1.0"),
        ({"critic_weight_decay": np.inf}, "critic_weight_decay is inf"),
        ({"hidden_sizes": (64,)}, "2 or more widths"),
        ({"hidden_sizes": (64, 0)}, "widths of at least 1"),
    ],
)
def test_numbers_that_cannot_be(changes, words):
    with pytest.raises(BadInput, match=words):
        fresh(SMALL.replace(**changes))


def with_nan():
    space = spaces.Box(-1, 1, (2,))  # Gymnasium's constructor refuses NaN; a subclass or an assignment does not.
    space.low = np.array([-1, np.nan], np.float32)
    return space


@pytest.mark.parametrize(
    "space, words",
    [
        (
            spaces.Discrete(3),
            "Discrete is not supported by ddpg, which takes Box actions; ppo and ppo_kl take Discrete",
        ),
        (spaces.MultiBinary(3), "MultiBinary is not supported"),
        (spaces.Box(-np.inf, np.inf, (2,)), "unbounded"),
        (with_nan(), "nan"),
        (spaces.Box(-1, 1, (0,)), "shape"),
        (spaces.Box(0, 5, (2,), np.int32), "int32"),
        (spaces.Box(1, 1, (2,)), "not below"),
        (spaces.Box(-3e38, 3e38, (2,)), "must be smaller"),
    ],
)
def test_action_spaces_that_cannot_be(space, words):
    with pytest.raises(BadInput, match=words):
        fresh(actions=space)


def test_replace_config_says_what_it_cannot():
    with pytest.raises(BadInput, match="hidden_sizes is no number"):
        fresh().replace_config(hidden_sizes=(3, 3))
    with pytest.raises(BadInput, match=r"tau is 2\.0"):
        fresh().replace_config(tau=2.0)
    with pytest.raises(BadInput, match="actor_learning_rate is inf"):
        fresh().replace_config(actor_learning_rate=np.inf)

"""The PPO kernel: against an update written out in NumPy and torch-free finite steps, its promises, its refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from gymnasium import spaces

from jaxrl import BadInput, PPOConfig, Transition, gae, kl_divergence, ppo_act, ppo_init, ppo_update
from jaxrl.algos.ppo import METRICS, ppo_update_actor, ppo_update_critic
from jaxrl.storage.files import load_tree, save_tree

T, N, S = 8, 4, 3
OBSERVATIONS = spaces.Box(-np.inf, np.inf, (S,))
DISCRETE, BOX = spaces.Discrete(3), spaces.Box(-1.0, 2.0, (2,))
update = jax.jit(ppo_update)
SMALL = PPOConfig(
    num_epochs=2, num_minibatches=4, hidden_sizes=(16,), actor_learning_rate=1e-3, critic_learning_rate=2e-3
)


def rollout(space=DISCRETE, seed=0, steps=T, **changes):
    rng = np.random.default_rng(seed)
    shape = (steps, N)
    action = rng.integers(0, 3, shape) if space is DISCRETE else rng.normal(size=(*shape, 2)).astype(np.float32)
    return Transition(
        obs=rng.normal(size=(*shape, S)).astype(np.float32),
        action=action,
        reward=rng.normal(size=shape).astype(np.float32),
        next_obs=rng.normal(size=(*shape, S)).astype(np.float32),
        terminated=rng.random(shape) < 0.1,
        truncated=rng.random(shape) < 0.1,
    )._replace(**changes)


def fresh(config=SMALL, space=DISCRETE, seed=0):
    return ppo_init(jax.random.key(seed), config, OBSERVATIONS, space)


def leaves(tree):
    return [
        np.asarray(jax.random.key_data(x)) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x)
        for x in jax.tree.leaves(tree)
    ]


def assert_equal(a, b):
    for x, y in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def assert_close(a, b, tolerance):
    for x, y in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def learned(state):
    return state.actor.params, state.critic.params, state.actor.opt_state, state.critic.opt_state, state.kl_coef


# --- against an oracle ------------------------------------------------------------------------------------------------


class Adam:
    """Kingma and Ba's algorithm 1 on a dict of NumPy arrays."""

    def __init__(self, rate):
        self.rate, self.t, self.m, self.v = rate, 0, {}, {}

    def step(self, params, grads, max_norm):
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        scale = min(1.0, max_norm / norm)
        self.t += 1
        for name, gradient in grads.items():
            g = gradient * scale
            self.m[name] = 0.9 * self.m.get(name, 0) + 0.1 * g
            self.v[name] = 0.999 * self.v.get(name, 0) + 0.001 * g**2
            m, v = self.m[name] / (1 - 0.9**self.t), self.v[name] / (1 - 0.999**self.t)
            params[name] = params[name] - self.rate * m / (np.sqrt(v) + 1e-5)


def numpy_params(params, log_std=None):
    """Our parameter tree as w1, b1, w2, b2 of a network with one hidden layer."""
    tree = jax.tree.map(lambda x: np.array(x, np.float64), params)["params"]
    first, last = tree["mlp"]["Dense_0"], tree["mlp"]["Dense_1"]
    named = {"w1": first["kernel"], "b1": first["bias"], "w2": last["kernel"], "b2": last["bias"]}
    return named | ({"log_std": tree["log_std"]} if "log_std" in tree else {})


def forward(p, x):
    hidden = np.tanh(x @ p["w1"] + p["b1"])
    return hidden, hidden @ p["w2"] + p["b2"]


def backward(p, x, hidden, d_out):
    d_hidden = (d_out @ p["w2"].T) * (1 - hidden**2)
    return {"w1": x.T @ d_hidden, "b1": d_hidden.sum(0), "w2": hidden.T @ d_out, "b2": d_out.sum(0)}


def numpy_update(state, data, config):
    """One full-batch PPO update per epoch for Gaussian actions, each gradient derived by hand."""
    actor, critic = numpy_params(state.actor.params), numpy_params(state.critic.params)
    adam_actor, adam_critic = Adam(config.actor_learning_rate), Adam(config.critic_learning_rate)
    obs, next_obs = (np.asarray(x, np.float64) for x in (data.obs, data.next_obs))
    value, next_value = forward(critic, obs)[1][..., 0], forward(critic, next_obs)[1][..., 0]
    advantage, tail = np.zeros((T, N)), np.zeros(N)
    for t in reversed(range(T)):
        delta = data.reward[t] + config.gamma * np.where(data.terminated[t], 0, next_value[t]) - value[t]
        tail = delta + config.gamma * config.gae_lambda * np.where(data.terminated[t] | data.truncated[t], 0, tail)
        advantage[t] = tail
    returns, count = (advantage + value).reshape(-1), T * N
    x, action = obs.reshape(count, S), np.asarray(data.action, np.float64).reshape(count, 2)
    a = advantage.reshape(-1)
    a = (a - a.mean()) / (a.std() + 1e-8)
    old_mean, old_log_std = forward(actor, x)[1], actor["log_std"].copy()

    def log_prob(mean, log_std):
        return (-0.5 * ((action - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)).sum(-1)

    old_log_prob, beta = log_prob(old_mean, old_log_std), config.kl_coef or 0.0
    for _ in range(config.num_epochs):
        hidden, mean = forward(actor, x)
        log_std = actor["log_std"]
        var, old_var = np.exp(2 * log_std), np.exp(2 * old_log_std)
        ratio = np.exp(log_prob(mean, log_std) - old_log_prob)
        bound = np.zeros(count, bool)
        if config.clip_eps is not None:
            bound = ((a > 0) & (ratio > 1 + config.clip_eps)) | ((a < 0) & (ratio < 1 - config.clip_eps))
        d_log_prob = -np.where(bound, 0, ratio * a) / count
        d_mean = d_log_prob[:, None] * (action - mean) / var + beta * (mean - old_mean) / var / count
        d_log_std = (d_log_prob[:, None] * (((action - mean) ** 2) / var - 1)).sum(0)
        d_log_std = d_log_std + beta * (1 - (old_var + (old_mean - mean) ** 2) / var).mean(0) - config.ent_coef
        grads = backward(actor, x, hidden, d_mean) | {"log_std": d_log_std}
        hidden_v, v = forward(critic, x)
        critic_grads = backward(critic, x, hidden_v, (v - returns[:, None]) / count)
        adam_actor.step(actor, grads, config.max_grad_norm)
        adam_critic.step(critic, critic_grads, config.max_grad_norm)
    mean, log_std = forward(actor, x)[1], actor["log_std"]
    var, old_var = np.exp(2 * log_std), np.exp(2 * old_log_std)
    kl = (log_std - old_log_std + (old_var + (old_mean - mean) ** 2) / (2 * var) - 0.5).sum(-1).mean()
    return actor, critic, kl


@pytest.mark.parametrize(
    "changes",
    [{}, {"clip_eps": None, "kl_coef": 3.0}, {"kl_coef": 0.5, "ent_coef": 0.1}, {"clip_eps": 0.02}],
    ids=["clip", "penalty", "clip+penalty+entropy", "clip that binds"],
)
def test_update_equals_one_derived_by_hand(float64, changes):
    config = SMALL.replace(num_epochs=10, num_minibatches=1, max_grad_norm=0.3, **changes)
    state, data = fresh(config, BOX), rollout(BOX)
    actor, critic, kl = numpy_update(state, data, config)
    new, metrics = update(state, data)
    assert_close(numpy_params(new.actor.params), actor, 1e-9)
    assert_close(numpy_params(new.critic.params), critic, 1e-9)
    np.testing.assert_allclose(metrics["kl"], kl, rtol=1e-8)
    assert jax.tree.leaves(new.actor.params)[0].dtype == jnp.float64


# --- what it promises -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [DISCRETE, BOX], ids=["discrete", "box"])
def test_metrics_are_scalars_of_the_promised_names_and_kl_is_exact(space):
    state, data = fresh(space=space), rollout(space)
    new, metrics = update(state, data)
    assert set(metrics) == set(METRICS)
    assert all(value.shape == () and np.isfinite(value) for value in metrics.values())
    exact = kl_divergence(ppo_act(state, data.obs), ppo_act(new, data.obs)).mean()
    np.testing.assert_allclose(metrics["kl"], exact, rtol=1e-4)
    assert metrics["gradient_steps"] == 8
    assert new.num_updates == 1


def test_pure_and_the_input_is_not_consumed():
    state, data = fresh(), rollout()
    before = leaves(state)
    first, second = jax.jit(ppo_update)(state, data), jax.jit(ppo_update)(state, data)
    assert_equal(first, second)
    assert_equal(before, leaves(state))
    assert not np.array_equal(leaves(first[0].key)[0], leaves(state.key)[0])


def test_jit_equals_no_jit():
    state, data = fresh(SMALL.replace(num_epochs=1, num_minibatches=2)), rollout()
    with jax.disable_jit():
        plain = ppo_update(state, data)
    assert_close(jax.jit(ppo_update)(state, data), plain, 1e-6)


def test_the_ratio_before_the_first_step_is_1():
    for space in (DISCRETE, BOX):
        state = fresh(SMALL.replace(num_epochs=1, num_minibatches=1, normalize_advantages=False), space)
        data = rollout(space)
        _, metrics = update(state, data)
        assert metrics["clip_fraction"] == 0
        assert abs(metrics["approx_kl"]) < 1e-6
        ratio = jnp.exp(
            ppo_act(state, data.obs[:2]).log_prob(data.action[:2]) - ppo_act(state, data.obs).log_prob(data.action)[:2]
        )
        np.testing.assert_allclose(ratio, 1, atol=1e-6)


def test_one_trace_for_1000_updates_two_seeds_a_restored_state_and_changed_numbers(tmp_path):
    traces = []

    @jax.jit
    def counted_update(state, data):
        traces.append(1)
        return ppo_update(state, data)[0]

    config = PPOConfig(num_epochs=1, num_minibatches=2, hidden_sizes=(4,), kl_coef=1.0, kl_target=0.01)
    state, data = fresh(config), rollout(steps=2)
    for _ in range(1000):
        state = counted_update(state, data)
    other = fresh(config, seed=1)
    assert jax.tree.structure(other) == jax.tree.structure(state)
    counted_update(other, data)
    save_tree(tmp_path / "state.npz", state, {})
    restored, _ = load_tree(tmp_path / "state.npz", fresh(config, seed=2))
    assert_equal(restored, state)
    counted_update(restored, data)
    counted_update(state.replace_config(gamma=0.9, clip_eps=0.1, actor_learning_rate=1e-5, kl_coef=2.0), data)
    assert len(traces) == 1


def test_states_stack_and_numbers_sweep_under_vmap():
    data, rates = rollout(), jnp.array([1e-4, 1e-3, 1e-2])
    states = [fresh().replace_config(actor_learning_rate=rate) for rate in rates]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *states)
    swept, metrics = jax.vmap(ppo_update, in_axes=(0, None))(stacked, data)
    assert (np.diff(metrics["kl"]) > 0).all()
    for i, state in enumerate(states):
        assert_close(jax.tree.map(lambda x, i=i: x[i], swept.actor.params), update(state, data)[0].actor.params, 1e-5)


def test_a_changed_number_acts_and_a_static_one_is_refused():
    state, data = fresh(SMALL.replace(kl_coef=1.0)), rollout()
    _, before = update(state, data)
    frozen, after = update(state.replace_config(actor_learning_rate=0.0), data)
    assert before["kl"] > 0 == after["kl"]
    assert_equal(frozen.actor.params, state.actor.params)
    assert state.replace_config(kl_coef=3.0).kl_coef == 3
    for name, number in {"num_epochs": 3, "kl_target": 0.1, "gama": 0.9, "gamma": 2.0}.items():
        with pytest.raises(BadInput, match=name):
            state.replace_config(**{name: number})


@pytest.mark.parametrize("field", ["reward", "obs", "next_obs"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_rejects_the_whole_rollout(field, bad):
    config = SMALL.replace(kl_coef=1.0, kl_target=0.01)
    state, data = fresh(config), rollout()
    state, _ = update(state, data)  # A state with momentum in its optimisers.
    spoilt = getattr(data, field).copy()
    spoilt[3, 1] = bad
    if field == "next_obs":  # It counts unless the step terminated.
        data = data._replace(terminated=np.zeros((T, N), bool))
    new, metrics = update(state, data._replace(**{field: spoilt}))
    if field != "reward" and np.isinf(
        bad
    ):  # tanh makes something finite of an infinite observation, or of its weights.
        assert np.isfinite(np.concatenate([x.ravel() for x in leaves(new.actor.params)])).all()
        return
    assert_equal(learned(new), learned(state))
    assert metrics["skipped_updates"] == 8
    assert metrics["gradient_steps"] == 0
    after, _ = update(new, data)  # And nothing lingers.
    assert np.isfinite(np.concatenate([x.ravel() for x in leaves(after.actor.params)])).all()


def test_a_gradient_that_is_not_finite_skips_its_step_only():
    data = rollout(BOX)
    data.obs[0, 0, 0] = np.inf  # tanh makes something finite of it; the gradient of one row is not.
    state = fresh(space=BOX)
    new, metrics = update(state, data)
    assert metrics["skipped_updates"] == 2  # One minibatch of each epoch.
    assert metrics["gradient_steps"] == 6
    for params, before in ((new.actor.params, state.actor.params), (new.critic.params, state.critic.params)):
        flat = np.concatenate([x.ravel() for x in leaves(params)])
        assert np.isfinite(flat).all()
        assert not np.array_equal(flat, np.concatenate([x.ravel() for x in leaves(before)]))
    assert new.actor.step == new.critic.step == 6


@pytest.mark.parametrize("space", [DISCRETE, BOX], ids=["discrete", "box"])
def test_masked_rows_weigh_nothing(space):
    """Steps 2, 5 and 6 of a longer rollout are no transitions: the update is that of the rollout without them."""
    config = SMALL.replace(num_minibatches=1, num_epochs=5, kl_coef=1.0, kl_target=1e-4, ent_coef=0.01)
    data = rollout(space)
    rows = [0, 1, 3, 4, 7, 8, 9, 10]

    def spread(x):
        if x is None:
            return None
        long = np.full((11, *x.shape[1:]), np.nan if x.dtype.kind == "f" else 1, x.dtype)
        long[rows] = x
        return long

    valid = np.zeros((11, N), bool)
    valid[rows] = True
    masked = Transition(*map(spread, data))._replace(valid=valid)
    with_mask, without = update(fresh(config, space), masked), update(fresh(config, space), data)
    assert_close(with_mask, without, 2e-6)
    unmasked, _ = update(fresh(config, space), masked._replace(valid=np.ones((11, N), bool)))
    assert unmasked.actor.step == 0  # The negative control: counted, the NaN in those rows rejects the rollout.


def test_a_rollout_without_a_single_valid_row_changes_nothing():
    state = fresh(SMALL.replace(kl_coef=1.0, kl_target=0.01))
    new, metrics = update(state, rollout(valid=np.zeros((T, N), bool)))
    assert_equal(learned(new), learned(state))
    assert metrics["gradient_steps"] == metrics["skipped_updates"] == 0


# --- each option acts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"clip_eps": None}, {"clip_eps": 0.01}, {"kl_coef": 5.0}, {"value_clip_eps": 0.01}, {"ent_coef": 0.5},
        {"max_grad_norm": None}, {"max_grad_norm": 1e-3}, {"normalize_advantages": False}, {"stop_kl": 1e-6},
        {"gamma": 0.5}, {"gae_lambda": 0.1}, {"num_epochs": 3}, {"num_minibatches": 2}, {"hidden_sizes": (8,)},
        {"anneal_learning_rate": True, "anneal_updates": 2}, {"anneal_clip": True, "anneal_updates": 2},
    ],
    ids=str,
)  # fmt: skip
def test_an_option_that_is_set_acts(changes):
    config = SMALL.replace(clip_eps=0.1, max_grad_norm=0.5, actor_learning_rate=3e-2, critic_learning_rate=3e-2)
    data = rollout()

    def two_updates(config):
        state, _ = update(fresh(config), data)
        state, _ = update(state, rollout(seed=1))
        return np.concatenate([x.ravel() for x in leaves((state.actor.params, state.critic.params))])

    plain, changed = two_updates(config), two_updates(config.replace(**changes))
    assert plain.shape != changed.shape or not np.allclose(plain, changed, rtol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [{"kl_coef": 0.0}, {"clip_eps": 1e9}, {"stop_kl": 1e9}, {"value_clip_eps": 1e9}, {"max_grad_norm": 1e9}],
    ids=str,
)
def test_an_option_at_its_limit_equals_the_option_off(changes):
    off = SMALL.replace(clip_eps=None, max_grad_norm=None)
    a, b = update(fresh(off), rollout())[0], update(fresh(off.replace(**changes)), rollout())[0]
    assert_close((a.actor.params, a.critic.params), (b.actor.params, b.critic.params), 1e-6)


def test_early_stop_takes_no_step_once_the_policy_has_moved():
    config = SMALL.replace(num_epochs=10, actor_learning_rate=1e-2)
    _, free = update(fresh(config), rollout())
    new, stopped = update(fresh(config.replace(stop_kl=1e-3)), rollout())
    assert stopped["gradient_steps"] < free["gradient_steps"] == 40
    assert new.actor.step == new.critic.step == stopped["gradient_steps"] > 0
    assert stopped["skipped_updates"] == 0
    assert stopped["kl"] < free["kl"]


def test_early_stop_does_not_stop_at_what_it_must_skip():
    data = rollout(BOX)
    data.obs[0, 0, 0] = np.inf
    _, metrics = update(fresh(SMALL.replace(stop_kl=1e9), BOX), data)
    assert (metrics["gradient_steps"], metrics["skipped_updates"]) == (6, 2)


def test_metrics_of_one_step_are_what_their_names_say(float64):
    """The mean over two steps, less the first, is the second's; rows that are not valid are left out."""
    config = SMALL.replace(num_epochs=2, num_minibatches=1, clip_eps=0.05, actor_learning_rate=5e-2, max_grad_norm=None)
    valid = np.random.default_rng(1).random((T, N)) < 0.6
    state, data = fresh(config), rollout(valid=valid)
    _, metrics = update(state, data)
    one_step, first = update(fresh(config.replace(num_epochs=1)), data)
    old, new = (np.asarray(ppo_act(s, data.obs).log_prob(data.action))[valid] for s in (state, one_step))
    second = {name: 2 * metrics[name] - first[name] for name in metrics}  # The mean of both steps, less the first.
    ratio = np.exp(new - old)
    np.testing.assert_allclose(second["approx_kl"], (ratio - 1 - (new - old)).mean(), rtol=1e-6)
    np.testing.assert_allclose(second["clip_fraction"], (np.abs(ratio - 1) > 0.05).mean(), rtol=1e-6)
    assert 0 < second["clip_fraction"] < 1
    entropy = np.asarray(ppo_act(one_step, data.obs).entropy())[valid].mean()
    np.testing.assert_allclose(second["entropy"], entropy, rtol=1e-6)

    def losses(params):
        value = state.critic.apply_fn(params, data.obs)
        return 0.5 * jnp.where(valid, (value - returns) ** 2, 0).sum() / valid.sum()

    value, next_value = (state.critic.apply_fn(state.critic.params, x) for x in (data.obs, data.next_obs))
    flags = data.terminated, data.truncated, config.gamma, config.gae_lambda, jnp.asarray(valid)
    returns = gae(jnp.asarray(data.reward, float), value, next_value, *flags) + value
    np.testing.assert_allclose(first["value_loss"], losses(state.critic.params), rtol=1e-6)
    np.testing.assert_allclose(
        first["grad_norm_critic"], optax.tree.norm(jax.grad(losses)(state.critic.params)), rtol=1e-6
    )
    assert abs(first["grad_norm_actor"] / first["grad_norm_critic"] - 1) > 0.01


def test_annealing_the_clip_follows_the_update_counter():
    config = SMALL.replace(clip_eps=0.2, anneal_clip=True, anneal_updates=4, actor_learning_rate=3e-2)
    state = fresh(config).replace(num_updates=jnp.asarray(3, jnp.int32))
    plain = fresh(config.replace(anneal_clip=False, anneal_updates=None, clip_eps=0.05))
    assert_close(update(state, rollout())[0].actor.params, update(plain, rollout())[0].actor.params, 1e-6)


def test_annealing_follows_the_update_counter_to_0():
    config = SMALL.replace(anneal_learning_rate=True, anneal_updates=4)
    state, rates = fresh(config), []
    for seed in range(6):
        before = state
        state, _ = update(state, rollout(seed=seed))
        rates.append([float(x.opt_state.hyperparams["learning_rate"]) for x in (state.actor, state.critic)])
    np.testing.assert_allclose(rates, np.outer([1, 0.75, 0.5, 0.25, 0, 0], [1e-3, 2e-3]), rtol=1e-6)
    assert_equal(state.actor.params, before.actor.params)


def test_kl_coef_adapts_once_per_update_and_within_bounds():
    def coef_after(kl_coef, kl_target, rate):
        config = SMALL.replace(clip_eps=None, kl_coef=kl_coef, kl_target=kl_target, actor_learning_rate=rate)
        new, metrics = update(fresh(config), rollout())
        assert metrics["kl_coef"] == new.kl_coef
        return float(new.kl_coef)

    assert coef_after(1.0, 1e-9, 1e-2) == 2
    assert coef_after(1.0, 1e3, 1e-2) == 0.5
    assert coef_after(1.5e-4, 1e3, 1e-2) == pytest.approx(1e-4)
    assert coef_after(9e3, 1e-12, 1e-2) == pytest.approx(1e4)
    assert coef_after(1.0, None, 1e-2) == 1


def test_a_larger_penalty_moves_the_policy_less():
    kls = [
        update(fresh(SMALL.replace(clip_eps=None, kl_coef=c, num_epochs=20, actor_learning_rate=1e-2)), rollout())[1][
            "kl"
        ]
        for c in (0.0, 1.0, 10.0)
    ]
    assert kls[0] > kls[1] > kls[2] > 0


# --- initial state and refusals ---------------------------------------------------------------------------------------


def test_initial_networks():
    state = fresh(PPOConfig(initial_log_std=-0.5), BOX)
    policy = ppo_act(state, jnp.ones((5, S)))
    assert abs(policy.mean).max() < 0.1
    np.testing.assert_allclose(policy.log_std, -0.5)
    kernel = state.critic.params["params"]["mlp"]["Dense_1"]["kernel"]
    np.testing.assert_allclose(kernel @ kernel.T, 2 * np.eye(64), atol=1e-5)
    assert all(
        not leaf.weak_type for leaf in jax.tree.leaves(state) if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    )


def test_discrete_actions_that_start_elsewhere():
    state = ppo_init(jax.random.key(0), SMALL, OBSERVATIONS, spaces.Discrete(3, start=-1))
    policy = ppo_act(state, np.zeros((500, S), np.float32))
    assert set(policy.sample(np.random.default_rng(0))) == {-1, 0, 1}
    _, shifted = update(state, rollout(action=rollout().action - 1))
    _, plain = update(fresh(), rollout())
    np.testing.assert_allclose(shifted["policy_loss"], plain["policy_loss"], atol=1e-6)


@pytest.mark.parametrize("field", ["obs", "action", "reward", "next_obs", "terminated", "truncated", "valid"])
def test_a_wrong_shape_names_the_field(field):
    data = rollout(valid=np.ones((T, N), bool))
    with pytest.raises(AssertionError, match=field):
        jax.jit(ppo_update)(fresh(), data._replace(**{field: np.asarray(getattr(data, field))[:-1]}))
    with pytest.raises(AssertionError, match=field):
        ppo_update(fresh(), data._replace(**{field: np.asarray(getattr(data, field))[..., None]}))


def test_minibatches_of_one_row_or_of_unequal_size_are_refused():
    with pytest.raises(BadInput, match="one row"):
        ppo_update(fresh(SMALL.replace(num_minibatches=T * N)), rollout())
    with pytest.raises(BadInput, match="num_minibatches 5 does not divide"):
        ppo_update(fresh(SMALL.replace(num_minibatches=5)), rollout())


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"gamma": 1.1}, "gamma is 1.1: it must be between 0 and 1"),
        ({"gamma": float("nan")}, "gamma"),
        ({"clip_eps": 0.0}, "clip_eps is 0.0: it must be positive"),
        ({"actor_learning_rate": float("inf")}, "actor_learning_rate"),
        ({"critic_learning_rate": -1e-3}, "critic_learning_rate"),
        ({"kl_target": 0.01}, "kl_target adapts kl_coef"),
        ({"kl_target": 0.01, "kl_coef": 0.0}, "kl_target adapts kl_coef"),
        ({"anneal_learning_rate": True}, "horizon"),
        ({"anneal_clip": True, "anneal_updates": 5, "clip_eps": None}, "anneal_clip"),
        ({"num_epochs": 0}, "num_epochs"),
        ({"hidden_sizes": ()}, "hidden_sizes"),
    ],
    ids=str,
)
def test_configs_that_cannot_work_are_refused(changes, words):
    with pytest.raises(BadInput, match=words):
        fresh(SMALL.replace(**changes))


@pytest.mark.parametrize(
    "observations, actions, words",
    [
        (spaces.Tuple([]), DISCRETE, "Tuple"),
        (spaces.Box(0, 255, (64, 64, 3), np.uint8), DISCRETE, "pixels"),
        (spaces.Text(4), DISCRETE, "Text"),
        (OBSERVATIONS, spaces.Box(-np.inf, 1, (2,)), "unbounded"),
        (OBSERVATIONS, spaces.Box(0, 5, (2,), np.int32), "int32"),
        (OBSERVATIONS, spaces.Tuple([DISCRETE]), "Tuple"),
    ],
    ids=str,
)
def test_spaces_that_cannot_work_are_refused(observations, actions, words):
    with pytest.raises(BadInput, match=words):
        ppo_init(jax.random.key(0), SMALL, observations, actions)


@pytest.mark.parametrize("valid", [None, np.ones((4096, N), bool)], ids=["all rows", "masked"])
def test_the_halves_of_an_update_make_it_and_the_second_has_rows_of_its_own(valid):
    """As the loop uses them: the second half without the actor, and while the rollout is written over."""
    state, seen = fresh(), rollout(steps=4096, valid=valid)  # Arrays so large that JAX reads them where they are.
    whole, metrics = update(state, seen)
    improved, targets = jax.jit(ppo_update_actor)(state, seen)
    jax.block_until_ready(improved.actor.params)
    for field in seen:
        if field is not None:
            field[...] = 0
    critic, found = jax.jit(ppo_update_critic)(improved.critic, targets)
    assert found.keys() == metrics.keys() == set(METRICS)
    assert_close(learned(improved.replace(critic=critic)), learned(whole), 1e-6)
    assert_close(found, metrics, 1e-5)


def test_donation_works_in_a_loop():
    donating = jax.jit(ppo_update, donate_argnums=0)
    state, reference = fresh(), fresh()
    for seed in range(3):
        state, _ = donating(state, rollout(seed=seed))
        reference, _ = update(reference, rollout(seed=seed))
    assert_close(state.actor.params, reference.actor.params, 1e-6)
    assert optax.tree.norm(state.actor.params) > 0


def test_init_sweeps_numbers_under_vmap():
    def init(coef):
        return ppo_init(jax.random.key(0), SMALL.replace(kl_coef=coef, kl_target=0.01), OBSERVATIONS, DISCRETE)

    states = jax.vmap(init)(jnp.array([0.5, 2.0]))
    np.testing.assert_array_equal(states.kl_coef, [0.5, 2.0])
    with pytest.raises(BadInput, match="kl_target adapts"):
        init(1.0).replace_config(kl_coef=0.0)

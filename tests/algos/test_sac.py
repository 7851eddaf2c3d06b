"""The SAC kernel against an update written out in NumPy with gradients by hand; its reductions, its temperature. The
promises that it shares with TD3 are in test_actor_critics.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import ACTIONS, OBSERVATIONS, A, S, random_batch
from gymnasium import spaces
from oracles import Adam, Net, TwinCritics, assert_near, each_of

from jaxrl import BadInput, SACConfig, sac_act, sac_init, sac_update
from jaxrl.algos.sac import METRICS
from jaxrl.ops.returns import td_target

B = 48
SMALL = SACConfig(hidden_sizes=(16, 12), tau=0.05)
FIXED = SMALL.replace(alpha_learning_rate=None)
update = jax.jit(sac_update)


batch = functools.partial(random_batch, size=B)


def fresh(config=SMALL, seed=0, actions=ACTIONS):
    return sac_init(jax.random.key(seed), config, OBSERVATIONS, actions)


def noises(state):
    """The noise of the next action and of the actor's, as one update draws it."""
    _, next_key, actor_key = jax.random.split(state.key, 3)
    return [np.asarray(jax.random.normal(key, (B, A), state.config.gamma.dtype)) for key in (next_key, actor_key)]


class Oracle:
    """SAC as algorithm 1 of its paper has it; the noise of both samples is given. Densities are of actions scaled to
    [-1, 1]."""

    def __init__(self, state):
        self.config, self.learned = jax.tree.map(float, state.config), state.temperature is not None
        low, high = np.asarray(ACTIONS.low, np.float64), np.asarray(ACTIONS.high, np.float64)
        self.mid, self.half = (low + high) / 2, (high - low) / 2
        self.actor, self.critics = Net(state.actor.params), TwinCritics(state)
        self.adam = Adam(self.actor.params, self.config.actor_learning_rate)
        self.log_alpha = [np.log(np.float64(self.config.initial_alpha))] if self.learned else None
        self.adam_alpha = Adam(self.log_alpha, self.config.alpha_learning_rate) if self.learned else None

    @property
    def alpha(self):
        return np.exp(self.log_alpha[0]) if self.learned else self.config.initial_alpha

    def sample(self, s, noise):
        out, inputs = self.actor.forward(s)
        mean, raw = out[:, :A], out[:, A:]
        log_std = np.clip(raw, -20, 2)
        t = np.tanh(mean + np.exp(log_std) * noise)
        log_prob = (-0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi) - np.log(1 - t**2)).sum(1)
        return self.mid + self.half * t, log_prob, (t, log_std, (raw > -20) & (raw < 2), inputs)

    def update(self, rows, next_noise, noise):
        c, n, alpha = self.config, len(rows.reward), self.alpha
        next_action, next_log_prob, _ = self.sample(rows.next_obs, next_noise)
        soft = TwinCritics.least(self.critics.slow, rows.next_obs, next_action) - alpha * next_log_prob
        y = rows.reward + c.gamma * (1 - rows.terminated) * soft
        metrics = self.critics.step(rows.obs, rows.action, y)

        action, log_prob, (t, log_std, inside, inputs) = self.sample(rows.obs, noise)
        x = np.concatenate([rows.obs, action], 1)
        (q1, cache1), (q2, cache2) = (net.forward(x) for net in self.critics.online)
        first = q1 <= q2
        da = sum(
            net.backward(cache, np.where(chosen, -1 / n, 0.0))[1][:, S:]
            for net, cache, chosen in zip(self.critics.online, (cache1, cache2), (first, ~first), strict=True)
        )
        du = da * self.half * (1 - t**2) + alpha * 2 * t / n
        dlog_std = (du * np.exp(log_std) * noise - alpha / n) * inside
        grads, _ = self.actor.backward(inputs, np.concatenate([du, dlog_std], 1))
        self.adam.step(self.actor.params, grads)
        if self.learned:
            self.adam_alpha.step(self.log_alpha, [-(log_prob.mean() + c.target_entropy)])
        self.critics.follow(c.tau)
        return metrics | {
            "actor_loss": (alpha * log_prob - np.minimum(q1, q2)[:, 0]).mean(),
            "grad_norm_actor": np.sqrt(sum((g**2).sum() for g in grads)),
            "entropy": -log_prob.mean(),
            "alpha": self.alpha,
            "skipped_updates": 0,
        }


@pytest.mark.parametrize("config", [SMALL, FIXED.replace(initial_alpha=0.2), SMALL.replace(target_entropy=1.5)])
def test_a_hundred_updates_are_those_of_the_paper(config, float64):
    state = fresh(config)
    oracle = Oracle(state)
    for i in range(100):
        rows, noise = batch(i), noises(state)
        state, metrics = update(state, rows)
        expected = oracle.update(rows, *noise)
        assert set(metrics) == set(expected) == set(METRICS)
        for name, number in expected.items():
            np.testing.assert_allclose(metrics[name], number, rtol=1e-8, atol=1e-8, err_msg=name)
    assert_near(state.actor.params, oracle.actor, 1e-8)
    for i in range(2):
        assert_near(each_of(state.critic.params)[i], oracle.critics.online[i], 1e-8)
        assert_near(each_of(state.critic.target_params)[i], oracle.critics.slow[i], 1e-8)


def test_an_actor_through_the_first_critic_alone_or_a_new_alpha_would_be_noticed(float64):
    """Negative controls of the comparison above."""
    state = fresh(SMALL.replace(alpha_learning_rate=0.1))
    rows, noise = batch(), noises(state)
    new, metrics = update(state, rows)
    oracle = Oracle(state)
    expected = oracle.update(rows, *noise)
    np.testing.assert_allclose(metrics["actor_loss"], expected["actor_loss"], rtol=1e-8)
    action, log_prob, _ = Oracle(state).sample(rows.obs, noise[1])
    values = new.critic.apply_fn(new.critic.params, rows.obs, action)
    assert abs((log_prob - values[0]).mean() - metrics["actor_loss"]) > 1e-3
    assert abs((oracle.alpha * log_prob - values.min(0)).mean() - metrics["actor_loss"]) > 1e-3


def test_without_entropy_and_noise_the_target_is_td3s_with_the_present_actor(float64):
    state = fresh(FIXED.replace(initial_alpha=0.0))
    params = state.actor.params
    last = params["params"]["Dense_2"]
    last = {"kernel": last["kernel"].at[:, A:].set(0), "bias": last["bias"].at[A:].set(-20)}
    params = {"params": params["params"] | {"Dense_2": last}}
    state = state.replace(actor=state.actor.replace(params=params))
    rows = batch()
    policy = sac_act(state, rows.next_obs)
    next_value = state.critic.apply_fn(state.critic.target_params, rows.next_obs, policy.to_env(policy.mode())).min(0)
    target = td_target(jnp.asarray(rows.reward), next_value, jnp.asarray(rows.terminated), 0.99)
    values = state.critic.apply_fn(state.critic.params, rows.obs, rows.action)
    _, metrics = update(state, rows)
    np.testing.assert_allclose(metrics["critic_loss"], np.square(values - target).mean(1).sum(), rtol=1e-6)


def test_the_units_of_the_actions_change_neither_alpha_nor_the_policy(float64):
    """With bounds ten times as far, and critics that see the action divided by ten and do not learn."""
    wide = spaces.Box(10 * ACTIONS.low, 10 * ACTIONS.high)
    config = SMALL.replace(critic_learning_rate=0.0, alpha_learning_rate=0.01, actor_learning_rate=0.01)
    near, far = fresh(config), fresh(config, actions=wide)

    def scaled(params):
        kernel = params["params"]["Dense_0"]["kernel"]
        return {
            "params": params["params"]
            | {"Dense_0": params["params"]["Dense_0"] | {"kernel": kernel.at[:, S:].divide(10)}}
        }

    both = scaled(near.critic.params)
    far = far.replace(critic=far.critic.replace(params=both, target_params=both))
    for i in range(30):
        near, _ = update(near, batch(i))
        far, metrics = update(far, batch(i, actions=wide))
    assert metrics["skipped_updates"] == 0 and abs(float(near.alpha) - 1) > 0.05
    np.testing.assert_allclose(far.alpha, near.alpha, rtol=1e-6)
    obs = batch(99).obs
    for x, y in zip(jax.tree.leaves(sac_act(near, obs)), jax.tree.leaves(sac_act(far, obs)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)


def test_the_temperature_rises_below_its_target_and_falls_above():
    state = fresh()
    _, metrics = update(state, batch())
    entropy = float(metrics["entropy"])
    for target, sign in ((entropy + 0.5, 1), (entropy - 0.5, -1)):
        new, _ = update(state.replace_config(target_entropy=target), batch())
        assert np.sign(float(new.alpha) - 1) == sign


def test_the_default_target_is_minus_the_size_of_the_action():
    assert float(fresh().config.target_entropy) == -A
    assert float(fresh(SMALL.replace(target_entropy=0.0)).config.target_entropy) == 0


def test_a_fixed_temperature_stays_and_may_be_0():
    state = fresh(FIXED.replace(initial_alpha=0.0))
    assert state.temperature is None
    new, metrics = update(state, batch())
    assert float(new.alpha) == float(metrics["alpha"]) == 0 and metrics["skipped_updates"] == 0
    assert float(update(state.replace_config(initial_alpha=0.3), batch())[1]["alpha"]) == pytest.approx(0.3)


def test_actions_of_the_policy_stay_within_their_bounds():
    policy = sac_act(fresh(), np.random.default_rng(0).normal(size=(500, S)).astype(np.float32) * 1e4)
    for action in (
        policy.to_env(policy.sample(np.random.default_rng(0))),
        policy.to_env(policy.sample_jax(jax.random.key(0))),
    ):
        assert all(ACTIONS.contains(np.asarray(each)) for each in action)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"target_entropy": np.inf}, "target_entropy is inf: it must be"),
        ({"target_entropy": np.nan}, "target_entropy is nan: it must be"),
        ({"initial_alpha": 0.0}, r"initial_alpha is 0\.0, whose logarithm cannot be learned"),
        ({"initial_alpha": 1e-46}, "initial_alpha is 1e-46, whose logarithm cannot be learned"),
        ({"initial_alpha": -1.0}, "initial_alpha is -1.0: it must be"),
        ({"alpha_learning_rate": -1.0}, "alpha_learning_rate is -1.0"),
        ({"initial_alpha": None}, "initial_alpha is None: it must be one number"),
        ({"alpha_learning_rate": None, "target_entropy": -1.0}, "target_entropy is set, but"),
    ],
)
def test_numbers_that_cannot_be(changes, words):
    with pytest.raises(BadInput, match=words):
        fresh(SMALL.replace(**changes))

"""The TD3 kernel against an update written out in NumPy with gradients by hand, against DDPG's target, and against what
it is often taken for. The promises that it shares with SAC are in test_actor_critics.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batches import ACTIONS, OBSERVATIONS, A, S, random_batch
from oracles import Adam, Net, TwinCritics, assert_equal, assert_near, each_of

from jaxrl import BadInput, TD3Config, td3_act, td3_init, td3_update
from jaxrl.algos.td3 import METRICS
from jaxrl.ops.returns import td_target

B = 48
SMALL = TD3Config(hidden_sizes=(16, 12), tau=0.05)
update = jax.jit(td3_update)


batch = functools.partial(random_batch, size=B)


def fresh(config=SMALL, seed=0):
    return td3_init(jax.random.key(seed), config, OBSERVATIONS, ACTIONS)


class Oracle:
    """TD3 as algorithm 1 of its paper has it; its noise is given."""

    def __init__(self, state):
        self.config = jax.tree.map(float, state.config)
        low, high = np.asarray(ACTIONS.low, np.float64), np.asarray(ACTIONS.high, np.float64)
        self.low, self.high, self.mid, self.half = low, high, (low + high) / 2, (high - low) / 2
        self.actor, self.actor_target, self.critics = (
            Net(state.actor.params),
            Net(state.actor.params),
            TwinCritics(state),
        )
        self.adam, self.updates = Adam(self.actor.params, self.config.actor_learning_rate), 0

    def mu(self, net, s):
        out, inputs = net.forward(s)
        return self.mid + self.half * np.tanh(out), np.tanh(out), inputs

    def next_action(self, s, noise):
        c = self.config
        noise = self.half * np.clip(c.policy_noise * noise, -c.noise_clip, c.noise_clip)
        return np.clip(self.mu(self.actor_target, s)[0] + noise, self.low, self.high)

    def update(self, rows, noise):
        c = self.config
        next_value = TwinCritics.least(self.critics.slow, rows.next_obs, self.next_action(rows.next_obs, noise))
        y = rows.reward + c.gamma * (1 - rows.terminated) * next_value
        metrics = {"actor_loss": 0, "grad_norm_actor": 0, "actor_steps": 0, "skipped_updates": 0}
        metrics |= self.critics.step(rows.obs, rows.action, y)
        self.updates += 1
        if self.updates % c.policy_delay == 0:
            metrics |= self.delayed(rows.obs)
        return metrics

    def delayed(self, s):
        first = self.critics.online[0]
        action, t, inputs = self.mu(self.actor, s)
        value, cache = first.forward(np.concatenate([s, action], 1))
        _, dx = first.backward(cache, np.full((len(s), 1), -1 / len(s)))
        grads, _ = self.actor.backward(inputs, dx[:, S:] * self.half * (1 - t**2))
        self.adam.step(self.actor.params, grads)
        self.actor_target.follow(self.actor, self.config.tau)
        self.critics.follow(self.config.tau)
        norm = np.sqrt(sum((g**2).sum() for g in grads))
        return {"actor_loss": -value.mean(), "grad_norm_actor": norm, "actor_steps": 1}


def noise_of(state):
    _, noise_key = jax.random.split(state.key)
    return np.asarray(jax.random.normal(noise_key, (B, A), state.config.gamma.dtype))


@pytest.mark.parametrize(
    "config", [SMALL, SMALL.replace(policy_noise=0.0, policy_delay=1), SMALL.replace(policy_delay=3)]
)
def test_a_hundred_updates_are_those_of_the_paper(config, float64):
    state = fresh(config)
    oracle = Oracle(state)
    for i in range(100):
        rows, noise = batch(i), noise_of(state)
        state, metrics = update(state, rows)
        expected = oracle.update(rows, noise)
        assert set(metrics) == set(expected) == set(METRICS)
        for name, number in expected.items():
            np.testing.assert_allclose(metrics[name], number, rtol=1e-8, atol=1e-8, err_msg=name)
    assert_near(state.actor.params, oracle.actor, 1e-8)
    assert_near(state.actor.target_params, oracle.actor_target, 1e-8)
    for i in range(2):
        assert_near(each_of(state.critic.params)[i], oracle.critics.online[i], 1e-8)
        assert_near(each_of(state.critic.target_params)[i], oracle.critics.slow[i], 1e-8)


def test_noise_that_is_not_clipped_and_targets_that_move_each_time_would_be_noticed(float64):
    """Negative controls of the comparison above."""

    class Unclipped(Oracle):
        def next_action(self, s, noise):
            return self.mu(self.actor_target, s)[0] + self.half * self.config.policy_noise * noise

    class Prompt(Oracle):
        def update(self, rows, noise):
            metrics = super().update(rows, noise)
            self.critics.follow(self.config.tau if self.updates % 2 else 0.0)
            return metrics

    config = SMALL.replace(policy_noise=1.0, noise_clip=0.2)
    for kind in (Unclipped, Prompt):
        state = fresh(config)
        oracle, worst = kind(state), 0.0
        for i in range(4):
            rows, noise = batch(i), noise_of(state)
            state, metrics = update(state, rows)
            worst = max(worst, abs(oracle.update(rows, noise)["critic_loss"] - float(metrics["critic_loss"])))
        assert worst > 1e-5, kind.__name__


def test_with_equal_critics_no_noise_and_no_delay_the_target_is_ddpgs(float64):
    state = fresh(SMALL.replace(policy_noise=0.0, policy_delay=1))
    both = jax.tree.map(lambda each: each[jnp.array([0, 0])], state.critic.params)
    state = state.replace(critic=state.critic.replace(params=both, target_params=both))
    rows = batch()
    next_action = state.actor.apply_fn(state.actor.target_params, rows.next_obs).action
    next_value = state.critic.apply_fn(both, rows.next_obs, next_action)[1]
    target = td_target(jnp.asarray(rows.reward), next_value, jnp.asarray(rows.terminated), 0.99)
    value = state.critic.apply_fn(both, rows.obs, rows.action)[0]
    _, metrics = update(state, rows)
    np.testing.assert_allclose(metrics["critic_loss"], 2 * np.square(value - target).mean(), rtol=1e-12)


def test_smoothed_target_actions_stay_within_the_bounds_and_the_noise_within_its_own():
    """A critic that measures actions shows what the target saw: with reward 0, the target is gamma times that."""
    middle, half = (ACTIONS.high + ACTIONS.low) / 2, (ACTIONS.high - ACTIONS.low) / 2
    rows = batch()._replace(reward=np.zeros(B), action=np.broadcast_to(middle, (B, A)), terminated=np.zeros(B, bool))

    def seen_beyond(limit, state, rows):
        """By how much target actions are further from the middle than `limit`, in halves of their range; a mean."""

        def critic(params, obs, action):
            return jnp.stack([jnp.maximum(jnp.abs((action - middle) / half).max(-1) - limit, 0.0)] * 2)

        return float(td3_update(state.replace(critic=state.critic.replace(apply_fn=critic)), rows)[1]["td_error_abs"])

    state = fresh(SMALL.replace(policy_noise=5.0, noise_clip=0.5))
    still = jax.tree.map(jnp.zeros_like, state.actor.target_params)  # Its actions are in the middle.
    in_the_middle = state.replace(actor=state.actor.replace(target_params=still))
    assert seen_beyond(0.5 + 1e-5, in_the_middle, rows) == 0 < seen_beyond(0.49, in_the_middle, rows)
    at_the_edge = rows._replace(next_obs=rows.next_obs * 1e6)
    assert seen_beyond(1 + 1e-5, state, at_the_edge) == 0 < seen_beyond(0.99, state, at_the_edge)


def test_only_every_second_update_moves_the_actor_and_the_targets():
    state = fresh()

    def moving(state):
        return (
            state.actor.params,
            state.actor.opt_state,
            state.actor.target_params,
            state.critic.target_params,
        )

    first, metrics = update(state, batch())
    assert_equal(moving(first), moving(state))
    assert metrics["actor_steps"] == metrics["actor_loss"] == metrics["grad_norm_actor"] == 0
    second, metrics = update(first, batch(1))
    assert metrics["actor_steps"] == 1 and metrics["grad_norm_actor"] > 0
    for before, after in zip(moving(first), moving(second), strict=True):
        assert any(
            not np.array_equal(x, y) for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
        )


def test_actions_fill_their_bounds_and_stay_within():
    obs = np.random.default_rng(0).normal(size=(500, S)).astype(np.float32) * 1e6
    wide = np.asarray(td3_act(fresh(), obs))
    assert all(ACTIONS.contains(action) for action in wide)
    assert (np.isclose(wide, ACTIONS.low) | np.isclose(wide, ACTIONS.high)).mean() > 0.9


@pytest.mark.parametrize("delay", [0, -1, 2**31])
def test_a_delay_that_cannot_be_counted_is_refused(delay):
    with pytest.raises(BadInput, match=f"policy_delay is {delay}: it must be at least 1 and at most 2,147,483,647"):
        fresh(SMALL.replace(policy_delay=delay))


@pytest.mark.parametrize("delay", [1.5, True, None])
def test_a_delay_that_is_no_whole_number_is_refused(delay):
    with pytest.raises(BadInput, match=f"policy_delay is {delay}: it must be a whole number"):
        fresh(SMALL.replace(policy_delay=delay))


def test_the_longest_delay_works():
    assert update(fresh(SMALL.replace(policy_delay=2**31 - 1)), batch())[1]["actor_steps"] == 0

"""The RLOO kernel against the paper's sum over sequences, written out as a loop and differentiated by finite
differences; its expectation by enumeration; what padding, order and rows that cannot be may not change."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import Adam, assert_equal
from switches import STRICT, switched
from token_policies import PLACES, V, completions, distribution, parameters, plain_log_prob, policy

from jaxrl import (
    BadInput,
    Completions,
    RLOOConfig,
    check_completions,
    rloo_init,
    rloo_update,
    sample_completions,
)
from jaxrl.algos.rloo import METRICS
from jaxrl.data.batch import shuffled_minibatches
from jaxrl.storage.files import load_tree, save_tree

FREE = RLOOConfig(kl_coef=0.3, learning_rate=0.05, max_grad_norm=None)
NO_KL = FREE.replace(kl_coef=0.0)
update = jax.jit(rloo_update)
many = jax.jit(jax.vmap(rloo_update, in_axes=(None, 0)))


def fresh(config=FREE, seed=0, reference=5):
    """A state whose reference differs from its policy."""
    state = rloo_init(jax.random.key(seed), config, policy, parameters(seed))
    return state.replace(reference_params=jax.tree.map(jnp.asarray, parameters(reference)))


def gradient(state):
    """The gradient of the one step that was taken: Adam's first moment is a tenth of it."""
    return jax.tree.map(lambda m: m / 0.1, state.policy.opt_state.inner_state[0].mu)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def unflat(vector):
    shapes = {"next": (V, V), "past": (V, V), "place": (PLACES, V)}
    ends = np.cumsum([np.prod(shape) for shape in shapes.values()])
    return {name: part.reshape(shapes[name]) for name, part in zip(shapes, np.split(vector, ends[:-1]), strict=True)}


class Oracle:
    """RLOO as its paper has it, row by row, for rows that are all valid; the gradient by central differences."""

    def __init__(self, state, rows):
        self.config, self.rows = jax.tree.map(float, state.config), rows
        self.theta = [flat(state.policy.params).astype(np.float64)]
        self.rows_in_full = [
            (tokens[seen].tolist(), mask[seen])
            for tokens, mask, seen in zip(rows.tokens, rows.mask, rows.attention, strict=True)
        ]
        self.size = rows.mask.sum(1)
        old, self.entropy = self.under(self.theta[0])
        self.old = old if rows.log_prob is None else np.asarray(rows.log_prob)
        self.kl = self.old - self.under(flat(state.reference_params).astype(np.float64))[0]
        total, group = rows.reward - self.config.kl_coef * self.kl, rows.group
        self.advantage = np.array(
            [
                total[i] - np.mean([total[j] for j in range(len(total)) if group[j] == group[i] and j != i])
                for i in range(len(total))
            ]
        )
        self.spread = self.advantage.std()
        if self.config.normalize_advantages:
            self.advantage = (self.advantage - self.advantage.mean()) / (self.advantage.std() + 1e-8)

    def under(self, theta, chosen=slice(None)):
        params, temperature = unflat(theta), self.config.temperature
        return np.array([plain_log_prob(params, *row, temperature) for row in self.rows_in_full[chosen]]).T

    def loss(self, theta, chosen):
        self.log_ratio = log_ratio = self.under(theta, slice(None))[0][chosen] - self.old[chosen]
        if self.config.length_normalize:
            self.log_ratio = log_ratio = log_ratio / self.size[chosen]
        ratio, advantage = np.exp(log_ratio), self.advantage[chosen]
        gain = ratio * advantage
        if self.config.clip_eps is not None:
            eps = self.config.clip_eps
            gain = np.minimum(gain, np.clip(ratio, 1 - eps, 1 + eps) * advantage)
        return -gain.mean()

    def gradient(self, chosen):
        steps = 1e-6 * np.eye(len(self.theta[0]))
        both = [[self.loss(self.theta[0] + sign * step, chosen) for sign in (1, -1)] for step in steps]
        return np.array([(up - down) / 2e-6 for up, down in both])


SETTINGS = {
    "plain": (FREE, False),
    "plain, at another ratio": (FREE, True),
    "temperature, standardised": (FREE.replace(kl_coef=0.0, temperature=0.6, normalize_advantages=True), False),
    "clipped, by length, at another ratio": (FREE.replace(clip_eps=0.1, length_normalize=True), True),
}


@pytest.mark.parametrize(("config", "elsewhere"), SETTINGS.values(), ids=SETTINGS)
def test_the_gradient_is_that_of_the_sum_over_sequences(config, elsewhere, float64):
    state, rows = fresh(config), completions()
    if elsewhere:
        noise = np.random.default_rng(1).normal(size=len(rows.reward)) * 0.4
        rows = rows._replace(log_prob=Oracle(state, rows).old + noise)
    oracle, every = Oracle(state, rows), np.arange(len(rows.reward))
    new, metrics = update(state, rows)
    expected = oracle.gradient(every)
    np.testing.assert_allclose(flat(gradient(new)), expected, rtol=1e-6, atol=1e-8)
    loss = oracle.loss(oracle.theta[0], every)
    band = np.inf if config.clip_eps is None else config.clip_eps
    alike = [len(set(rows.reward[rows.group == g])) == 1 for g in set(rows.group)]
    numbers = {
        "policy_loss": loss,
        "reward": rows.reward.mean(),
        "kl": oracle.kl.mean(),
        "entropy": oracle.entropy.sum() / oracle.size.sum(),
        "advantage_std": oracle.spread,
        "clip_fraction": (np.abs(np.exp(oracle.log_ratio) - 1) > band).mean(),
        "grad_norm": np.sqrt((expected**2).sum()),
        "completion_length": oracle.size.mean(),
        "no_signal_fraction": np.mean(alike),
        "skipped_rows": 0,
        "skipped_updates": 0,
    }
    assert set(metrics) == set(numbers) == set(METRICS)
    for name, number in numbers.items():
        np.testing.assert_allclose(metrics[name], number, rtol=1e-6, atol=1e-9, err_msg=name)
    if not elsewhere:  # At ratio 1 it is -mean[A grad log pi(y)].
        steps = 1e-6 * np.eye(len(oracle.theta[0]))
        slopes = [oracle.under(oracle.theta[0] + step)[0] - oracle.under(oracle.theta[0] - step)[0] for step in steps]
        np.testing.assert_allclose(expected, -(oracle.advantage * slopes).mean(1) / 2e-6, rtol=1e-5, atol=1e-8)


def test_epochs_and_minibatches_are_steps_of_adam_on_rows_with_what_was_before_the_first(float64):
    config = FREE.replace(clip_eps=0.2, num_epochs=2, num_minibatches=2, max_grad_norm=0.05)
    state, rows = fresh(config), completions()
    oracle = Oracle(state, rows)
    adam = Adam(oracle.theta, 0.05)
    for chosen in shuffled_minibatches(jax.random.split(state.key)[1], 12, 2, 2):
        grads = oracle.gradient(np.asarray(chosen))
        adam.step(oracle.theta, [grads * min(1, 0.05 / np.sqrt((grads**2).sum()))])
    new, _ = update(state, rows)
    np.testing.assert_allclose(flat(new.policy.params), oracle.theta[0], atol=1e-6)
    assert int(new.policy.step) == 4 and int(new.num_updates) == 1


def exact_gradient(theta, reference, prompt, rewards, kl_coef):
    """Of `sum_y p(y) (reward(y) - kl_coef * (log p(y) - log p_ref(y)))`, by central differences."""
    steps = round(np.log(len(rewards)) / np.log(V))
    p_ref = distribution(reference, prompt, steps)[1]

    def objective(vector):
        p = distribution(unflat(vector), prompt, steps)[1]
        return (p * (rewards - kl_coef * np.log(p / p_ref))).sum()

    return np.array(
        [(objective(theta + d) - objective(theta - d)) / 2e-6 for d in 1e-6 * np.eye(len(theta))]
    )  # fmt: skip


@pytest.mark.parametrize(("steps", "k", "kl_coef"), [(1, 3, 0.0), (2, 2, 0.0), (2, 2, 0.3)])
def test_its_expectation_is_the_exact_gradient(steps, k, kl_coef, float64):
    """A bandit of three arms, and two steps of three tokens: over all ways to draw k completions, each with its
    probability. A baseline that includes the row itself is the negative control: it loses 1 / k of the gradient."""
    state, prompt = fresh(FREE.replace(kl_coef=kl_coef)), [1]
    every, p = distribution(state.policy.params, prompt, steps)
    rewards = np.random.default_rng(0).normal(size=len(every))
    drawn = np.stack(np.meshgrid(*[np.arange(len(every))] * k, indexing="ij"), -1).reshape(-1, k)
    tokens = np.array([[[*prompt, *every[i]] for i in row] for row in drawn])
    mask = np.broadcast_to(np.arange(1 + steps) > 0, tokens.shape)
    rows = Completions(tokens, mask, rewards[drawn], np.zeros_like(drawn))
    new, _ = many(state, rows)
    chance = p[drawn].prod(1)
    estimate = sum(
        chance[:, None] * np.concatenate([x.reshape(len(drawn), -1) for x in jax.tree.leaves(gradient(new))], 1)
    )
    expected = -exact_gradient(flat(state.policy.params), state.reference_params, prompt, rewards, kl_coef)
    np.testing.assert_allclose(chance.sum(), 1)
    np.testing.assert_allclose(estimate, expected, atol=1e-8)
    assert np.abs(estimate * (1 - 1 / k) - expected).max() > 1e-3


def learned(state):
    return state.policy.params, state.policy.opt_state


def near(a, b, tolerance):
    (one, first), (two, second) = a, b
    for x, y in zip(jax.tree.leaves((learned(one), first)), jax.tree.leaves((learned(two), second)), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def test_padding_on_either_side_and_none_and_the_order_of_rows_change_nothing(float64):
    left = update(fresh(), completions())
    near(update(fresh(), completions(side="right")), left, 1e-12)
    order = np.random.default_rng(0).permutation(12)
    shuffled = completions()._replace(log_prob=None)
    near(update(fresh(), jax.tree.map(lambda x: x[order], shuffled)), left, 1e-12)
    renamed = completions()
    near(update(fresh(), renamed._replace(group=np.array([40, -7, 3])[renamed.group])), left, 1e-12)
    # What stands where there is padding is not looked at, and rows that fill all of it need no attention.
    rows = completions()
    near(update(fresh(), rows._replace(tokens=np.where(rows.attention, rows.tokens, -100))), left, 1e-12)
    columns = np.broadcast_to(np.arange(7), (12, 7))
    full = Completions(rows.tokens[:, 2:], columns[:, :5] > 1, rows.reward, rows.group)
    near(update(fresh(), rows._replace(mask=columns > 3, attention=columns > 1)), update(fresh(), full), 1e-12)


def test_a_constant_added_to_a_prompts_rewards_changes_nothing_and_whole_numbers_are_rewards():
    rows = completions()
    new, _ = update(fresh(NO_KL), rows)
    for reward in (rows.reward.astype(np.int64), rows.reward + np.array([8, -2, 64])[rows.group]):
        assert_equal(learned(update(fresh(NO_KL), rows._replace(reward=reward))[0]), learned(new))
    new, _ = update(fresh(), rows)
    moved, _ = update(fresh(), rows._replace(reward=rows.reward + np.array([8, -2, 64])[rows.group]))
    np.testing.assert_allclose(flat(gradient(moved)), flat(gradient(new)), atol=1e-5)


def test_equal_rewards_give_no_gradient():
    rows = completions()
    new, metrics = update(fresh(NO_KL), rows._replace(reward=0.1 * rows.group))
    assert metrics["no_signal_fraction"] == 1 and metrics["grad_norm"] == metrics["advantage_std"] == 0
    assert_equal(new.policy.params, fresh().policy.params)


def test_the_reference_stays_and_has_no_gradient():
    """Also where policy and reference are the same: the KL's share of the advantage is a number, no function."""
    state = rloo_init(jax.random.key(0), FREE, policy, parameters())
    new, metrics = update(state, completions())
    assert_equal(new.reference_params, state.reference_params)
    assert metrics["kl"] == 0
    assert_equal(learned(new), learned(update(state.replace_config(kl_coef=0.0), completions())[0]))
    assert update(new, completions())[1]["kl"] != 0


def spoilt(change):
    """Completions with row 3, of a group of four, spoilt; and the same with that row left out."""
    rows = completions()
    valid = np.arange(12) != 3
    return change(jax.tree.map(np.copy, rows)), rows._replace(valid=valid)


def put(name, index, value):
    def change(rows):
        getattr(rows, name)[index] = value
        return rows

    return change


FIRST = int(np.argmax(completions().attention[3]))
BAD_ROWS = {
    "a token too large": (put("tokens", (3, -1), V), "tokens are outside the vocabulary, in row 3: .* 0 to 2"),
    "a token below 0": (put("tokens", (3, FIRST), -1), "tokens are outside the vocabulary, in row 3"),
    "no token": (put("mask", 3, False), "mask marks no token, in row 3"),
    "the first token": (put("mask", (3, FIRST), True), "mask marks the first of the tokens"),
    "padding": (put("mask", (3, 0), True), "mask marks padding, in row 3"),
    "a hole before it": (put("attention", (3, -2), False), "mask marks .*padding"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_rows_that_cannot_be_weigh_nothing_and_are_counted_and_the_host_says_so(name):
    change, words = BAD_ROWS[name]
    bad, without = spoilt(change)
    (new, metrics), (expected, others) = update(fresh(), bad), update(fresh(), without)
    assert_equal(learned(new), learned(expected))
    assert metrics["skipped_rows"] == 1 and others["skipped_rows"] == 0
    with pytest.raises(BadInput, match=words) as complaint:
        check_completions(bad, V)
    assert "\n" not in str(complaint.value)
    check_completions(bad._replace(valid=without.valid), V)


@pytest.mark.parametrize("field", ["reward", "log_prob"])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_number_that_is_not_finite_rejects_its_group_alone(field, number):
    rows = completions(log_prob=np.full(12, -3.0))
    bad = put(field, 3, number)(jax.tree.map(np.copy, rows))
    new, metrics = update(fresh(), bad)
    expected, _ = update(fresh(), rows._replace(valid=rows.group != rows.group[3]))
    assert_equal(learned(new), learned(expected))
    assert metrics["skipped_rows"] == (rows.group == rows.group[3]).sum() and metrics["skipped_updates"] == 0
    assert all(np.isfinite(x) for x in metrics.values())
    with pytest.raises(BadInput, match=f"{field} is not finite, in row 3"):
        check_completions(bad, V)


def test_a_group_of_one_weighs_nothing_and_is_counted():
    rows = completions()
    alone = rows._replace(group=np.where(np.arange(12) == 3, 9, rows.group))
    new, metrics = update(fresh(), alone)
    expected, _ = update(fresh(), rows._replace(valid=np.arange(12) != 3))
    assert_equal(learned(new), learned(expected))
    assert metrics["skipped_rows"] == 1
    with pytest.raises(BadInput, match="group has one valid row alone, in row 3"):
        check_completions(alone, V)
    # Nothing but such: nothing is learned, and nothing else is wrong.
    nothing, metrics = update(fresh(), rows._replace(group=np.arange(12)))
    assert_equal(learned(nothing), learned(fresh()))
    assert metrics["skipped_rows"] == 12 and metrics["skipped_updates"] == 0


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
def test_small_whole_numbers_are_tokens_of_a_vocabulary_that_their_type_cannot_count(kind):
    """Of bytes, 256: compared as bytes, each would be at least 256 - 256."""

    def bytewise(params, tokens, attention):
        return params["next"][tokens % V] @ jnp.ones((V, 256)) + params["next"][0, 0] * jnp.arange(256) / 256

    rows = completions()
    state = rloo_init(jax.random.key(0), FREE, bytewise, parameters())
    (new, metrics), (expected, _) = (
        update(state, rows._replace(tokens=rows.tokens.astype(x))) for x in (kind, np.int32)
    )
    assert metrics["skipped_rows"] == 0 and metrics["grad_norm"] > 0
    assert_equal(learned(new), learned(expected))


def attending(params, tokens, attention):
    """One layer of attention that leaves out what it may not see by -inf: NaN where it may see nothing."""
    x, length = params["next"][tokens], tokens.shape[1]
    seen = attention[:, None, :] & jnp.tril(jnp.ones((length, length), bool))
    return x + jax.nn.softmax(jnp.where(seen, x @ x.mT, -jnp.inf)) @ x


def test_a_row_of_nothing_but_padding_makes_no_nan():
    rows = completions(side="right")
    without = rows._replace(valid=np.arange(12) != 3)
    empty = put("attention", 3, False)(put("mask", 3, False)(jax.tree.map(np.copy, without)))
    state = rloo_init(jax.random.key(0), FREE, attending, {"next": parameters()["next"]})
    (new, metrics), (expected, _) = update(state, empty), update(state, without)
    assert metrics["skipped_updates"] == 0 and metrics["grad_norm"] > 0
    assert_equal(learned(new), learned(expected))


def test_parameters_of_bfloat16_keep_their_type_also_on_disk_and_their_gradients_norm_is_summed_in_float32(tmp_path):
    low = {name: jnp.asarray(x, jnp.bfloat16) for name, x in parameters().items()}
    config = FREE.replace(max_grad_norm=0.1)
    states = [
        rloo_init(jax.random.key(0), config, policy, low),
        rloo_init(jax.random.key(0), config, policy, parameters()),
    ]
    (new, metrics), (_, exact) = (update(state, completions()) for state in states)
    types = [[x.dtype for x in jax.tree.leaves(learned(state))] for state in (new, states[0])]
    assert types[0] == types[1]
    assert metrics["grad_norm"].dtype == jnp.float32 and not np.array_equal(flat(new.policy.params), flat(low))
    np.testing.assert_allclose(metrics["grad_norm"], exact["grad_norm"], rtol=0.03)
    save_tree(tmp_path / "state.npz", new, {})
    restored, _ = load_tree(tmp_path / "state.npz", states[0])
    assert_equal(learned(restored), learned(new))
    assert restored.policy.params["next"].dtype == jnp.bfloat16
    with pytest.raises(BadInput, match="holds policy"):
        load_tree(tmp_path / "state.npz", states[1])


def test_a_valid_that_is_neither_0_nor_1_is_counted():
    rows = completions(valid=np.where(np.arange(12) == 3, 0.5, 1.0))
    assert update(fresh(), rows)[1]["skipped_rows"] == 1


def test_a_reward_that_float32_cannot_hold_is_not_finite_to_the_host_either():
    with pytest.raises(BadInput, match="reward is not finite, in row 3"):
        check_completions(put("reward", 3, 1e39)(completions()), V)


REFUSED = {
    "no record": (lambda rows: tuple(rows), "completions is a tuple: it must be a Completions"),
    "no reward": (lambda rows: rows._replace(reward=None), "reward is None: only attention, valid, log_prob may be"),
    "a list": (lambda rows: rows._replace(reward=[1.0]), "reward is a list: it must be an array"),
    "real tokens": (lambda rows: rows._replace(tokens=rows.tokens * 1.0), "tokens is of type float"),
    "real groups": (lambda rows: rows._replace(group=rows.group * 1.0), "group is of type float"),
}
REFUSED_ON_THE_HOST = {
    "few rewards": (lambda rows: rows._replace(reward=rows.reward[:5]), r"reward has the shape \(5,\): .* \(12,\), as"),
    "a short mask": (lambda rows: rows._replace(mask=rows.mask[:, 1:]), r"mask has the shape \(12, 6\)"),
    "flat tokens": (lambda rows: rows._replace(tokens=rows.tokens[0]), r"tokens has the shape \(7,\): it must"),
    "weights": (lambda rows: rows._replace(mask=rows.mask * 0.5), "mask holds numbers that are neither 0 nor 1"),
    "names": (lambda rows: rows._replace(group=rows.group + 2**40), "must fit into 32 bits"),
}  # fmt: skip


@pytest.mark.parametrize("name", [*REFUSED, *REFUSED_ON_THE_HOST])
def test_what_cannot_be_is_refused_in_one_line(name):
    change, words = (REFUSED | REFUSED_ON_THE_HOST)[name]
    with pytest.raises(BadInput, match=words) as complaint:
        check_completions(change(completions()), V)
    assert "\n" not in str(complaint.value)
    if name in REFUSED and name != "a list":  # JAX takes lists apart before anybody sees them.
        with pytest.raises(BadInput, match=words):
            rloo_update(fresh(), change(completions()))


def test_a_mask_on_the_prompt_is_refused_where_the_prompt_is_known():
    rows = completions()
    check_completions(rows, V, prompt_mask=rows.attention & ~rows.mask)
    with pytest.raises(BadInput, match="mask marks the prompt, in row 0: it must be false there"):
        check_completions(rows, V, prompt_mask=rows.attention)


@pytest.mark.parametrize(
    ("field", "shape"),
    [("mask", (12, 6)), ("reward", (12, 1)), ("group", (11,)), ("attention", (12,)), ("tokens", (12,))],
)
def test_a_wrong_shape_is_named(field, shape):
    kind = {"reward": float, "group": int, "tokens": int}.get(field, bool)
    with pytest.raises(AssertionError, match=rf"completions\.{field} must be"):
        rloo_update(fresh(), completions(**{field: np.zeros(shape, kind)}))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            lambda p, t, a: policy(p, t, a)[:, :-1],
            r"policy gives logits of shape \(12, 6, 3\) for tokens of shape \(12, 7\)",
        ),
        (lambda p, t, a: policy(p, t, a)[..., 0], r"policy gives logits of shape \(12, 7\)"),
        (lambda p, t, a: (policy(p, t, a), None), "policy gives a tuple"),
    ],
)
def test_a_policy_with_other_logits_is_refused(wrong, words):
    state = rloo_init(jax.random.key(0), FREE, wrong, parameters())
    with pytest.raises(BadInput, match=words):
        rloo_update(state, completions())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"config": FREE.replace(kl_coef=-1.0)}, r"kl_coef is -1\.0: it must be at least 0"),
        ({"config": FREE.replace(temperature=0.0)}, r"temperature is 0\.0: it must be positive"),
        ({"config": FREE.replace(num_epochs=1.5)}, r"num_epochs is 1\.5: it must be a whole number"),
        ({"config": 3}, "config is 3: it must be a RLOOConfig"),
        ({"policy": 3}, "policy is 3: it must be a function"),
        ({"policy": nn.Dense(3)}, "policy is a Flax module"),
        ({"params": {}}, "params hold no array"),
        ({"params": {"a": np.zeros(3, np.float16)}}, "params hold float16"),
        ({"config": FREE.replace(temperature=1e-46)}, "temperature is 1e-46: it must be positive"),
        ({"params": {"a": np.arange(3)}}, r"params hold a ndarray of shape \(3,\) and int64"),
        ({"key": 3}, "key is 3: it must be one JAX key"),
    ],
)
def test_a_state_that_cannot_be(arguments, words):
    usual = {"key": jax.random.key(0), "config": FREE, "policy": policy, "params": parameters()}
    with pytest.raises(BadInput, match=words):
        rloo_init(**(usual | arguments))


def test_minibatches_must_divide_the_rows():
    with pytest.raises(BadInput, match="num_minibatches 5 does not divide 12 rows"):
        rloo_update(fresh(FREE.replace(num_minibatches=5)), completions())


class Bigram(nn.Module):
    @nn.compact
    def __call__(self, tokens, attention):
        return nn.Dense(V, dtype=jnp.bfloat16)(nn.Embed(V, 4)(tokens))


def test_one_trace_for_a_thousand_updates_also_of_equal_modules_whose_state_is_donated():
    traces, begun = [], []

    @functools.partial(jax.jit, donate_argnums=0)
    def counted(state, rows):
        traces.append(1)
        return rloo_update(state, rows)

    def begin(seed):
        module = Bigram()
        params = jax.jit(module.init)(jax.random.key(seed), np.zeros((1, 2), int), np.ones((1, 2), bool))
        begun.append(params)
        return rloo_init(jax.random.key(seed), FREE.replace(max_grad_norm=1.0), module.apply, params)

    state, rows = begin(0), [completions(i) for i in range(7)]
    for i in range(1000):
        state, metrics = counted(state, rows[i % 7])
    assert metrics["policy_loss"].dtype == jnp.float32 and np.isfinite(flat(learned(state))).all()
    assert int(state.num_updates) == 1000
    counted(state.replace_config(kl_coef=0.1, temperature=0.5), rows[0])
    counted(begin(1), rows[0])
    assert len(traces) == 1
    assert all(np.isfinite(flat(params)).all() for params in begun)  # The caller's outlive a donated state.


def test_the_same_state_and_rows_give_the_same_answer_and_the_state_stays(tmp_path):
    state, rows = fresh(), completions()
    before = jax.tree.map(np.array, learned(state))
    (one, first), (two, second) = update(state, rows), update(state, rows)
    assert_equal((learned(one), first), (learned(two), second))
    assert_equal(learned(state), before)
    save_tree(tmp_path / "state.npz", one, {})
    restored, _ = load_tree(tmp_path / "state.npz", fresh(seed=9))
    assert_equal(learned(update(restored, rows)[0]), learned(update(one, rows)[0]))


def test_a_ratio_beyond_reach_is_cut_and_counted():
    rows = completions(log_prob=np.where(np.arange(12) < 6, -60.0, 60.0))
    new, metrics = update(fresh(NO_KL), rows)
    assert metrics["clip_fraction"] == 1 and metrics["grad_norm"] == 0
    assert np.isfinite(flat(learned(new))).all() and metrics["skipped_updates"] == 0


def test_a_step_that_is_not_finite_is_skipped_and_counted():
    state, rows = fresh(), completions(log_prob=np.full(12, -3.0))
    broken = jax.tree.map(lambda x: x.at[0].set(np.nan), state.policy.params)
    state = state.replace(policy=state.policy.replace(params=broken))
    new, metrics = update(state, rows)
    assert_equal(learned(new), learned(state))
    assert metrics["skipped_updates"] == 1 and metrics["skipped_rows"] == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_guards_against_transfers_and_promotions_have_nothing_to_find(dtype):
    def bigram(params, tokens, attention):
        return jnp.einsum("blv,vw->blw", jax.nn.one_hot(tokens, V), params)

    with switched({"jax_enable_x64": dtype == np.float64}):
        rows = completions(log_prob=np.full(12, -3.0))
        rows = jax.device_put(jax.tree.map(lambda x: x.astype(dtype) if x.dtype == float else x, rows))
        rows = rows._replace(tokens=rows.tokens.astype(jnp.int8))
        params, key = jax.device_put(np.asarray(parameters()["next"], dtype)), jax.random.key(0)
        config = FREE.replace(clip_eps=0.2, normalize_advantages=True, length_normalize=True, num_minibatches=3)
        with switched(STRICT):
            state, metrics = rloo_update(rloo_init(key, config, bigram, params), rows)
            prompts, ends = np.ones((4, 2), np.int32), np.array([0, 2])
            drawn = sample_completions(bigram, state.policy.params, key, prompts, prompts == 1, 2, 0.5, ends)
    assert state.policy.params.dtype == drawn.log_prob.dtype == dtype
    assert int(metrics["skipped_updates"]) == 0 and drawn.tokens.shape == (4, 4)

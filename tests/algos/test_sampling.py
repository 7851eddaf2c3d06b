"""Sampled completions: their frequencies beside the exact distribution, where they end, what padding may not change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import assert_equal
from scipy.stats import chisquare
from token_policies import V, distribution, parameters, plain_log_prob, policy

from jaxrl import BadInput, RLOOConfig, check_completions, rloo_init, rloo_update, sample_completions

PARAMS = jax.tree.map(jnp.float32, parameters())
PROMPTS = np.array([[1, 0, 2], [2, 2, 2], [0, 1, 2]], np.int32).repeat(40, 0)  # Padded on the left, by a token.
PROMPT_MASK = np.array([[True, True, True], [False, True, True], [False, False, True]]).repeat(40, 0)


def sample(seed=0, prompts=PROMPTS, prompt_mask=PROMPT_MASK, steps=4, temperature=1.0, end=2):
    return sample_completions(policy, PARAMS, jax.random.key(seed), prompts, prompt_mask, steps, temperature, end)


@pytest.fixture(scope="module")
def drawn():
    return jax.tree.map(np.asarray, sample())


def test_frequencies_are_those_of_the_exact_distribution():
    """Of two tokens of three, at temperature 0.7, by chi-square; temperature 1 is the negative control."""
    size, prompt, temperature = 20_000, [1, 0], 0.7
    prompts = np.tile(np.array(prompt, np.int32), (size, 1))
    found = sample(1, prompts, np.ones_like(prompts, bool), 2, temperature, V)  # No token ends it.
    pairs = np.asarray(found.tokens)[:, 2:] @ [V, 1]
    counts, params = np.bincount(pairs, minlength=9), jax.tree.map(np.asarray, PARAMS)
    assert chisquare(counts, size * distribution(params, prompt, 2, temperature)[1]).pvalue > 1e-3
    assert chisquare(counts, size * distribution(params, prompt, 2)[1]).pvalue < 1e-9


def test_log_probabilities_are_those_of_a_plain_loop_and_of_the_update(drawn):
    params = jax.tree.map(np.asarray, PARAMS)
    expected = [
        plain_log_prob(params, tokens[seen].tolist(), mask[seen])[0]
        for tokens, mask, seen in zip(drawn.tokens, drawn.mask, drawn.attention, strict=True)
    ]
    np.testing.assert_allclose(drawn.log_prob, expected, atol=1e-5)
    state = rloo_init(jax.random.key(0), RLOOConfig(), policy, PARAMS)
    rows = drawn._replace(reward=np.zeros(120), group=np.arange(120) // 40)
    check_completions(rows, V)
    _, metrics = rloo_update(state, rows)
    assert abs(metrics["kl"]) < 1e-6 and metrics["skipped_rows"] == 0  # Sampled under, and recomputed by the reference.
    np.testing.assert_allclose(metrics["completion_length"], drawn.mask.sum(1).mean(), rtol=1e-6)


def test_a_completion_ends_with_its_first_end_token_or_is_cut(drawn):
    assert drawn.tokens.shape == (120, 7)
    lengths = set()
    for tokens, mask in zip(drawn.tokens[:, 3:], drawn.mask[:, 3:], strict=True):
        length = mask.sum()
        assert mask[:length].all() and not mask[length:].any()
        assert (tokens[: length - 1] != 2).all() and (length == 4 or tokens[length - 1] == 2)
        assert (tokens[length:] == 2).all()
        lengths.add(int(length))
    assert lengths == {1, 2, 3, 4}
    np.testing.assert_array_equal(drawn.mask[:, :3], False)
    np.testing.assert_array_equal(drawn.attention[:, 3:], drawn.mask[:, 3:])


def test_each_of_several_end_tokens_ends_it():
    found = sample(end=np.array([2, 0]))
    tokens, mask = np.asarray(found.tokens)[:, 3:], np.asarray(found.mask)[:, 3:]
    last = tokens[np.arange(120), mask.sum(1) - 1]
    assert {0, 2} <= set(last.tolist()) and (tokens[:, :-1][mask[:, 1:]] == 1).all()


def test_padding_on_the_right_gives_the_same_completions(drawn):
    left = PROMPT_MASK.argmax(1)
    rolled = [np.array([np.roll(row, -by) for row, by in zip(x, left, strict=True)]) for x in (PROMPTS, PROMPT_MASK)]
    assert_equal(sample(prompts=rolled[0], prompt_mask=rolled[1])._replace(tokens=None), drawn._replace(tokens=None))


def test_equal_keys_give_equal_completions_and_others_do_not(drawn):
    assert_equal(sample(), drawn)
    assert not np.array_equal(sample(seed=1).tokens, drawn.tokens)


def test_temperature_0_takes_the_likeliest_and_low_ones_come_near():
    greedy, cold = sample(temperature=0.0), sample(seed=3, temperature=1e-3)
    assert_equal((greedy.tokens, greedy.log_prob), (cold.tokens, np.zeros(120, np.float32)))
    np.testing.assert_allclose(cold.log_prob, 0, atol=1e-2)


def test_one_trace_for_all_prompts_of_a_length():
    traces = []

    def counted(params, tokens, attention):
        traces.append(1)
        return policy(params, tokens, attention)

    def draw(first):
        prompts, mask = PROMPTS[first : first + 8], PROMPT_MASK[first : first + 8]
        sample_completions(counted, PARAMS, jax.random.key(first), prompts, mask, 2, 1.0 + first, first)

    draw(0)
    once = len(traces)
    draw(38)
    draw(1)
    assert len(traces) == once


@pytest.mark.parametrize("steps", [0, 2.5, None])
def test_the_number_of_tokens_must_be_one(steps):
    with pytest.raises(BadInput, match="max_new_tokens is"):
        sample(steps=steps)


def test_a_wrong_shape_is_named():
    with pytest.raises(AssertionError, match="prompt_mask must be shaped like prompts"):
        sample(prompt_mask=PROMPT_MASK[:, 1:])


WRONG = {
    "below 0": ({"temperature": -1.0}, r"temperature is -1\.0: it must be one number, at least 0 and finite"),
    "not a number": ({"temperature": np.nan}, "temperature is nan"),
    "one for each row": ({"temperature": np.ones(120)}, r"temperature is a ndarray of shape \(120,\)"),
    "no end": ({"end": []}, "end_token is a list: it must be a token, or a list of one or more"),
    "half a token": ({"end": 2.5}, r"end_token is 2\.5"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_temperature_or_an_end_token_that_cannot_be_is_refused(name):
    arguments, words = WRONG[name]
    with pytest.raises(BadInput, match=words):
        sample(**arguments)


def test_a_key_that_is_none_is_refused():
    with pytest.raises(BadInput, match="key is 3: it must be one JAX key"):
        sample_completions(policy, PARAMS, 3, PROMPTS, PROMPT_MASK, 1)

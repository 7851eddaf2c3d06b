"""A tiny policy over tokens, in JAX and once more as a plain loop, and completions for it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import Completions

V, PLACES = 3, 8


def policy(params, tokens, attention):
    """Logits from the token, its place, and the mean of all tokens so far; padding does not count."""
    count = jnp.cumsum(attention.astype(jnp.int32), 1)
    seen = jnp.cumsum(jax.nn.one_hot(tokens, V) * attention[..., None], 1) / jnp.maximum(count, 1)[..., None]
    return params["next"][tokens] + params["place"][jnp.clip(count - 1, 0, PLACES - 1)] + seen @ params["past"]


def parameters(seed=0, scale=0.7):
    rng = np.random.default_rng(seed)
    shapes = {"next": (V, V), "past": (V, V), "place": (PLACES, V)}
    return {name: jnp.asarray(scale * rng.normal(size=shape)) for name, shape in shapes.items()}


def plain_logits(params, sequence):
    """Logits after the last token of a sequence without padding."""
    mean = np.mean([np.eye(V)[token] for token in sequence], 0)
    return params["next"][sequence[-1]] + params["place"][len(sequence) - 1] + mean @ params["past"]


def plain_log_prob(params, sequence, marks, temperature=1.0):
    """The log-probability of the marked tokens, and the sum of the entropies that they were drawn with."""
    log_prob = entropy = 0.0
    for t in range(1, len(sequence)):
        if marks[t]:
            p = np.exp(plain_logits(params, sequence[:t]) / temperature)
            p /= p.sum()
            log_prob += np.log(p[sequence[t]])
            entropy -= (p * np.log(p)).sum()
    return log_prob, entropy


def distribution(params, prompt, steps, temperature=1.0):
    """Every completion of so many tokens with its probability."""
    every = list(itertools.product(range(V), repeat=steps))
    marks = [False] * len(prompt) + [True] * steps
    return every, np.exp([plain_log_prob(params, [*prompt, *y], marks, temperature)[0] for y in every])


def completions(seed=0, side="left", room=7, groups=(0, 1, 0, 2, 1, 0, 2, 0, 2, 0, 1, 2), **changes):
    """Rows of a prompt of 1 or 2 tokens and a completion of 1 to 4, padded on one side to `room`; the padding is a
    token like others."""
    rng = np.random.default_rng(seed)
    tokens, mask, attention = [], [], []
    for _ in groups:
        prompt, answer = rng.integers(0, V, rng.integers(1, 3)), rng.integers(0, V, rng.integers(1, 5))
        rest = room - len(prompt) - len(answer)
        before, after = (rest, 0) if side == "left" else (0, rest)
        tokens.append(np.pad(np.concatenate([prompt, answer]), (before, after), constant_values=2))
        mask.append(np.arange(room) >= before + len(prompt))
        mask[-1] &= np.arange(room) < room - after
        attention.append((np.arange(room) >= before) & (np.arange(room) < room - after))
    reward = rng.integers(0, 3, len(groups)).astype(np.float64)
    fields = Completions(np.array(tokens), np.array(mask), reward, np.array(groups), np.array(attention))
    return fields._replace(**changes)

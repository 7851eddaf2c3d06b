"""A small decoder of tokens in Flax, with a key-value cache for sampling."""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array


class Cache(NamedTuple):
    """The part of earlier tokens that later ones need.

    Attributes:
      keys, values: of each layer, `(layers, B, T, heads, width / heads)`, of which the first `length` are filled.
      attention: `(B, T)`, true where there is a token that is no padding.
      length: how many tokens there are.
    """

    keys: Array
    values: Array
    attention: Array
    length: Array


class Block(nn.Module):
    """Attention and a perceptron, each behind a layer norm and added to what came in."""

    heads: int

    @nn.compact
    def __call__(self, x: Array, visible: Array, cache: tuple[Array, Array, Array] | None) -> tuple[Array, Any]:
        """Takes `(B, S, width)`; `visible` `(B, S, T)` says which of T positions each of S sees; the cache is keys,
        values and where the new ones begin. Gives `(B, S, width)`, and all keys and values."""
        width = x.shape[-1]
        shape = (self.heads, width // self.heads)
        y = nn.LayerNorm()(x)
        query, key, value = jnp.moveaxis(nn.DenseGeneral((3, *shape), use_bias=False)(y), 2, 0)
        if cache is not None:
            keys, values, begin = cache
            key = jax.lax.dynamic_update_slice_in_dim(keys, key, begin, axis=1)
            value = jax.lax.dynamic_update_slice_in_dim(values, value, begin, axis=1)
        scores = jnp.einsum("bshd,bthd->bhst", query, key) / shape[1] ** 0.5
        weights = jax.nn.softmax(jnp.where(visible[:, None], scores, -1e9), axis=-1)
        x += nn.DenseGeneral(width, axis=(-2, -1), use_bias=False)(jnp.einsum("bhst,bthd->bshd", weights, value))
        return x + nn.Dense(width)(nn.gelu(nn.Dense(4 * width)(nn.LayerNorm()(x)))), (key, value)


class Decoder(nn.Module):
    """Tokens to logits of the next ones.

    Attributes:
      vocab_size: number of tokens.
      max_length: tokens in a row, padding not counted.
      width, layers, heads: its size.
    """

    vocab_size: int
    max_length: int
    width: int = 96
    layers: int = 2
    heads: int = 4

    @nn.compact
    def __call__(self, tokens: Array, attention: Array, cache: Cache | None = None) -> tuple[Array, Cache]:
        """Takes tokens `(B, S)` and `attention` `(B, S)`, true where there is no padding. Gives logits `(B, S, V)`, and
        the cache with these tokens. Positions are counted by attention, so it does not matter where the padding is."""
        size = tokens.shape[1]
        begin = jnp.zeros((), jnp.int32) if cache is None else cache.length
        seen = attention
        if cache is not None:
            seen = jax.lax.dynamic_update_slice_in_dim(cache.attention, attention, begin, axis=1)
        own = begin + jnp.arange(size)
        position = jnp.cumsum(seen, axis=1)[:, own] - 1
        places = jnp.arange(seen.shape[1])
        earlier, itself = places[None, :] < own[:, None], places[None, :] == own[:, None]
        visible = (earlier & seen[:, None, :]) | itself  # Padding sees itself, so that its softmax has something.
        x = nn.Embed(self.vocab_size, self.width)(tokens)
        x += nn.Embed(self.max_length, self.width)(jnp.clip(position, 0, self.max_length - 1))
        kept = []
        for layer in range(self.layers):
            past = None if cache is None else (cache.keys[layer], cache.values[layer], begin)
            x, pair = Block(self.heads)(x, visible, past)
            kept.append(pair)
        keys, values = (jnp.stack(each) for each in zip(*kept, strict=True))
        return nn.Dense(self.vocab_size)(nn.LayerNorm()(x)), Cache(keys, values, seen, begin + size)


@dataclasses.dataclass(frozen=True)
class DecoderPolicy:
    """A decoder as `rloo_init` and `sample_completions` take it: a function from parameters, tokens and attention to
    logits, with the two methods of `jaxrl.algos.sampling.CachedPolicy`. Equal decoders make equal policies."""

    module: Decoder

    def init(self, key: Array) -> Any:
        """Parameters."""
        token = jnp.zeros((1, 1), jnp.int32)
        # Jitted, because initialisers run one by one would each be compiled on their own.
        return jax.jit(self.module.init)(key, token, token == 0)

    def __call__(self, params: Any, tokens: Array, attention: Array) -> Array:
        """Logits `(B, L, V)` of tokens `(B, L)`."""
        return self.module.apply(params, tokens, attention)[0]  # type: ignore[return-value]

    def start(self, params: Any, tokens: Array, attention: Array, room: int) -> tuple[Array, Cache]:
        """Logits `(B, V)` of the first new token after prompts `(B, P)` with padding on the left, and a cache."""
        logits, cache = self.module.apply(params, tokens, attention)
        assert isinstance(cache, Cache)
        keys, values = (
            jnp.pad(each, ((0, 0), (0, 0), (0, room), (0, 0), (0, 0))) for each in (cache.keys, cache.values)
        )
        return logits[:, -1], Cache(keys, values, jnp.pad(cache.attention, ((0, 0), (0, room))), cache.length)

    def step(self, params: Any, cache: Cache, token: Array) -> tuple[Array, Cache]:
        """Logits `(B, V)` of the token after `token`, `(B,)`, and the cache with it."""
        logits, longer = self.module.apply(params, token[:, None], jnp.ones((len(token), 1), bool), cache)
        assert isinstance(longer, Cache)
        return logits[:, 0], longer

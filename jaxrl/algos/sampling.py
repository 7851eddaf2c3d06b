"""Completions drawn from a policy, token by token, in one compiled program."""

import functools
from typing import Any, NamedTuple, Protocol, runtime_checkable

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from jaxrl.algos.checks import check_key, described
from jaxrl.data.completions import Completions
from jaxrl.device import check_process
from jaxrl.errors import BadInput
from jaxrl.ops.arrays import common_type


@runtime_checkable
class CachedPolicy(Protocol):
    """A policy that keeps what it has computed of the earlier tokens, so that each new token costs one position.

    It is hashable, and equal ones compute the same.
    """

    def __call__(self, params: Any, tokens: Array, attention: Array) -> Array:
        """Logits `(B, L, V)` of tokens `(B, L)`."""
        ...

    def start(self, params: Any, tokens: Array, attention: Array, room: int) -> tuple[Array, Any]:
        """Takes the prompts, `(B, P)`, whose padding is on the left.

        Returns:
          The logits `(B, V)` of the first new token, and a cache with room for `room` more: any pytree of arrays.
        """
        ...

    def step(self, params: Any, cache: Any, token: Array) -> tuple[Array, Any]:
        """Takes one more token of each row, `(B,)`.

        Returns:
          The logits `(B, V)` of the next, and the cache, of the same structure.
        """
        ...


class _Drawn(NamedTuple):
    """The carry of the loop over new tokens."""

    step: Array
    tokens: Array  # (B, N), new ones
    mask: Array  # (B, N)
    open: Array  # (B,), completions that have not ended
    log_prob: Array  # (B,)
    logits: Array  # (B, V), of the next token
    cache: Any


def sample_completions(
    policy: Any,
    params: Any,
    key: Array,
    prompts: ArrayLike,
    prompt_mask: ArrayLike,
    max_new_tokens: int,
    temperature: ArrayLike = 1.0,
    end_token: ArrayLike = 0,
) -> Completions:
    """A completion of each prompt, its tokens drawn from `softmax(logits / temperature)` until an end token.

    The program is compiled once for each shape of `prompts`, number of end tokens, policy and `max_new_tokens`. It
    stops when all rows have ended. A policy with the two methods of `CachedPolicy` computes each position once; any
    other computes all positions anew for each token.

    Args:
      policy: `(params, tokens, attention) -> logits`, as of `rloo_init`; hashable.
      params: its parameters.
      key: one JAX key. Equal keys give equal completions.
      prompts: `(B, P)`, whole numbers. For K completions of each prompt, repeat it K times.
      prompt_mask: `(B, P)`, boolean: true on the prompt, false on padding, which may be on either side.
      max_new_tokens: the length at which a completion is cut, its last token then no end token.
      temperature: 0 takes the likeliest token; its log-probability is then 0, as it cannot be another.
      end_token: a token, or several of which each ends a completion.

    Returns:
      Completions with `(B, P + max_new_tokens)` tokens. Prompts are moved to the right, so that each completion follows
      its prompt; behind a completion stands the (first) end token. `log_prob` is that of the completion, with
      `temperature`. `reward` and `group` are None: the caller fills them in.

    Raises:
      AssertionError: a shape is wrong; the message names the argument.
      BadInput: the key, or one of the numbers, cannot be.
    """
    check_process()
    check_key(key)
    _check_numbers(max_new_tokens, temperature, end_token)
    chex.assert_rank(prompts, 2, custom_message="prompts must be (B, P)")
    if not jnp.issubdtype(prompts.dtype, np.integer):  # type: ignore[union-attr]
        raise BadInput(f"prompts are of type {prompts.dtype}: they must hold whole numbers")  # type: ignore[union-attr]
    chex.assert_shape(prompt_mask, jnp.shape(prompts), custom_message="prompt_mask must be shaped like prompts")
    # Put on the device on purpose: JAX's transfer guard stops what goes there by itself.
    inputs = (x if isinstance(x, Array) else jax.device_put(np.asarray(x)) for x in (prompts, prompt_mask))
    numbers = (x if isinstance(x, Array) else jax.device_put(np.asarray(x)) for x in (temperature, end_token))
    return _sample(policy, params, key, *inputs, int(max_new_tokens), *numbers)


def _check_numbers(max_new_tokens: Any, temperature: Any, end_token: Any) -> None:
    """Raises BadInput, in one line, for what can be seen to be wrong without waiting for a device."""
    count = isinstance(max_new_tokens, int | np.integer) and not isinstance(max_new_tokens, bool)
    if not count or max_new_tokens < 1:
        raise BadInput(f"max_new_tokens is {described(max_new_tokens)}: it must be a whole number of at least 1")
    on_host = not isinstance(temperature, Array)
    number = np.asarray(temperature) if on_host else temperature
    real = number.ndim == 0 and jnp.issubdtype(number.dtype, np.number)
    if not real or (on_host and not 0 <= number < np.inf):
        raise BadInput(f"temperature is {described(temperature)}: it must be one number, at least 0 and finite")
    ends = end_token if isinstance(end_token, Array) else np.asarray(end_token)
    if ends.ndim > 1 or not ends.size or not jnp.issubdtype(ends.dtype, np.integer):
        raise BadInput(f"end_token is {described(end_token)}: it must be a token, or a list of one or more")


@functools.partial(jax.jit, static_argnames=("policy", "max_new_tokens"))
def _sample(
    policy: Any,
    params: Any,
    key: Array,
    prompts: Array,
    prompt_mask: Array,
    max_new_tokens: int,
    temperature: Array,
    end_token: Array,
) -> Completions:
    tokens, attention = _to_the_right(jnp.asarray(prompts, jnp.int32), jnp.asarray(prompt_mask, bool))
    ends = jnp.atleast_1d(jnp.asarray(end_token, jnp.int32))
    policy = policy if isinstance(policy, CachedPolicy) else _Recomputed(policy)
    size = len(tokens)
    logits, cache = policy.start(params, tokens, attention, max_new_tokens)
    dtype = common_type(logits.dtype, jnp.float32)

    def draw(drawn: _Drawn) -> _Drawn:
        token, log_prob = _draw(jax.random.fold_in(key, drawn.step), drawn.logits.astype(dtype), temperature)
        token = jnp.where(drawn.open, token, ends[0])
        logits, cache = policy.step(params, drawn.cache, token)
        return _Drawn(
            step=drawn.step + 1,
            tokens=drawn.tokens.at[:, drawn.step].set(token),
            mask=drawn.mask.at[:, drawn.step].set(drawn.open),
            open=drawn.open & (token[:, None] != ends[None, :]).all(1),
            log_prob=drawn.log_prob + jnp.where(drawn.open, log_prob, 0),
            logits=logits,
            cache=cache,
        )

    first = _Drawn(
        step=jnp.zeros((), jnp.int32),
        tokens=jnp.broadcast_to(ends[0], (size, max_new_tokens)),
        mask=jnp.zeros((size, max_new_tokens), bool),
        open=jnp.ones(size, bool),
        log_prob=jnp.zeros(size, dtype),
        logits=logits,
        cache=cache,
    )
    last = jax.lax.while_loop(lambda drawn: (drawn.step < max_new_tokens) & drawn.open.any(), draw, first)
    return Completions(
        tokens=jnp.concatenate([tokens, last.tokens], axis=1),
        mask=jnp.concatenate([jnp.zeros_like(attention), last.mask], axis=1),
        reward=None,
        group=None,
        attention=jnp.concatenate([attention, last.mask], axis=1),
        log_prob=last.log_prob,
    )


def _draw(key: Array, logits: Array, temperature: Array) -> tuple[Array, Array]:
    """A token of each row, `(B,)`, and its log-probability; the likeliest, and 0, at temperature 0."""
    greedy = jnp.asarray(temperature, logits.dtype) == 0
    log_probs = jax.nn.log_softmax(logits / jnp.where(greedy, 1, jnp.asarray(temperature, logits.dtype)))
    token = jnp.where(greedy, logits.argmax(-1), jax.random.categorical(key, log_probs)).astype(jnp.int32)
    taken = jnp.take_along_axis(log_probs, token[:, None], axis=-1)[:, 0]
    return token, jnp.where(greedy, 0, taken)


def _to_the_right(tokens: Array, attention: Array) -> tuple[Array, Array]:
    """The rows with their padding on the left, and the order of their tokens kept."""
    order = jnp.argsort(attention, axis=1, stable=True)
    return jnp.take_along_axis(tokens, order, axis=1), jnp.take_along_axis(attention, order, axis=1)


class _Cache(NamedTuple):
    """All tokens so far, which is all that a policy without a cache can be given."""

    tokens: Array
    attention: Array
    length: Array


class _Recomputed:
    """A policy without a cache as one with it: each step computes all positions anew."""

    def __init__(self, policy: Any) -> None:
        self._policy = policy

    def start(self, params: Any, tokens: Array, attention: Array, room: int) -> tuple[Array, _Cache]:
        """As of `CachedPolicy`."""
        length = tokens.shape[1]
        tokens, attention = (jnp.pad(x, ((0, 0), (0, room))) for x in (tokens, attention))
        cache = _Cache(tokens, attention, jnp.asarray(length, jnp.int32))
        return self._last(params, cache), cache

    def step(self, params: Any, cache: _Cache, token: Array) -> tuple[Array, _Cache]:
        """As of `CachedPolicy`."""
        cache = _Cache(
            cache.tokens.at[:, cache.length].set(token),
            cache.attention.at[:, cache.length].set(True),
            cache.length + 1,
        )
        return self._last(params, cache), cache

    def _last(self, params: Any, cache: _Cache) -> Array:
        logits = self._policy(params, cache.tokens, cache.attention)
        return jax.lax.dynamic_index_in_dim(logits, cache.length - 1, axis=1, keepdims=False)

"""Whole episodes of environments that are JAX functions, as one program."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxrl.envs.episodes import DEFAULT_MAX_STEPS
from jaxrl.envs.faults import MAX_FAULTS_PER_EPISODE
from jaxrl.envs.on_device import DeviceEnvs
from jaxrl.errors import BadInput


def evaluate_on_device(
    envs: DeviceEnvs, policy: Callable[[Array], Any], key: Array, num_episodes: int
) -> tuple[Array, Array]:
    """Runs `num_episodes` whole episodes from fresh first states.

    Every environment gives the same number of episodes (the first ones one more, where they do not divide evenly): the
    first that it finishes. Taking the first to finish from all of them would favour the short ones. An episode that a
    fault breaks off does not count; another is run instead. Without a time limit an episode is cut at
    `DEFAULT_MAX_STEPS`, and counts with what it has up to there.

    Args:
      envs: at most `num_episodes` of them are used.
      policy: from raw observations `(N, S)` to actions in the environment's units.
      key: one JAX key; it fixes every episode.
      num_episodes: how many episodes count.

    Returns:
      Episode returns and lengths, `(num_episodes,)` each, environment by environment. Where an environment has
      more than `MAX_FAULTS_PER_EPISODE` faults without finishing an episode, nothing more is run: what is missing has
      the return NaN and the length 0.
    """
    if num_episodes < 1:
        raise BadInput(f"num_episodes is {num_episodes}: it must be at least 1")
    limit = DEFAULT_MAX_STEPS if envs.time_limit is None else envs.time_limit
    many = num_episodes if envs.num_first_states else 0
    envs = DeviceEnvs(envs.env, min(envs.num_envs, num_episodes), limit, many)
    share, more = divmod(num_episodes, envs.num_envs)
    quota = jnp.where(jnp.arange(envs.num_envs) < more, share + 1, share)
    env_state = envs.reset(key)
    every = jnp.arange(envs.num_envs)
    slots = share + 1  # Of each environment; the last takes what nobody wants.
    returns = jnp.full((envs.num_envs, slots + 1), jnp.nan, env_state.episode_return.dtype)
    lengths = jnp.zeros((envs.num_envs, slots + 1), jnp.int32)

    def goes_on(carry: Any) -> Array:
        env_state, count, _, _ = carry
        return (count < quota).any() & (env_state.num_faults <= MAX_FAULTS_PER_EPISODE).all()

    def step(carry: Any) -> Any:
        env_state, count, returns, lengths = carry
        env_state, _, episodes = envs.step_counted(env_state, policy(env_state.obs))
        counts = episodes.ended & (count < quota)
        slot = jnp.where(counts, count, slots)
        returns = returns.at[every, slot].set(episodes.episode_return)
        lengths = lengths.at[every, slot].set(episodes.episode_length)
        return env_state, count + counts.astype(jnp.int32), returns, lengths

    start = env_state, jnp.zeros(envs.num_envs, jnp.int32), returns, lengths
    _, _, returns, lengths = jax.lax.while_loop(goes_on, step, start)
    wanted = [(index, slot) for index in range(envs.num_envs) for slot in range(share + (index < more))]
    rows, columns = (jnp.asarray(each) for each in zip(*wanted, strict=True))
    return returns[rows, columns], lengths[rows, columns]

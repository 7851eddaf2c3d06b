"""Where TD3's and SAC's updates spend the time that their products do not take: each part alone. For benchmark.py."""

import dataclasses
import functools
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import timed_kernels
from gymnasium import spaces
from timed_kernels import ACTIONS, BATCH, BOX, DELAY, OBS, Call, in_turn

from jaxrl.algos.learner import apply_gradients, polyak_update
from jaxrl.algos.sac import SACState, sac_act, sac_init
from jaxrl.algos.sac_config import SACConfig
from jaxrl.algos.td3 import TD3Config, TD3State, smoothed, td3_init
from jaxrl.data.replay import replay_add, replay_init, replay_sample

WHOLE, PRODUCTS, LEFT = "the update, sampling included", "its matrix products", "what is left: ReLU, sums, waiting"
NOISE = "noise on the target's actions; SAC: both actions, their log-densities and a gradient"


def rest(repeats: int) -> dict[str, dict[str, float]]:
    """Microseconds of each part, by algorithm; of TD3 that of two updates, one of them the actor's."""
    box, key = spaces.Box(-1.0, 1.0, (OBS,)), jax.random.key(0)
    td3, sac = td3_init(key, TD3Config(policy_delay=DELAY), box, BOX), sac_init(key, SACConfig(), box, BOX)
    parts: dict[str, dict[str, tuple[Call, int]]] = {
        f"td3, {DELAY} updates": {
            WHOLE: (timed_kernels.td3_call(), 1),
            PRODUCTS: (timed_kernels.td3_products(), 1),
            "drawing a batch": (_draw(), DELAY),
            NOISE: (_noise(td3), DELAY),
            "norms and Adam, critics": (_step(td3.critic), DELAY),
            "norm and Adam, actor": (_step(td3.actor), 1),
            "targets": (_follow(td3), 1),
        },
        "sac": {
            WHOLE: (timed_kernels.sac_call(), 1),
            PRODUCTS: (timed_kernels.sac_products(), 1),
            "drawing a batch": (_draw(), 1),
            NOISE: (_actions(sac), 1),
            "norms and Adam, critics": (_step(sac.critic), 1),
            "norm and Adam, actor": (_step(sac.actor), 1),
            "targets": (_follow(sac), 1),
        },
    }
    empty, nothing = "an empty call, taken off each part", functools.partial(jax.jit(lambda x: x + 1), jnp.zeros(()))
    found: dict[str, dict[str, float]] = {}
    for algo, calls in parts.items():
        rates = in_turn({name: call for name, (call, _) in calls.items()} | {empty: nothing}, repeats)
        each = {name: 1e6 / statistics.median(rate) for name, rate in rates.items()}
        for name, (_, times) in calls.items():
            if name not in (WHOLE, PRODUCTS):
                each[name] = times * (each[name] - each[empty])
        each[LEFT] = 2 * each[WHOLE] - sum(each.values()) + each[empty]
        for name, time in each.items():
            found.setdefault(name, {})[algo] = time
    return found


def _draw() -> Call:
    stored = replay_add(replay_init(100_000, OBS, ACTIONS), timed_kernels.transitions((10_000,), OBS, BOX))
    return functools.partial(jax.jit(lambda key, stored: replay_sample(stored, key, BATCH)), jax.random.key(0), stored)


def _noise(state: TD3State) -> Call:
    return functools.partial(jax.jit(smoothed), state, jnp.zeros((BATCH, ACTIONS)), state.key)


def _actions(state: SACState) -> Call:
    """Both of an update: those at the next observations, and those at these, whose gradient is taken."""

    def sample(mean: jax.Array, log_std: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        u, log_prob = dataclasses.replace(policy, mean=mean, log_std=log_std).sample_and_log_prob(key)
        return policy.to_env(u), log_prob

    policy: Any = sac_act(state, jnp.zeros((BATCH, OBS)))

    @jax.jit
    def both(policy: Any, key: jax.Array) -> Any:
        keys = jax.random.split(key)
        there = sample(policy.mean, policy.log_std, keys[0])
        here, back = jax.vjp(functools.partial(sample, key=keys[1]), policy.mean, policy.log_std)
        return there, back(here)

    return functools.partial(both, policy, state.key)


def _step(learner: Any) -> Call:
    """The norm of a gradient and Adam's step along it."""
    grads = jax.tree.map(lambda p: 1e-3 * jnp.ones_like(p), learner.params)
    learner = jax.tree.map(jnp.copy, learner)  # It is donated.

    @functools.partial(jax.jit, donate_argnums=0)
    def step(learner: Any, grads: Any) -> Any:
        return apply_gradients(learner, {}, grads, 3e-4, True)[0]

    def call() -> Any:
        nonlocal learner
        learner = step(learner, grads)
        return learner.step

    return call


def _follow(state: Any) -> Call:
    """The targets of whatever has one."""
    learners = [each for each in (state.actor, state.critic) if hasattr(each, "target_params")]
    learners = jax.tree.map(jnp.copy, learners)
    follow = jax.jit(lambda learners: [polyak_update(each, 0.005) for each in learners], donate_argnums=0)

    def call() -> Any:
        nonlocal learners
        learners = follow(learners)
        return learners[0].step

    return call

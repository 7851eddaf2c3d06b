"""The kernels timed alone: updates beside the matrix products that they are made of, several learners beside one, the
replay buffer. For benchmark.py."""

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from jaxrl.algos.ddpg import DDPGConfig, DDPGState, ddpg_init, ddpg_update
from jaxrl.algos.matmul import product
from jaxrl.algos.ppo import PPOConfig, PPOState, ppo_init, ppo_update
from jaxrl.algos.sac import sac_init, sac_update
from jaxrl.algos.sac_config import SACConfig
from jaxrl.algos.td3 import TD3Config, td3_init, td3_update
from jaxrl.data.replay import Replay, replay_add, replay_init, replay_sample
from jaxrl.data.transition import Transition

OBS, ACTIONS, BATCH, HIDDEN = 17, 6, 256, (400, 300)  # Of DDPG's update: HalfCheetah's.
BOX = spaces.Box(-1.0, 1.0, (ACTIONS,))
WIDTH, DELAY = 256, 2  # Of TD3's and SAC's.
DDPG = "ddpg, batch 256, 400-300, sampling included"
TURNS = 10  # Of a round.

Call = Callable[[], Any]


def kernels(repeats: int) -> dict[str, dict[str, dict[str, float]]]:
    """Tables of all of it."""
    pairs = {
        DDPG: (ddpg_call(), _ddpg_products()),
        "td3, 2 updates (1 of the actor), batch 256, 256-256, sampling included": (td3_call(), td3_products()),
        "sac, batch 256, 256-256, sampling included": (sac_call(), sac_products()),
        "ppo, 256 rows x 20 epochs, 64-64 (CartPole)": (
            _ppo_call(*_ppo_case(4, spaces.Discrete(2), 32, epochs=20, minibatches=1)),
            _ppo_products(4, 2, 256, steps=20),
        ),
        "ppo, 2,048 rows x 10 epochs of 32 minibatches, 64-64 (HalfCheetah)": (
            _ppo_call(*_ppo_case(17, spaces.Box(-1.0, 1.0, (6,)), 256, epochs=10, minibatches=32)),
            _ppo_products(17, 6, 64, steps=320),
        ),
    }
    updates = {}
    for name, (call, products) in pairs.items():
        rates = in_turn({"update": call, "products": products}, repeats)
        updates[name] = {
            "updates/s": statistics.median(rates["update"]),
            "their products alone/s": statistics.median(rates["products"]),
            "share": _ratio(rates["update"], rates["products"]),
        }
    return {
        "Updates, and the matrix products that they are made of": updates,
        "Several learners, the time of one update of each over that of one": _several(repeats),
        "Replay buffer": _buffer(repeats),
    }


def in_turn(calls: dict[str, Call], repeats: int) -> dict[str, list[float]]:
    """Calls per second of each, round by round; a round is the median of short turns, whose last call is waited for.

    The first call of a turn is not counted: its caches and its memory are still those of the program before.
    """
    counts = {}
    for name, call in calls.items():
        jax.block_until_ready(call())
        began = time.perf_counter()
        jax.block_until_ready(call())
        counts[name] = max(3, int(0.05 / (time.perf_counter() - began)))
    rounds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        turns: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(TURNS):
            for name, call in calls.items():
                jax.block_until_ready(call())
                began = time.perf_counter()
                for _ in range(counts[name]):
                    last = call()
                jax.block_until_ready(last)
                turns[name].append(counts[name] / (time.perf_counter() - began))
        for name, rates in turns.items():
            rounds[name].append(statistics.median(rates))
    return rounds


def ddpg_call() -> Call:
    """DDPG's update as its loop makes it, batch and all."""
    return _off_policy_call(ddpg_init, ddpg_update, DDPGConfig())


def td3_call() -> Call:
    """TD3's updates from one of its actor's to the next."""
    return _off_policy_call(td3_init, td3_update, TD3Config(policy_delay=DELAY), DELAY)


def sac_call() -> Call:
    """SAC's update."""
    return _off_policy_call(sac_init, sac_update, SACConfig())


def _off_policy_call(init: Callable[..., Any], update: Callable[..., Any], config: Any, updates: int = 1) -> Call:
    """`updates` updates as the loop makes them, batch and all."""
    state = init(jax.random.key(0), config, spaces.Box(-1.0, 1.0, (OBS,)), BOX)
    stored, key = replay_add(replay_init(100_000, OBS, ACTIONS), transitions((10_000,), OBS, BOX)), jax.random.key(1)

    @functools.partial(jax.jit, donate_argnums=0)
    def learn(state: Any, replay: Replay) -> Any:
        return update(state, replay_sample(replay, jax.random.fold_in(key, state.num_updates), BATCH))[0]

    def call() -> Any:
        nonlocal state
        for _ in range(updates):
            state = learn(state, stored)
        return state.num_updates

    return call


def _ddpg_case() -> tuple[DDPGState, Transition]:
    state = ddpg_init(jax.random.key(0), DDPGConfig(), spaces.Box(-1.0, 1.0, (OBS,)), BOX)
    return state, transitions((BATCH,), OBS, BOX)


def _ppo_case(obs: int, space: spaces.Space, steps: int, epochs: int, minibatches: int) -> tuple[PPOState, Transition]:
    config = PPOConfig(num_epochs=epochs, num_minibatches=minibatches)
    state = ppo_init(jax.random.key(0), config, spaces.Box(-1.0, 1.0, (obs,)), space)
    return state, transitions((steps, 8), obs, space)


def _ppo_call(state: PPOState, rollout: Transition) -> Call:
    return functools.partial(jax.jit(ppo_update), state, rollout)


def transitions(shape: tuple[int, ...], obs: int, space: spaces.Space) -> Transition:
    """Transitions of nothing in particular."""
    rng = np.random.default_rng(0)
    seen, after = (rng.normal(size=(*shape, obs)).astype(np.float32) for _ in range(2))
    if isinstance(space, spaces.Discrete):
        action = rng.integers(0, int(space.n), shape)
    else:
        action = rng.normal(size=(*shape, *(space.shape or ()))).astype(np.float32)
    reward, never = rng.normal(size=shape).astype(np.float32), np.zeros(shape, bool)
    return Transition(seen, action, reward, after, rng.random(shape) < 0.02, never)


Products = list[tuple[int, int, int]]  # (m, k, n) of each product (m, k) x (k, n).


def _ddpg_products() -> Call:
    """DDPG's matrix products alone."""
    # Forward: both target networks, critic, actor, critic above it; then what is left of each backward pass, where the
    # actor's through the critic needs neither the critic's weights nor its first layer.
    wide, narrow = HIDDEN
    actor = [(BATCH, OBS, wide), (BATCH, wide, narrow), (BATCH, narrow, ACTIONS)]
    critic = [(BATCH, OBS, wide), (BATCH, wide + ACTIONS, narrow), (BATCH, narrow, 1)]
    products = 2 * actor + 3 * critic
    products += _weights(critic) + _inputs(critic[1:], wide)
    products += [(BATCH, 1, narrow), (BATCH, narrow, ACTIONS)]
    products += _weights(actor) + _inputs(actor[1:], wide)
    return _products(products)


def td3_products() -> Call:
    """The matrix products alone of `td3_call`."""
    return _twin_products(outputs=1, through=1, every=DELAY)


def sac_products() -> Call:
    """The matrix products alone of `sac_call`."""
    return _twin_products(outputs=2, through=2, every=1)


def _twin_products(outputs: int, through: int, every: int) -> Call:
    """The matrix products alone of `every` updates with two critics. The actor has `outputs` for each number of an
    action, and its gradient goes `through` so many critics: 1 and 1 at every second update of TD3, 2 and 2 of SAC."""
    actor = [(BATCH, OBS, WIDTH), (BATCH, WIDTH, WIDTH), (BATCH, WIDTH, outputs * ACTIONS)]
    critic = [(BATCH, OBS + ACTIONS, WIDTH), (BATCH, WIDTH, WIDTH), (BATCH, WIDTH, 1)]
    fit = actor + 2 * (critic + critic + _weights(critic) + _inputs(critic[1:], WIDTH))
    to_action = [*_inputs(critic[1:], WIDTH), (BATCH, WIDTH, ACTIONS)]
    climb = actor + through * (critic + to_action) + _weights(actor) + _inputs(actor[1:], WIDTH)
    return _products(every * fit + climb)


def _weights(layers: Products) -> Products:
    """The products that give the gradients of the layers' weights."""
    return [(k, m, n) for m, k, n in layers]


def _inputs(layers: Products, width: int) -> Products:
    """The products that give the gradients of the layers' inputs, of which `width` numbers are wanted of the first."""
    return [(m, n, width if i == 0 else k) for i, (m, k, n) in enumerate(layers)]


def _products(sizes: Products) -> Call:
    pairs = [(_matrix(m, k), _matrix(k, n)) for m, k, n in sizes]
    return functools.partial(jax.jit(lambda pairs: [a @ b for a, b in pairs]), pairs)


def _ppo_products(obs: int, actions: int, batch: int, steps: int) -> Call:
    """The matrix products of PPO's gradient steps alone: forward and backward through actor and critic."""
    x = _matrix(batch, obs)
    nets = [[_matrix(obs, 64), _matrix(64, 64), _matrix(64, outputs)] for outputs in (actions, 1)]

    def step(nets: Any, _: None) -> Any:
        new = []
        for a, b, c in nets:
            first, back_a = jax.vjp(product, x, a)
            second, back_b = jax.vjp(product, first, b)
            out, back_c = jax.vjp(product, second, c)
            of_second, of_c = back_c(out)
            of_first, of_b = back_b(of_second)
            grads = back_a(of_first)[1], of_b, of_c
            # Something of them must live on, or the compiler leaves them out.
            new.append([w * 0.9 + g * 1e-9 for w, g in zip((a, b, c), grads, strict=True)])
        return new, None

    return functools.partial(jax.jit(lambda nets: jax.lax.scan(step, nets, length=steps)[0]), nets)


def _matrix(rows: int, columns: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(rows).normal(size=(rows, columns)) * 0.1, jnp.float32)


def _several(repeats: int) -> dict[str, dict[str, float]]:
    cases: dict[str, tuple[Callable[..., Any], Any]] = {
        "ppo, CartPole's": (ppo_update, _ppo_case(4, spaces.Discrete(2), 32, epochs=20, minibatches=1)),
        "ddpg, HalfCheetah's": (ddpg_update, _ddpg_case()),
    }
    found = {}
    for name, (update, arguments) in cases.items():
        for count in (2, 5):
            rates = in_turn(_learners(update, arguments, count), repeats)
            kinds = {kind: _ratio(rates["one"], each) for kind, each in rates.items() if kind != "one"}
            found[f"{name}, {count} learners"] = kinds
    return found


def _learners(update: Callable[..., Any], arguments: Any, count: int) -> dict[str, Call]:
    """One learner's update, and `count` of it in three ways."""
    stacked = jax.tree.map(lambda x: jnp.stack([x] * count), arguments)
    one, vmapped = jax.jit(update), jax.jit(jax.vmap(update))
    mapped = jax.jit(lambda *stacked: jax.lax.map(lambda each: update(*each), stacked))
    return {
        "one": lambda: one(*arguments),
        "vmap": lambda: vmapped(*stacked),
        "lax.map": lambda: mapped(*stacked),
        "a call of its own for each": lambda: [one(*arguments) for _ in range(count)],
    }


def _buffer(repeats: int) -> dict[str, dict[str, float]]:
    row, key = transitions((1,), OBS, spaces.Box(-1.0, 1.0, (ACTIONS,))), jax.random.key(0)
    add = jax.jit(replay_add, donate_argnums=0)
    sample = jax.jit(lambda replay, key: replay_sample(replay, key, BATCH))
    found = {}
    for size in (1_000, 1_000_000):
        held = [add(replay_init(size, OBS, ACTIONS), row)]

        def store(held: list[Replay] = held) -> Any:
            held[0] = add(held[0], row)
            return held[0]

        def draw(held: list[Replay] = held) -> Any:
            return sample(held[0], key)

        rates = in_turn({"add a transition, us": store, "draw a batch of 256, us": draw}, repeats)
        found[f"{size:,} transitions"] = {name: 1e6 / statistics.median(each) for name, each in rates.items()}
    return found


def _ratio(a: list[float], b: list[float]) -> float:
    """The median over rounds."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))

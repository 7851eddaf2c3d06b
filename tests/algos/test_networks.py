"""The networks' forward pass on the host against the one that the kernels use, and the products in the latter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from jaxrl import DDPGConfig, PPOConfig, Transition, ddpg_init, ddpg_update, ppo_act, ppo_init, ppo_update
from jaxrl.algos.matmul import product
from jaxrl.algos.networks import host_policy

OBSERVATIONS = spaces.Box(-np.inf, np.inf, (5,))


SPACES = {
    "discrete": (spaces.Discrete(4, start=-2), {}, (7,)),
    "several": (spaces.MultiDiscrete([[3, 2], [5, 2]], start=[[0, 4], [-1, 0]]), {}, (7, 4)),
    "binary": (spaces.MultiBinary([2, 3]), {}, (7, 6)),
    "box": (spaces.Box(-1.0, 1.0, (3,)), {}, (7, 3)),
    "box of other bounds": (spaces.Box(np.float32([[0, -5]]), np.float32([[10, -4]])), {}, (7, 2)),
    "squashed": (spaces.Box(np.float32([0, -5]), np.float32([10, -4])), {"squash_actions": True}, (7, 2)),
}


@pytest.mark.parametrize(
    ("name", "sizes"),
    # Of eleven layers Dense_10 comes after Dense_9, and not after Dense_1; that is the same for every kind of actions.
    [*((name, sizes) for name in SPACES for sizes in ((8,), (64, 64))), ("box", (4,) * 11)],
    ids=str,
)
def test_the_host_acts_as_the_kernel_recomputes(tolerance, name, sizes):
    space, settings, shape = SPACES[name]
    config = PPOConfig(hidden_sizes=sizes, initial_log_std=0.3, **settings)
    state = ppo_init(jax.random.key(1), config, OBSERVATIONS, space)
    # Weights as after training, not near zero.
    actor = state.actor.replace(params=jax.tree.map(lambda x: x * 2 + 0.1, state.actor.params))
    obs = np.random.default_rng(0).normal(size=(7, 5)).astype(actor.params["params"]["mlp"]["Dense_0"]["bias"].dtype)
    ours, theirs = host_policy(actor.module, actor.params)(obs), ppo_act(state.replace(actor=actor), obs)
    assert type(ours) is type(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert isinstance(a, np.ndarray)
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(ours.mode(), theirs.mode(), rtol=tolerance, atol=tolerance)
    assert ours.sample(np.random.default_rng(0)).shape == shape
    action = ours.to_env(ours.sample(np.random.default_rng(0)))
    assert action.shape == shape
    if not isinstance(space, spaces.Box):
        assert all(space.contains(row.reshape(space.shape).astype(space.dtype)) for row in action)


def test_equal_settings_give_the_same_objects():
    states = [ppo_init(jax.random.key(k), PPOConfig(), OBSERVATIONS, spaces.Discrete(2)) for k in (0, 1)]
    assert states[0].actor.module is states[1].actor.module
    assert states[0].actor.apply_fn is states[1].actor.apply_fn
    assert states[0].actor.tx is states[1].actor.tx
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])


def precisions(jaxpr):
    """Of every product in a program, at whatever depth."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.params["precision"]
        for part in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns"):
                yield from precisions(inner)


def transitions(shape, space):
    action = np.zeros((*shape, *space.shape), space.dtype)
    obs, flags = np.ones((*shape, 5), np.float32), np.zeros(shape, bool)
    return Transition(obs, action, np.ones(shape, np.float32), obs, flags, flags)


@pytest.mark.parametrize("name", ["discrete", "box", "squashed"])
def test_no_product_of_ppo_may_be_rounded_to_fewer_bits(name):
    """A GPU would, unless told otherwise."""
    space, settings, _ = SPACES[name]
    state = ppo_init(jax.random.key(0), PPOConfig(num_minibatches=2, **settings), OBSERVATIONS, space)
    found = list(precisions(jax.make_jaxpr(ppo_update)(state, transitions((4, 2), space)).jaxpr))
    assert len(found) > 20
    assert set(found) == {(jax.lax.Precision.HIGHEST,) * 2}


def test_no_product_of_ddpg_may_be_rounded_to_fewer_bits():
    space = SPACES["box"][0]
    state = ddpg_init(jax.random.key(0), DDPGConfig(hidden_sizes=(8, 6)), OBSERVATIONS, space)
    found = list(precisions(jax.make_jaxpr(ddpg_update)(state, transitions((4,), space)).jaxpr))
    assert len(found) > 20
    assert set(found) == {(jax.lax.Precision.HIGHEST,) * 2}


def test_a_product_that_may_be_is_found():
    """The negative control, in a scan as the kernels have it."""
    program = jax.make_jaxpr(lambda x: jax.lax.scan(lambda x, _: (x @ x, None), x, length=3))(np.eye(2))
    assert list(precisions(program.jaxpr)) == [None]


def barriers(function, *arguments):
    return str(jax.make_jaxpr(function)(*arguments)).count("optimization_barrier")


def squared(x, kernel):
    return jnp.square(product(x, kernel)).sum()


@pytest.mark.parametrize("rows", [(32,), (8, 4), (2, 4, 4)], ids=str)
@pytest.mark.parametrize(("fan_in", "width", "turned"), [(9, 1, False), (9, 2, True), (3, 32, True), (9, 33, False)])
def test_a_products_gradients_are_those_that_the_sums_give(tolerance, rows, fan_in, width, turned):
    """Whichever way they are taken: for `y = x K` and the loss `sum y^2`, `G = 2 y`, `x^T G` and `G K^T`."""
    rng = np.random.default_rng(fan_in + width)
    x, kernel = rng.normal(size=(*rows, fan_in)), rng.normal(size=(fan_in, width))
    y = np.einsum("...i,io->...o", x, kernel)
    of_x = 2 * np.einsum("...o,io->...i", y, kernel)
    of_kernel = 2 * np.einsum("bi,bo->io", x.reshape(-1, fan_in), y.reshape(-1, width))
    arguments = jnp.asarray(x, jnp.result_type(float)), jnp.asarray(kernel, jnp.result_type(float))
    np.testing.assert_allclose(product(*arguments), y, rtol=tolerance, atol=tolerance)
    found = jax.jit(jax.grad(squared, argnums=(0, 1)))(*arguments)
    for ours, theirs in zip(found, (of_x, of_kernel), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=30 * tolerance)
    of_one = jax.jit(jax.grad(squared, argnums=1))(*arguments)
    np.testing.assert_allclose(of_one, of_kernel, rtol=tolerance, atol=30 * tolerance)
    # Otherwise this would compare nothing but matmul with itself.
    taken = 2 if turned and jax.default_backend() == "cpu" else 0
    assert barriers(jax.grad(squared, argnums=1), *arguments) == taken
    assert barriers(squared, *arguments) == barriers(jax.grad(squared), *arguments) == 0


def test_a_product_can_be_differentiated_forward_twice_and_in_batches(tolerance):
    rng = np.random.default_rng(3)
    x, kernel, along = (jnp.asarray(rng.normal(size=size), jnp.result_type(float)) for size in ((8, 5), (5, 2), (5, 2)))
    forward = jax.jvp(lambda k: product(x, k), (kernel,), (along,))[1]
    np.testing.assert_allclose(forward, x @ along, rtol=tolerance, atol=10 * tolerance)
    second = jax.jvp(jax.grad(squared, argnums=1), (x, kernel), (jnp.zeros_like(x), along))[1]
    np.testing.assert_allclose(second, 2 * x.T @ (x @ along), rtol=tolerance, atol=30 * tolerance)
    # And of one argument's gradient along the other.
    aside = jnp.asarray(rng.normal(size=x.shape), x.dtype)
    mixed = jax.jvp(jax.grad(squared, argnums=1), (x, kernel), (aside, jnp.zeros_like(kernel)))[1]
    np.testing.assert_allclose(
        mixed, 2 * (aside.T @ (x @ kernel) + x.T @ (aside @ kernel)), rtol=tolerance, atol=30 * tolerance
    )
    mixed = jax.jvp(jax.grad(squared), (x, kernel), (jnp.zeros_like(x), along))[1]
    np.testing.assert_allclose(
        mixed, 2 * ((x @ along) @ kernel.T + (x @ kernel) @ along.T), rtol=tolerance, atol=30 * tolerance
    )
    kernels = jnp.stack([kernel, along])
    batch = jax.vmap(jax.grad(squared, argnums=1), in_axes=(None, 0))(x, kernels)
    np.testing.assert_allclose(batch, 2 * x.T @ (x @ kernels), rtol=tolerance, atol=30 * tolerance)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="turned for CPUs only")
def test_the_last_layers_of_actors_are_turned():
    seen, done = spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-1.0, 1.0, (2,))
    ppo = ppo_init(jax.random.key(0), PPOConfig(hidden_sizes=(40, 40)), seen, done)
    ddpg = ddpg_init(jax.random.key(0), DDPGConfig(hidden_sizes=(40, 40)), seen, done)
    for actor in (ppo.actor, ddpg.actor):
        gradient = jax.grad(lambda params, actor=actor: actor.apply_fn(params, jnp.ones((5, 3))).mode().sum())
        assert barriers(gradient, actor.params) == 2


def decomposed(jaxpr):
    """The shapes of all matrices whose decomposition a program and those inside it ask for."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("geqrf", "qr", "householder_product"):
            yield equation.invars[0].aval.shape
        for part in jax.tree.leaves(equation.params, is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns"):
                yield from decomposed(inner)


def test_networks_of_several_seeds_are_decomposed_one_by_one():
    """Of several matrices at once JAX on a CPU may wait for ever."""
    keys = jax.random.split(jax.random.key(0), 3)

    def begin(key):
        return ppo_init(key, PPOConfig(hidden_sizes=(8,)), OBSERVATIONS, spaces.Discrete(2)).actor.params

    shapes = list(decomposed(jax.make_jaxpr(jax.vmap(begin))(keys).jaxpr))
    assert shapes and all(len(shape) == 2 for shape in shapes)
    batched = jax.make_jaxpr(jax.vmap(jnp.linalg.qr))(np.ones((3, 4, 2))).jaxpr
    assert (3, 4, 2) in decomposed(batched)
    together, alone = jax.jit(jax.vmap(begin))(keys), jax.jit(begin)(keys[1])
    jax.tree.map(lambda all_of_them, one: np.testing.assert_array_equal(all_of_them[1], one), together, alone)

"""Networks of a user's own in each kernel: what they learn, what is refused, and how their bundles load again."""

import dataclasses
import functools
import pickle
from collections import OrderedDict

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from oracles import assert_equal

import jaxrl
from jaxrl import BadInput, Categorical, Deterministic, DiagGaussian, TanhGaussian, Transition
from jaxrl.algos.built_in import ddpg_networks, ppo_networks
from jaxrl.algos.networks import host_policy
from jaxrl.data.normalize import normalizer_init
from jaxrl.data.space_records import space_from_json, space_to_json
from jaxrl.storage.policy import load_policy, save_policy

S, A, B = 5, 2, 8
SEEN, BOX = spaces.Box(-np.inf, np.inf, (S,)), spaces.Box(np.float32([-2, 0]), np.float32([2, 0.7]))
LOW, HIGH = (-2.0, 0.0), (2.0, 0.7)
PIXELS, TWO = spaces.Box(0, 255, (4, 4, 1), np.uint8), spaces.Discrete(2)
KEY = jax.random.key(0)
CONFIGS = {
    "ppo": jaxrl.PPOConfig(hidden_sizes=(4,), num_epochs=1, num_minibatches=2),
    "ddpg": jaxrl.DDPGConfig(hidden_sizes=(4, 4)),
    "td3": jaxrl.TD3Config(hidden_sizes=(4,), policy_delay=1),
    "sac": jaxrl.SACConfig(hidden_sizes=(4,)),
}


def init(algo, seen=SEEN, done=BOX, key=KEY, **networks):
    return getattr(jaxrl, f"{algo}_init")(key, CONFIGS[algo], seen, done, **networks)


AXES = {"ppo": (4, 4), **dict.fromkeys(("ddpg", "td3", "sac"), (B,))}  # A rollout's, and a batch's.
UPDATE = {algo: jax.jit(getattr(jaxrl, f"{algo}_update")) for algo in CONFIGS}


class Trunk(nn.Module):
    """One layer with layer normalisation, and a linear one."""

    size: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.size)(nn.relu(nn.LayerNorm()(nn.Dense(6)(x))))


class Gaussian(nn.Module):
    @nn.compact
    def __call__(self, obs):
        mean = Trunk(A)(obs)
        return DiagGaussian(mean, jnp.zeros_like(mean))


class Squashed(nn.Module):
    kind: type = TanhGaussian

    @nn.compact
    def __call__(self, obs):
        mean, log_std = jnp.split(Trunk(2 * A)(obs), 2, axis=-1)
        return self.kind(mean, jnp.clip(log_std, -5, 2), LOW, HIGH)


class Act(nn.Module):
    scale: float = 1.0

    @nn.compact
    def __call__(self, obs):
        return self.scale * nn.tanh(Trunk(A)(obs))


class Value(nn.Module):
    @nn.compact
    def __call__(self, obs):
        return Trunk(1)(obs)[..., 0]


class Q(nn.Module):
    @nn.compact
    def __call__(self, obs, action):
        return Trunk(1)(jnp.concatenate([obs, action], -1))[..., 0]


class WholeQ(nn.Module):
    """With a parameter that has no gradient."""

    @nn.compact
    def __call__(self, obs, action):
        self.param("count", lambda key: jnp.zeros((), jnp.int32))
        return Trunk(1)(jnp.concatenate([obs, action], -1))[..., 0]


class HostQ(nn.Module):
    """With a part that JAX cannot run for two of it."""

    @nn.compact
    def __call__(self, obs, action):
        value = Trunk(1)(jnp.concatenate([obs, action], -1))[..., 0]
        still = jax.lax.stop_gradient(value)
        return value + jax.lax.stop_gradient(jax.pure_callback(np.zeros_like, still, still))


@functools.partial(jax.tree_util.register_dataclass, data_fields=["mean", "log_std"], meta_fields=["low", "high"])
class Seven(TanhGaussian):
    """One that draws in its own way."""

    def sample_jax(self, key):
        return jnp.full_like(self.mean, 7.0)


class FirstNumber(nn.Module):
    """The first number of the action is its value."""

    @nn.compact
    def __call__(self, obs, action):
        self.param("unused", nn.initializers.zeros, (1,))
        return action[..., 0]


class PixelActor(nn.Module):
    @nn.compact
    def __call__(self, obs):
        x = obs.reshape(*obs.shape[:-1], 4, 4, 1) / 255
        x = nn.relu(nn.Conv(3, (2, 2))(x))
        return Categorical(nn.Dense(2)(x.reshape(*obs.shape[:-1], -1)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Laplace:
    """A distribution of a user's: nothing of ours is inherited."""

    mean: jax.Array
    log_scale: jax.Array

    def log_prob(self, action):
        return -(jnp.abs(action - self.mean) / jnp.exp(self.log_scale) + self.log_scale + np.log(2)).sum(-1)

    def entropy(self):
        return (1 + np.log(2) + self.log_scale).sum(-1)

    def kl_divergence(self, other):
        ratio, gap = jnp.exp(self.log_scale - other.log_scale), jnp.abs(self.mean - other.mean)
        shift = ratio * jnp.exp(-gap / jnp.exp(self.log_scale)) + gap / jnp.exp(other.log_scale)
        return (shift - 1 + other.log_scale - self.log_scale).sum(-1)

    def mode(self):
        return self.mean

    def sample(self, rng):
        return (self.mean + np.exp(self.log_scale) * rng.laplace(size=np.shape(self.mean))).astype(np.float32)

    def sample_jax(self, key):
        return self.mean + jnp.exp(self.log_scale) * jax.random.laplace(key, self.mean.shape)

    def to_env(self, action):
        return action


class LaplaceActor(nn.Module):
    @nn.compact
    def __call__(self, obs):
        mean = Trunk(A)(obs)
        log_scale = self.param("log_scale", nn.initializers.zeros, (A,))
        return Laplace(mean, jnp.broadcast_to(log_scale, mean.shape))


def rows(shape, seen=SEEN, done=BOX):
    """Transitions with leading axes `shape`, drawn at random."""
    rng, obs = np.random.default_rng(0), [np.float32(0)] * 2
    for i in range(2):
        obs[i] = rng.normal(size=(*shape, S)) if seen is SEEN else rng.integers(0, 256, (*shape, 16), np.uint8)
    action = rng.integers(0, 2, shape) if done is TWO else rng.uniform(LOW, HIGH, (*shape, A))
    flags = rng.random((2, *shape)) < 0.2
    return Transition(obs[0], action, rng.normal(size=shape), obs[1], *flags)


def moved(before, after):
    """Whether every leaf of the parameters has changed."""
    pairs = zip(jax.tree.leaves(before.params), jax.tree.leaves(after.params), strict=True)
    return all(not np.array_equal(x, y) for x, y in pairs)


LEARNS = {
    "ppo": ("ppo", {"actor": Gaussian(), "critic": Value()}),
    "ppo, a distribution of one's own": ("ppo", {"actor": LaplaceActor()}),
    "ddpg": ("ddpg", {"actor": Act(), "critic": Q()}),
    "td3": ("td3", {"actor": Act(), "critic": Q()}),
    "sac": ("sac", {"actor": Squashed(), "critic": Q()}),
}


@pytest.mark.parametrize("name", LEARNS)
def test_a_network_of_ones_own_learns_and_its_states_share_one_program(name):
    algo, networks = LEARNS[name]
    state, data = init(algo, **networks), rows(AXES[algo])
    after, metrics = UPDATE[algo](state, data)
    for _ in range(2):
        after, metrics = UPDATE[algo](after, data)
    assert moved(state.actor, after.actor)
    assert moved(state.critic, after.critic)
    assert int(metrics["skipped_updates"]) == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(metrics))
    # Another state with an equal network, and a copy from another process, are of the same structure.
    again = init(algo, key=jax.random.key(1), **{part: module.clone() for part, module in networks.items()})
    assert jax.tree.structure(again) == jax.tree.structure(state)
    assert jax.tree.structure(pickle.loads(pickle.dumps(state))) == jax.tree.structure(after)
    jax.tree.map(lambda x, y: jnp.stack([x, y]), state, again)


@pytest.mark.parametrize("algo", ["td3", "sac"])
def test_two_critics_are_made_of_one_module_each_with_a_key_of_its_own(algo):
    state, data = init(algo, critic=Q()), rows((B,))
    values = state.critic.apply_fn(state.critic.params, jnp.float32(data.obs), jnp.float32(data.action))
    assert values.shape == (2, B)
    assert not np.allclose(values[0], values[1])
    one = Q().apply(jax.tree.map(lambda x: x[0], state.critic.params), jnp.float32(data.obs), jnp.float32(data.action))
    np.testing.assert_allclose(values[0], one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("algo", ["td3", "sac"])
def test_a_critic_that_cannot_be_run_twice_at_once_is_refused(algo):
    with pytest.raises(BadInput, match=r"two of critic HostQ under jax\.vmap cannot take inputs.*vmap"):
        init(algo, critic=HostQ())


@pytest.mark.parametrize("algo", ["ddpg", "td3", "sac"])
def test_params_without_a_gradient_are_refused(algo):
    with pytest.raises(BadInput, match="critic WholeQ keeps params of int32, which have no gradient"):
        init(algo, critic=WholeQ())


def test_sac_draws_as_a_users_distribution_does():
    state = init("sac", actor=Squashed(Seven), critic=FirstNumber())
    state = state.replace(config=state.config.replace(critic_learning_rate=0.0), temperature=None)
    state = state.replace(config=state.config.replace(initial_alpha=jnp.float32(0)))
    _, metrics = UPDATE["sac"](state, rows((B,)))
    np.testing.assert_allclose(metrics["actor_loss"], -HIGH[0], rtol=1e-4)  # tanh(7) is the bound.


@pytest.mark.parametrize("algo", ["ppo", "ddpg"])
def test_the_built_in_networks_given_by_hand_are_the_default_to_the_bit(algo):
    actor, critic = {"ppo": ppo_networks, "ddpg": ddpg_networks}[algo](CONFIGS[algo], BOX)
    data = rows(AXES[algo])
    assert_equal(
        jax.tree.leaves(UPDATE[algo](init(algo, actor=actor, critic=critic), data)[0].actor.params),
        jax.tree.leaves(UPDATE[algo](init(algo), data)[0].actor.params),
    )


@pytest.mark.parametrize("algo", ["ddpg", "td3"])
def test_actions_beyond_the_bounds_are_clipped_to_them(algo):
    state = init(algo, actor=Act(scale=100.0))
    action = np.asarray(getattr(jaxrl, f"{algo}_act")(state, np.float32(rows((B,)).obs)))
    assert (np.abs(state.actor.apply_fn(state.actor.params, np.float32(rows((B,)).obs))) > 2).any()
    assert ((action >= BOX.low) & (action <= BOX.high)).all()


def test_a_network_that_takes_pixels_learns_from_them():
    """They reach it flattened and unscaled, and a replay buffer keeps their type."""
    data = rows((4, 4), PIXELS, TWO)
    with pytest.raises(BadInput, match=r"pixels.*networks of your own"):
        init("ppo", PIXELS, TWO)
    with pytest.raises(BadInput, match="pixels"):
        init("ppo", PIXELS, TWO, actor=PixelActor())
    state = init("ppo", PIXELS, TWO, actor=PixelActor(), critic=Value())
    after, metrics = UPDATE["ppo"](state, data)
    assert moved(state.actor, after.actor)
    assert int(metrics["skipped_updates"]) == 0
    policy = host_policy(after.actor.module, after.actor.params)(np.float32(data.obs[0]))
    assert isinstance(policy.logits, np.ndarray)
    np.testing.assert_allclose(policy.logits, jaxrl.ppo_act(after, jnp.float32(data.obs[0])).logits, 1e-4, 1e-5)
    buffer = jaxrl.replay_init(8, 16, 1, obs_dtype=np.uint8)
    flat = jax.tree.map(lambda x: x[0], data)._replace(action=np.zeros((4, 1)), valid=None)
    stored = jaxrl.replay_add(buffer, flat).rows.obs
    assert stored.dtype == np.uint8
    np.testing.assert_array_equal(stored[:4], flat.obs)
    with pytest.raises(BadInput, match="obs_dtype"):
        jaxrl.replay_init(8, 16, 1, obs_dtype=np.int16)


def made(forward, **fields):
    """A module whose forward pass is this function, in the module's own scope."""
    return type("Mine", (nn.Module,), {"__call__": nn.compact(lambda self, *inputs: forward(*inputs)), **fields})()


class WithList(nn.Module):
    sizes: list

    @nn.compact
    def __call__(self, obs):
        return nn.Dense(1)(obs)[..., 0]


def gaussian(obs, size=A):
    mean = nn.Dense(size)(obs)
    return mean, jnp.zeros_like(mean)


@dataclasses.dataclass(frozen=True)
class NoPytree(Laplace):
    """Not registered."""


class NoEntropy(NoPytree):
    entropy = None


REFUSED = {
    "no module": ("ppo", {"actor": 3}, "actor is 3: it must be a module of flax.linen"),
    "a class": ("ppo", {"actor": Gaussian}, r"the class Gaussian: .*such as Gaussian\(\)"),
    "a list in a field": ("ppo", {"critic": WithList([1])}, "cannot be hashed and compared"),
    "batch norm": (
        "ppo", {"critic": made(lambda x: nn.BatchNorm(False)(nn.Dense(1)(x))[..., 0])}, "keeps batch_stats beside"
    ),
    "dropout": (
        "ppo", {"critic": made(lambda x: nn.Dropout(0.5, deterministic=False)(nn.Dense(1)(x))[..., 0])},
        "random numbers after init",
    ),
    "few bits": (
        "td3",
        {"critic": made(lambda o, a: nn.Dense(1, param_dtype=jnp.bfloat16)(o)[..., 0])},
        "keeps params of bfloat16, where small steps are rounded away: they must be float32",
    ),
    "no parameters": ("ppo", {"critic": made(lambda x: x[..., 0])}, "has no params"),
    "values with an axis": ("ppo", {"critic": made(lambda x: nn.Dense(1)(x))}, r"\(3, 1\) .*must be of shape \(3,\)"),
    "a wrong view": ("ppo", {"critic": made(lambda x: nn.Dense(1)(x.reshape(-1, 4))[..., 0])}, "cannot take .*1, 5"),
    "one value for all rows": ("ppo", {"critic": made(lambda x: nn.Dense(1)(x).mean())}, r"values of shape \(\)"),
    "no distribution": ("ppo", {"actor": Act()}, "without log_prob, entropy, .*to_env: it must give a distribution"),
    "too few methods": ("ppo", {"actor": made(lambda x: NoEntropy(*gaussian(x)))}, "a NoEntropy without entropy"),
    "no pytree": ("ppo", {"actor": made(lambda x: NoPytree(*gaussian(x)))}, "which is no pytree"),
    "not for each row": (
        "ppo", {"actor": made(lambda x: DiagGaussian(gaussian(x)[0], jnp.zeros(A)))}, "array of shape .*broadcast"
    ),
    "too many actions": ("ppo", {"actor": made(lambda x: DiagGaussian(*gaussian(x, 3)))}, r"actions of shape \(3, 3\)"),
    "other bounds": (
        "ppo", {"actor": made(lambda x: TanhGaussian(*gaussian(x), LOW, (2.0, 5.0)))}, "TanhGaussian of bounds .*5.0"
    ),
    "an unbounded sac": ("sac", {"actor": Gaussian()}, "DiagGaussian, which knows no bounds"),
    "a gaussian ddpg": ("ddpg", {"actor": Gaussian()}, "gives a DiagGaussian: it must give actions"),
    "ddpg, actions": ("ddpg", {"actor": made(lambda x: nn.Dense(3)(x))}, r"\(3, 3\) .*must be of shape \(3, 2\)"),
    "a pair of values": ("td3", {"critic": made(lambda x, a: nn.Dense(2)(x))}, r"\(3, 2\) .*of shape \(3,\)"),
    "a critic without actions": ("sac", {"critic": Value()}, "critic Value cannot take inputs .*TypeError"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_network_that_cannot_work_is_refused_in_one_line(name):
    algo, networks, words = REFUSED[name]
    with pytest.raises(BadInput, match=words) as caught:
        init(algo, **networks)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("done", [spaces.Discrete(3), spaces.Discrete(2, start=1)], ids=str)
def test_a_categorical_of_other_actions_is_refused(done):
    with pytest.raises(BadInput, match="Categorical of 2 values from 0: it must have the actions of"):
        init("ppo", PIXELS, done, actor=PixelActor(), critic=Value())


# --- bundles ----------------------------------------------------------------------------------------------------------


def networks(observation_space, action_space):
    """What `--networks` names: from both spaces to both networks."""
    assert observation_space == SEEN
    assert action_space == BOX
    return Gaussian(), Value()


def saved(folder, state, networks=None):
    save_policy(folder, state.actor, normalizer_init(S, 1, False, False), "Any-v0", SEEN, BOX, {}, networks)
    return folder


def test_a_bundle_of_ones_own_network_is_loaded_by_naming_it_again(tmp_path):
    state = init("ppo", actor=Gaussian())
    folder = saved(tmp_path, state, f"{__name__}:networks")
    obs = np.float32(rows((3,)).obs)
    wanted = np.clip(jaxrl.ppo_act(state, obs).mode(), BOX.low, BOX.high)
    with pytest.raises(
        BadInput, match=f"network of your own, .*:Gaussian: load it with networks='{__name__}:networks'"
    ):
        load_policy(folder)
    loads = {"actor": Gaussian()}, {"networks": networks}, {"networks": f"{__name__}:networks"}
    for how in loads:
        policy = load_policy(folder, **how)
        np.testing.assert_allclose(policy(obs), wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(policy))(obs), policy(obs))
        assert not policy.deterministic
    for how, words in [
        ({"actor": LaplaceActor()}, "has .*it must be the network that was trained"),
        ({"actor": 3}, "actor is 3"),
        ({"actor": Gaussian(), "networks": networks}, "both given"),
        ({"networks": "no_such_module:make"}, "networks no_such_module:make"),
        ({"networks": lambda *_: (None, Value())}, "gives None for the actor"),
        ({"networks": lambda *_: Gaussian()}, "must give a tuple"),
        ({"networks": lambda *_: 1 / 0}, "networks raised ZeroDivisionError"),
    ]:
        with pytest.raises(BadInput, match=words) as caught:
            load_policy(folder, **how)
        assert "\n" not in str(caught.value)


def test_a_bundle_says_how_its_actor_is_given_where_it_has_no_name(tmp_path):
    with pytest.raises(BadInput, match="load it with actor=MODULE"):
        load_policy(saved(tmp_path, init("ddpg", actor=Act())))
    assert load_policy(tmp_path, actor=Act()).deterministic


def test_the_settings_of_a_built_in_network_are_read_by_name(tmp_path, monkeypatch):
    """In another order, as a field added in the middle would leave them."""
    from jaxrl.storage import policy

    state = init("ddpg")
    saved(tmp_path, state)
    arrays, notes = policy.load_arrays(tmp_path / "policy.npz")
    notes["settings"] = dict(reversed(notes["settings"].items()))
    obs = np.float32(rows((3,)).obs)
    turned = policy.Policy(arrays, notes)
    np.testing.assert_array_equal(turned(obs), load_policy(tmp_path)(obs))


SPACES = [
    SEEN,
    BOX,
    PIXELS,
    spaces.Box(np.float64([[0.1, -np.inf]]), np.float64([[0.2, 7]]), dtype=np.float64),
    spaces.Box(-1.0, 1.0, ()),
    spaces.Discrete(4, start=-2),
    spaces.MultiDiscrete([[3, 2], [5, 2]], start=[[0, 4], [-1, 0]]),
    spaces.MultiBinary([2, 3]),
    spaces.Dict(OrderedDict(b=spaces.Discrete(2), a=spaces.Tuple([PIXELS, TWO]))),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_a_recorded_space_is_the_space(space):
    import json

    again = space_from_json(json.loads(json.dumps(space_to_json(space), allow_nan=False)))
    assert again == space
    assert str(again) == str(space)


def test_a_deterministic_may_be_given_too():
    state = init("ddpg", actor=made(lambda x: Deterministic(jnp.tanh(nn.Dense(A)(x)))))
    assert jaxrl.ddpg_act(state, np.float32(rows((3,)).obs)).shape == (3, A)

"""Switches that careful users set: JAX's guards against implicit transfers and promotions, its debugging modes, NumPy's
floating-point errors, warnings as errors. Runs and kernels pass under each, and give the same numbers."""

import contextlib
import dataclasses
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from settings import run_config
from switches import STRICT, switched

import jaxrl
from jaxrl import (
    DDPGConfig,
    PPOConfig,
    SACConfig,
    TD3Config,
    Transition,
    adapt_kl_coef,
    clipped_surrogate,
    ddpg_act,
    ddpg_init,
    ddpg_update,
    gae,
    kl_divergence,
    load_policy,
    make_envs,
    ppo_act,
    ppo_init,
    ppo_update,
    replay_add,
    replay_init,
    replay_sample,
    sac_act,
    sac_init,
    sac_update,
    td3_act,
    td3_init,
    td3_update,
    td_target,
    train,
    train_many,
)
from jaxrl.algos.networks import (
    CategoricalActor,
    DeterministicActor,
    GaussianActor,
    MultiCategoricalActor,
    SquashedGaussianActor,
    as_policy,
    host_policy,
)
from jaxrl.data.normalize import Moments, Normalizer, moments_init, moments_update, normalize_rollout, observer
from jaxrl.data.spaces import flatten
from jaxrl.ops.distributions import Categorical, DiagGaussian, MultiCategorical, TanhGaussian
from jaxrl.ops.losses import clipped_value_loss, explained_variance, standardize, weighted_mean
from jaxrl.runs.algorithms import find
from jaxrl.runs.config import RunConfig
from jaxrl.runs.streams import stream_key
from jaxrl.storage.policy import save_policy
from jaxrl.training.evaluate import evaluate

ROOT = Path(jaxrl.__file__).parent.parent
DEBUG = {
    "debug_nans and debug_infs": {"jax_debug_nans": True, "jax_debug_infs": True},
    "check_tracer_leaks": {"jax_check_tracer_leaks": True},
    "disable_jit": {"jax_disable_jit": True},
}


def only(name):
    return switched({name: STRICT[name]})


@contextlib.contextmanager
def strict_numpy():
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def bits(tree):
    """Every array of a tree, as bytes."""
    leaves = [x for x in jax.tree.leaves(tree) if hasattr(x, "dtype")]
    plain = [jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in leaves]
    return [(str(x.dtype), np.asarray(x).tobytes()) for x in plain]


# Kernels: from device arrays to device arrays.

T, N, S, A = 4, 2, 3, 2
OBS = spaces.Box(-1.0, 1.0, (S,))
BOX = spaces.Box(-2.0, 3.0, (A,))
PPO = PPOConfig(hidden_sizes=(4,), num_epochs=1, num_minibatches=2)
# Everything that an update can do, in one config.
FULL = PPO.replace(
    kl_coef=1.0, kl_target=0.01, stop_kl=0.5, value_clip_eps=0.2, ent_coef=0.01, anneal_learning_rate=True,
    anneal_clip=True, anneal_updates=10.0,
)  # fmt: skip
DDPG, TD3, SAC = (config(hidden_sizes=(4, 4)) for config in (DDPGConfig, TD3Config, SACConfig))
INITS = {"ppo": (ppo_init, FULL), "ddpg": (ddpg_init, DDPG), "td3": (td3_init, TD3), "sac": (sac_init, SAC)}
ACTS = {"ppo": ppo_act, "ddpg": ddpg_act, "td3": td3_act, "sac": sac_act}
UPDATES = {"ppo": ppo_update, "ddpg": ddpg_update, "td3": td3_update, "sac": sac_update}


def numbers(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def transitions(action, *shape):
    flags = np.zeros(shape, bool)
    flags[..., 0] = True
    return Transition(numbers(0, *shape, S), action, numbers(1, *shape), numbers(2, *shape, S), flags, ~flags, ~flags)


POLICIES = {
    "Discrete": (Categorical(numbers(8, T, 3), 2), np.full(T, 3)),
    "MultiDiscrete": (MultiCategorical(numbers(8, T, 2, 3), (0, 1)), np.ones((T, 2), int)),
    "Box": (DiagGaussian(numbers(8, T, A), numbers(9, T, A)), numbers(6, T, A)),
    "squashed Box": (TanhGaussian(numbers(8, T, A), numbers(9, T, A), (-2.0, -2.0), (3.0, 3.0)), numbers(6, T, A)),
}


@pytest.fixture(scope="module")
def given():
    """What the kernels take, on the device before any switch is set."""
    things = {"key": jax.random.key(1), "gamma": np.float32(0.9), "x": numbers(3, T, N), "y": numbers(4, T, N)}
    things |= {"weight": np.ones((T, N), np.float32), "flags": numbers(5, T, N) > 1, "whole": np.arange(T)}
    things |= {name: init(things["key"], config, OBS, BOX) for name, (init, config) in INITS.items()}
    things["rollout"] = transitions(numbers(6, T, N, A), T, N)
    batch = transitions(numbers(7, T, A), T)
    things |= {"batch": batch, "obs": batch.obs, "replay": replay_add(replay_init(8, S, A), batch)}
    return jax.device_put(things | POLICIES)


def distribution(kind):
    def answers(given):
        policy, action = given[kind]
        return policy.log_prob(action), policy.entropy(), kl_divergence(policy, policy), policy.mode()

    return answers


KERNELS = {
    "td_target": lambda g: td_target(g["x"], g["y"], g["flags"], g["gamma"]),
    "gae": lambda g: gae(g["x"], g["y"], g["x"], g["flags"], g["flags"], g["gamma"], g["gamma"], ~g["flags"]),
    "clipped_surrogate": lambda g: clipped_surrogate(g["x"], g["y"], g["x"], g["gamma"]),
    "clipped_value_loss": lambda g: clipped_value_loss(g["x"], g["y"], g["x"], g["gamma"]),
    "adapt_kl_coef": lambda g: adapt_kl_coef(g["gamma"], g["gamma"], g["gamma"]),
    "weighted_mean": lambda g: weighted_mean(g["x"], g["weight"]),
    "standardize": lambda g: standardize(g["x"], g["weight"]),
    "explained_variance": lambda g: explained_variance(g["x"], g["y"]),
    **{f"distribution over {kind}": distribution(kind) for kind in POLICIES},
    "ppo_act": lambda g: ppo_act(g["ppo"], g["obs"]),
    "ppo_update": lambda g: ppo_update(g["ppo"], g["rollout"]),
    "ddpg_act": lambda g: ddpg_act(g["ddpg"], g["obs"]),
    "ddpg_update": lambda g: ddpg_update(g["ddpg"], g["batch"]),
    "td3_act": lambda g: td3_act(g["td3"], g["obs"]),
    "td3_update": lambda g: td3_update(g["td3"], g["batch"]),
    "sac_act": lambda g: sac_act(g["sac"], g["obs"]),
    "sac_update": lambda g: sac_update(g["sac"], g["batch"]),
    "replay_add": lambda g: replay_add(g["replay"], g["batch"]),
    "replay_sample": lambda g: replay_sample(g["replay"], g["key"], 3),
}
# These are called as they are, or not at all.
EAGER_KERNELS = {
    **{
        f"{name}_init": lambda g, init=init, config=config: init(g["key"], config, OBS, BOX)
        for name, (init, config) in INITS.items()
    },
    "replay_init": lambda g: replay_init(8, S, A),
    "replace_config": lambda g: (g["ppo"].replace_config(gamma=0.5, kl_coef=2.0), g["ddpg"].replace_config(tau=1)),
    "stream_key": lambda g: stream_key(3, 0),
    "policy.sample": lambda g: [g[kind][0].sample(np.random.default_rng(0)) for kind in POLICIES],
    "policy.to_env": lambda g: [g[kind][0].to_env(g[kind][1]) for kind in POLICIES],
    "host_policy": lambda g: host_policy(g["ddpg"].actor.module, g["ddpg"].actor.params)(numbers(0, 2, S)),
}  # fmt: skip


@pytest.fixture(scope="module")
def without(given):
    """What each kernel gives without a switch; computed once."""
    answers = {}

    def answer(name, function):
        if name not in answers:
            answers[name] = bits(function(given))
        return answers[name]

    return answer


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_makes_no_transfers_and_promotions_of_its_own(given, without, name):
    kernel = KERNELS[name]
    with switched(STRICT):
        eager = kernel(given)
        jax.jit(kernel).lower(given)
    with switched(DEBUG["debug_nans and debug_infs"]):
        debugged = kernel(given)
    assert bits(eager) == bits(debugged) == without(name, kernel)


@pytest.mark.parametrize("name", ["gae", "clipped_surrogate", "standardize", "replay_add", "replay_sample"])
def test_a_kernel_passes_in_float64_under_all_three(given, name):
    with switched(STRICT | {"jax_enable_x64": True}):
        found = KERNELS[name](given)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(KERNELS[name](given)), strict=True):
        assert one.shape == other.shape


@pytest.mark.parametrize("name", UPDATES)
def test_a_policy_in_float64_acts_on_and_learns_from_float32_under_all_three(given, name):
    """Observations and rows are what every environment gives."""
    init, config = INITS[name]
    rows = given["rollout" if name == "ppo" else "batch"]
    with switched(STRICT | {"jax_enable_x64": True}):
        state = init(given["key"], config, OBS, BOX)
        policy = as_policy(ACTS[name](state, given["obs"]))
        state, metrics = UPDATES[name](state, rows)
        metrics = jax.device_get(metrics)
    assert policy.mode().dtype == np.float64
    assert {leaf.dtype for leaf in jax.tree.leaves(state.actor.params)} == {np.dtype(np.float64)}
    assert metrics["grad_norm_critic"] > 0 and metrics["skipped_updates"] == 0


@pytest.mark.parametrize("name", EAGER_KERNELS)
def test_what_is_called_eagerly_alone_passes_under_all_three(given, without, name):
    with switched(STRICT):
        eager = EAGER_KERNELS[name](given)
    assert bits(eager) == without(name, EAGER_KERNELS[name])


def test_the_switches_are_on(given):
    """The negative control: each of them stops what it is there to stop."""
    with only("jax_numpy_rank_promotion"), pytest.raises(ValueError, match="rank"):
        given["x"] + given["x"][0]
    with only("jax_numpy_dtype_promotion"), pytest.raises(Exception, match="promotion"):
        given["gamma"] + given["whole"]
    with only("jax_transfer_guard"), pytest.raises(Exception, match="Disallowed host-to-device"):
        given["x"] + 1
    with only("jax_transfer_guard"), pytest.raises(Exception, match="Disallowed host-to-device"):
        ppo_act(given["ppo"], np.zeros((4, S), np.float32))  # The caller's own transfer is not covered up.


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64, bool])
def test_discrete_actions_of_any_type_have_their_probabilities(dtype):
    policy, start = jax.device_put((Categorical(numbers(0, 3, 2)), Categorical(numbers(0, 3, 2), start=-1)))
    right = jax.nn.log_softmax(policy.logits)
    with only("jax_numpy_dtype_promotion"):
        np.testing.assert_allclose(policy.log_prob(np.array([0, 1, 1], dtype)), right[[0, 1, 2], [0, 1, 1]], rtol=1e-6)
        below = start.log_prob(np.array([0, 0, 1], dtype))
    np.testing.assert_allclose(below[:2], right[[0, 1], [1, 1]], rtol=1e-6)
    assert below[2] == -np.inf


def test_an_action_too_large_for_its_type_is_no_other_action():
    """Among 300 actions, 44 in eight bits is not 300 as well."""
    policy = Categorical(jnp.zeros((1, 300)))
    assert policy.log_prob(jnp.array([-1], jnp.int8)) == -np.inf
    assert policy.log_prob(jnp.array([44], jnp.uint8)) == pytest.approx(-np.log(300))
    assert policy.log_prob(jnp.array([1.5], jnp.float32)) == -np.inf


# Runs.


class Tiny(gym.Env):
    """Normal observations and rewards; episodes of five steps."""

    def __init__(self, action_space, dtype=np.float32):
        self.observation_space, self.action_space = spaces.Box(-np.inf, np.inf, (S,), dtype), action_space

    def _observation(self):
        return self.np_random.normal(size=S).astype(self.observation_space.dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps = 0
        return self._observation(), {}

    def step(self, action):
        self._steps += 1
        return self._observation(), float(self.np_random.normal()), self._steps == 5, False, {}


def multi_discrete():
    return Tiny(spaces.MultiDiscrete([2, 3]))


def box():
    return Tiny(BOX)


class Extreme(Tiny):
    """Numbers whose products float32 rounds to zero, and such as it can just hold."""

    def __init__(self, action_space):
        super().__init__(action_space, np.float64)

    def _observation(self):
        return super()._observation() * (1e-200, 1e30, 1e-40)

    def step(self, action):
        obs, _, *rest = super().step(action)
        return obs, (1e-200, 1e-44, 0.0, -1e30, 1.0)[self._steps - 1], *rest


COMMON = {"total_steps": 64, "num_envs": 2, "eval_every": 32, "eval_episodes": 2}
COMMON |= {"checkpoint_every": 32, "log_every": 32}
OFF = {"learning_starts": 16, "batch_size": 8, "buffer_size": 40}
RUNS = {
    "ppo": run_config(env=multi_discrete, agent=PPO, num_steps=16, normalize_obs=True, normalize_reward=True, **COMMON),
    "ppo_kl": run_config(
        env=box, num_steps=16, **COMMON,
        agent=PPO.replace(
            clip_eps=None, kl_coef=1.0, kl_target=0.01, stop_kl=0.5, ent_coef=0.1, anneal_learning_rate=True,
            squash_actions=True,
        ),
    ),
    **{name: run_config(env=box, agent=INITS[name][1], **OFF, **COMMON) for name in ("ddpg", "td3", "sac")},
}  # fmt: skip


class Ended(NamedTuple):
    """What a run came to, but for the time that it took: the learner after each update, and the evaluations."""

    run_dir: str
    states: dict
    evaluations: list


def watched(run, end=None):
    """Trains, with a callback; up to the step `end` only if it is given."""
    states = {}

    def watch(snapshot):
        states[snapshot.step] = bits((snapshot.state, snapshot.normalizer))
        return snapshot.step != end

    result = train(run, watch)
    return Ended(str(result.run_dir), states, [each._replace(wall_time=0.0) for each in result.evaluations])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """How the runs end without a switch."""
    folders = {name: str(tmp_path_factory.mktemp(name) / "run") for name in RUNS}
    return {name: watched(dataclasses.replace(run, run_dir=folders[name])) for name, run in RUNS.items()}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_passes_under_all_three_and_so_does_its_second_half(tmp_path, alone, name):
    """With evaluations, checkpoints and a callback on the way; stopped in the middle and resumed."""
    run = dataclasses.replace(RUNS[name], run_dir=str(tmp_path / "run"))
    with switched(STRICT):
        first = watched(run, end=32)
        second = watched(dataclasses.replace(run, resume=run.run_dir))
        returns, _ = evaluate(load_policy(run.run_dir), make_envs(run.env, 2, 0), 2, 0)
    assert first.states.items() <= alone[name].states.items()
    assert first.evaluations == [each for each in alone[name].evaluations if each.step <= 32]
    assert max(second.states) == 64  # Of these environments no state is saved: their episodes begin anew.
    assert len(returns) == 2


@pytest.mark.parametrize("name", ["ppo", "ddpg"])
def test_a_run_starts_from_anothers_networks_under_all_three(tmp_path, alone, name):
    run = dataclasses.replace(RUNS[name], run_dir=str(tmp_path / "run"), init_from=alone[name].run_dir, total_steps=8)
    with switched(STRICT):
        result = train(run)
    if name == "ddpg":  # All of its steps are random.
        learned = load_policy(Path(alone[name].run_dir) / "policy" / "latest")
        assert np.array_equal(load_policy(result.run_dir)(numbers(0, 4, S)), learned(numbers(0, 4, S)))


@pytest.mark.parametrize(
    ("name", "stacks"),
    [*(pytest.param(name, [2], marks=pytest.mark.slow) for name in ("ppo", "ddpg")), ("ddpg", [1, 1])],
    ids=["ppo in one stack", "ddpg in one stack", "ddpg one by one"],
)
def test_several_seeds_run_under_all_three(tmp_path, monkeypatch, alone, name, stacks):
    """As on a CPU, and as on an accelerator."""
    monkeypatch.setattr("jaxrl.training.group.stack_sizes", lambda count: stacks)
    with switched(STRICT):
        results = train_many(dataclasses.replace(RUNS[name], num_seeds=2, run_dir=str(tmp_path / "runs")))
    assert [result.step for result in results] == [64, 64]
    if stacks == [1, 1]:
        assert bits((results[0].state, results[0].normalizer)) == alone[name].states[64]


@pytest.mark.slow  # Each compiles much by itself.
@pytest.mark.parametrize("switch", DEBUG)
@pytest.mark.parametrize("name", ["ppo", "ddpg"])
def test_a_run_passes_under_jax_s_debugging_modes(tmp_path, alone, name, switch):
    with switched(DEBUG[switch]):
        found = watched(dataclasses.replace(RUNS[name], run_dir=str(tmp_path / "run")))
    assert found.states.keys() == alone[name].states.keys()
    if switch != "disable_jit":  # Op by op the sums round otherwise.
        assert (found.states, found.evaluations) == (alone[name].states, alone[name].evaluations)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_run_passes_in_float64_under_all_three(tmp_path, name):
    with switched(STRICT | {"jax_enable_x64": True}):
        result = train(dataclasses.replace(RUNS[name], run_dir=str(tmp_path / "run")))
    assert result.step == 64
    assert {leaf.dtype for leaf in jax.tree.leaves(result.state.actor.params)} == {np.dtype(np.float64)}


@pytest.mark.parametrize(
    "name", ["sac", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ppo", "ddpg", "td3"))]
)
def test_a_run_on_the_device_passes_in_float64_under_all_three(tmp_path, name):
    """With noise that lasts, where there is noise."""
    loop = {"num_steps": 16} if name == "ppo" else OFF | {"noise_correlation": 0.9}
    where = {"env": "MountainCarContinuous-v0", "env_backend": "jax", "run_dir": str(tmp_path / "run")}
    with switched(STRICT | {"jax_enable_x64": True}):
        result = train(run_config(agent=INITS[name][1], **where, **loop, **COMMON))
    assert result.step == 64
    assert {leaf.dtype for leaf in jax.tree.leaves(result.state.actor.params)} == {np.dtype(np.float64)}


def test_an_algorithm_of_ones_own_runs_in_float64_under_all_three(tmp_path):
    mine = find("sac")._replace(name="mine")
    run = RunConfig.of(mine, env=box, agent=SAC, run_dir=str(tmp_path / "run"), **OFF, **COMMON)
    with switched(STRICT | {"jax_enable_x64": True}):
        assert train(run, algorithm=mine).step == 64


@pytest.mark.slow
def test_the_command_hears_the_switches_from_the_environment(tmp_path):
    flags = ["--algo", "ppo", "--env", "CartPole-v1", "--total-steps", "64", "--num-envs", "2", "--num-steps", "16"]
    flags += ["--num-minibatches", "2", "--hidden-sizes", "4", "--eval-episodes", "1"]
    flags += ["--run-dir", str(tmp_path / "run")]
    env = os.environ | {name.upper(): value for name, value in STRICT.items()}
    command = [sys.executable, "-W", "error", "-m", "jaxrl.cli.main", "train", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert "done: " in done.stdout


# NumPy's floating-point errors, and warnings.


@pytest.mark.parametrize("name", RUNS)
def test_a_run_passes_where_numpy_raises_and_warnings_are_errors(tmp_path, alone, name):
    with strict_numpy():
        found = watched(dataclasses.replace(RUNS[name], run_dir=str(tmp_path / "run")))
        load_policy(found.run_dir)(np.zeros((2, S)))
    assert (found.states, found.evaluations) == (alone[name].states, alone[name].evaluations)


@pytest.mark.parametrize("name", ["ppo", "ddpg"])
def test_numbers_at_the_ends_of_float32_end_no_run(tmp_path, name):
    def env():
        return Extreme(RUNS[name].env().action_space)

    run = dataclasses.replace(RUNS[name], env=env, run_dir=str(tmp_path / "strict"))
    with strict_numpy():
        found = watched(run)
    with np.errstate(all="ignore"):
        plain = watched(dataclasses.replace(run, run_dir=str(tmp_path / "plain")))
    assert (found.states, found.evaluations) == (plain.states, plain.evaluations)


TINY, HUGE = np.full((4, S), 1e-40), np.full((4, S), 1e300)
TINY32 = TINY.astype(np.float32)
STATISTICS = Moments(np.array(4.0), np.full(S, 1e-41), np.full(S, 1e-200))


ACTORS = {
    "CategoricalActor": (CategoricalActor, (4,), 3, 2),
    "MultiCategoricalActor": (MultiCategoricalActor, (4,), (2, 3), (0, 1)),
    "GaussianActor": (GaussianActor, (4,), (-2.0, -2.0), (3.0, 3.0), 0.0, False),
    "DeterministicActor": (DeterministicActor, (4, 4), (-2.0, -2.0), (3.0, 3.0)),
    "SquashedGaussianActor": (SquashedGaussianActor, (4, 4), (-2.0, -2.0), (3.0, 3.0)),
}


def on_host(name, weight):
    """The host policy of an actor whose parameters all are `weight`, asked at observations of 1e-30."""
    kind, *settings = ACTORS[name]
    module = kind(*settings, np.dtype(np.float32))
    shapes = jax.eval_shape(module.init, jax.random.key(0), TINY32)
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, weight, leaf.dtype), shapes)
    return host_policy(module, params)(np.full((2, S), 1e-30, np.float32))


def sampled(policy):
    u = policy.sample(np.random.default_rng(0))
    return u, policy.mode(), policy.to_env(u)


def rollout_of(x):
    flags = np.zeros((2, 2), bool)
    obs = np.full((2, 2, S), x, np.float32)
    return Transition(obs, np.zeros((2, 2)), np.full((2, 2), x, np.float32), obs, flags, flags)


ARITHMETIC = {
    "flatten, tiny": lambda: flatten((S,), TINY / 1e20, 4),
    "flatten, huge": lambda: flatten((S,), HUGE, 4),
    "flatten, a Dict": lambda: flatten({"a": (S,), "b": (S,)}, {"a": HUGE, "b": TINY / 1e20}, 4),
    "moments, tiny": lambda: moments_update(moments_init((S,)), TINY * 1e-160),
    "moments, huge": lambda: moments_update(moments_init((S,)), np.array([[1e200] * S, [-1e200] * S])),
    "observer": lambda: observer(Normalizer(STATISTICS, None, np.zeros(1)))(TINY32),
    "observer, huge": lambda: observer(Normalizer(STATISTICS, None, np.zeros(1)))(np.full((4, S), 3e38, np.float32)),
    "normalize_rollout": lambda: normalize_rollout(
        Normalizer(STATISTICS, moments_init(()), np.full(2, 1e-310)), rollout_of(1e-44), 0.37
    ),
    "normalize_rollout, huge": lambda: normalize_rollout(
        Normalizer(STATISTICS, moments_init(()), np.full(2, 1e308)), rollout_of(3e38), 1.0
    ),
    **{
        f"host policy, {name}, weights of {weight:g}": lambda name=name, weight=weight: on_host(name, weight)
        for name in ACTORS
        for weight in (1e-30, 1e38)
    },
    "Gaussian, narrow": lambda: sampled(DiagGaussian(TINY32, np.full((4, S), -200, np.float32))),
    "Gaussian, wide": lambda: sampled(DiagGaussian(TINY32, np.full((4, S), 200, np.float32))),
    "squashed, narrow": lambda: sampled(
        TanhGaussian(TINY32, np.full((4, S), -90, np.float32), (-1e-30,) * S, (1e-30,) * S)
    ),
    "squashed, wide": lambda: sampled(TanhGaussian(TINY32, np.full((4, S), 200, np.float32), (-1.0,) * S, (2.0,) * S)),
    "Categorical": lambda: sampled(Categorical(np.array([[3e38, -3e38, -np.inf], [1e-45, 0, 1]], np.float32), 2)),
    "MultiCategorical": lambda: sampled(
        MultiCategorical(np.array([[[3e38, -np.inf], [0, 1e-45]]], np.float32), (0, 1))
    ),
    "a small learning rate": lambda: ppo_init(
        jax.random.key(0), FULL.replace(actor_learning_rate=1e-50), OBS, BOX
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic_passes_where_numpy_raises_with_the_same_numbers(name):
    with strict_numpy():
        found = ARITHMETIC[name]()
    with np.errstate(all="ignore"):
        assert bits(found) == bits(ARITHMETIC[name]())


class Fragile(gym.Wrapper):
    """An environment of a user who wants to hear of every rounding."""

    def step(self, action):
        np.float32(1e-30) * np.float32(1e-30)
        return self.env.step(action)


def test_the_user_s_own_environment_still_raises(tmp_path):
    run = dataclasses.replace(RUNS["ppo"], wrapper=(Fragile,), run_dir=str(tmp_path / "run"))
    with strict_numpy(), pytest.raises(jaxrl.EnvironmentLost, match="FloatingPointError: underflow"):
        train(run)


def test_a_policy_with_float64_bounds_loads_where_warnings_are_errors(tmp_path, given):
    space = spaces.Box(-0.1, 0.1, (A,), np.float64)
    with strict_numpy():
        save_policy(tmp_path, given["ddpg"].actor, Normalizer(None, None, np.zeros(1)), "mine", OBS, space, {})
        action = load_policy(tmp_path)(numbers(0, 4, S))
    assert action.shape == (4, A)
    assert (np.abs(action) <= np.float32(0.1)).all()

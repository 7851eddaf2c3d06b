"""What users really give the kernels: actions that are none, flags that are numbers, keys and spaces of another kind,
layers that no memory holds; and what they do with the states: copy them and send them to other processes."""

import copy
import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path

import cloudpickle
import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from settings import run_config

from jaxrl import (
    BadInput,
    DDPGConfig,
    EnvironmentFault,
    EnvironmentLost,
    PPOConfig,
    RunConfig,
    Transition,
    ddpg_act,
    ddpg_init,
    ddpg_update,
    gae,
    make_envs,
    ppo_act,
    ppo_init,
    ppo_update,
    td_target,
    train,
)
from jaxrl.algos import checks, ddpg, ppo
from jaxrl.data.batch import mask_invalid
from jaxrl.data.normalize import normalizer_init
from jaxrl.errors import NotSaved
from jaxrl.loggers.logger import Evaluation
from jaxrl.ops.distributions import Categorical, MultiCategorical
from jaxrl.runs.algorithms import PPO as PPO_ROW
from jaxrl.runs.algorithms import ROWS
from jaxrl.runs.checks import check_settings
from jaxrl.storage.files import DamagedFile
from jaxrl.training.train import Result

T, N, S = 4, 4, 3
OBSERVATIONS = spaces.Box(-np.inf, np.inf, (S,))
DISCRETE, BOX = spaces.Discrete(3, start=1), spaces.Box(-1.0, 2.0, (2,))
ACTIONS = {
    "Discrete": (DISCRETE, 2.0),
    "Box": (BOX, 0.5),
}
PPO = PPOConfig(num_epochs=2, num_minibatches=2, hidden_sizes=(8,), kl_coef=1.0, kl_target=0.01, ent_coef=0.01)
DDPG = DDPGConfig(hidden_sizes=(8, 8))
KEY = jax.random.key(0)
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
update, ddpg_step = (jax.jit(kernel, compiler_options=QUICKLY) for kernel in (ppo_update, ddpg_update))
states = {name: ppo_init(KEY, PPO, OBSERVATIONS, space) for name, (space, _) in ACTIONS.items()}
ddpg_state = ddpg_init(KEY, DDPG, OBSERVATIONS, BOX)


def rows(shape, action):
    rng = np.random.default_rng(0)
    return Transition(
        obs=rng.normal(size=(*shape, S)).astype(np.float32),
        action=action,
        reward=rng.normal(size=shape).astype(np.float32),
        next_obs=rng.normal(size=(*shape, S)).astype(np.float32),
        terminated=rng.random(shape) < 0.2,
        truncated=rng.random(shape) < 0.2,
        valid=np.ones(shape, bool),
    )


def rollout(name="Discrete"):
    space, action = ACTIONS[name]
    return rows((T, N), np.full((T, N, *(space.shape or ())), action, np.float32))


def batch():
    return rows((8,), np.full((8, 2), 0.5, np.float32))


def arrays(*trees):
    return [
        np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        for x in jax.tree.leaves(trees)
    ]


def same(*trees):
    a, *others = map(arrays, trees)
    return all(len(a) == len(b) and all(map(np.array_equal, a, b)) for b in others)


def learned(state):
    return state.actor, state.critic, state.kl_coef


# --- actions that are none --------------------------------------------------------------------------------------------

NONE = [("Discrete", bad) for bad in (0.0, 4.0, -3.0, 1.7, np.nan, np.inf, 1e9)]
NONE += [("Box", bad) for bad in (np.nan, -np.inf, 1e30)]


@pytest.mark.parametrize("name, bad", NONE, ids=str)
def test_an_action_that_is_none_rejects_the_rollout(name, bad):
    state, data = states[name], rollout(name)
    data.action[(1, 2) if name == "Discrete" else (1, 2, 1)] = bad
    after, metrics = update(state, data)
    assert (metrics["skipped_updates"], metrics["gradient_steps"]) == (4, 0)
    assert same(learned(after), learned(state))
    assert np.isfinite(metrics["policy_loss"])


@pytest.mark.parametrize("bad", [3.0, -2.0, 0.5, np.nan])
def test_one_component_that_is_none_is_enough(bad):
    policy = MultiCategorical(np.zeros((3, 2, 3), np.float32), starts=(0, -1))
    np.testing.assert_array_equal(np.isfinite(policy.log_prob(np.array([[0, 1], [0, bad], [bad, 1]]))), [1, 0, 0])


@pytest.mark.parametrize("name", ACTIONS)
def test_an_action_of_the_space_is_learned_from(name):
    after, metrics = update(states[name], rollout(name))
    assert (metrics["skipped_updates"], metrics["gradient_steps"]) == (0, 4)
    assert not same(after.actor.params, states[name].actor.params)
    assert all(np.isfinite(metrics[each]) for each in metrics)


@pytest.mark.parametrize("bad", [0.0, 7.0, np.nan, 1e30])
@pytest.mark.parametrize("name", ["Discrete", "Box"])
def test_what_stands_in_a_row_that_is_not_valid_does_no_harm(name, bad):
    """Zero is no action of this Discrete, and far from a policy whose mean is elsewhere."""
    data = rollout(name)
    data.valid[1, 2] = data.valid[3, 0] = False
    usual = update(states[name], data)
    data.action[~data.valid] = bad
    assert same(usual, update(states[name], data))
    assert (usual[1]["skipped_updates"], usual[1]["gradient_steps"]) == (0, 4)


def test_a_row_that_is_not_valid_does_no_harm_to_a_policy_far_from_zero():
    state, data = states["Box"], rollout("Box")
    params = jax.tree.map(lambda x: x, state.actor.params)
    params["params"]["mlp"]["Dense_1"]["bias"] += 1e4
    data.action[...] += 1e4
    data.valid[1, 2] = False
    _, metrics = update(state.replace(actor=state.actor.replace(params=params)), data)
    assert (metrics["skipped_updates"], metrics["gradient_steps"]) == (0, 4)


@pytest.mark.parametrize("type_", [np.int8, np.uint8, np.int32, np.int64, bool])
def test_a_narrow_type_of_actions_is_no_other_action(type_):
    wide = Categorical(np.zeros((3, 200), np.float32), start=-100)
    action = np.array([0, 1, 99 if type_ is np.int8 else 1]).astype(type_)
    np.testing.assert_allclose(wide.log_prob(action), np.full(3, -np.log(200)), rtol=1e-6)


@pytest.mark.parametrize("shape", [(T, N), (T, N, 1), (T, N, 3)], ids=str)
def test_actions_of_another_shape_are_not_spread_over_the_components(shape):
    with pytest.raises(AssertionError, match=r"rollout\.action must be \(T, N, 2\)"):
        jax.eval_shape(ppo_update, states["Box"], rollout("Box")._replace(action=np.zeros(shape, int)))
    with pytest.raises(AssertionError, match="component"):
        MultiCategorical(np.zeros((T, N, 2, 3)), (0, 0)).log_prob(np.zeros(shape, int))


REWARDS = 10.0 ** np.arange(18, 20, 0.1)  # A sum of squares may be infinite while the gradient is not.


def test_what_is_reported_as_not_finite_was_skipped():
    data, skipped = rollout(), []
    for reward in REWARDS:
        after, metrics = update(states["Discrete"], data._replace(reward=np.float32(reward) * data.reward))
        assert all(np.isfinite(metrics[each]) for each in metrics if each != "explained_variance")
        assert all(np.isfinite(x).all() for x in arrays(after))
        skipped.append(int(metrics["skipped_updates"]))
    assert skipped[0] == 0 < skipped[-1]


def test_an_update_that_breaks_the_policy_is_taken_back():
    """The nearer to the mean the better, and at this rate the standard deviation is 0 after the first step."""
    state, data = states["Box"].replace_config(actor_learning_rate=1e6, ent_coef=0.0), rollout("Box")
    data.action[...] = 3 * np.random.default_rng(1).random((T, N, 1))
    after, metrics = update(state, data._replace(reward=-100 * data.action[..., 0]))
    assert not np.isfinite(metrics["kl"])
    assert (metrics["skipped_updates"], metrics["gradient_steps"]) == (4, 0)
    assert same(learned(after), learned(state))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_ddpg_learns_from_no_action_that_is_not_finite(bad):
    data = batch()
    data.action[3, 1] = bad
    after, metrics = ddpg_step(ddpg_state, data)
    assert metrics["skipped_updates"] == 1
    assert same((after.actor, after.critic), (ddpg_state.actor, ddpg_state.critic))
    data.valid[3] = False
    after, metrics = ddpg_step(ddpg_state, data)
    assert metrics["skipped_updates"] == 0
    assert not same(after.actor, ddpg_state.actor)


def test_ddpg_counts_what_it_reports_as_not_finite():
    data, skipped = batch(), []
    for reward in REWARDS:
        _, metrics = ddpg_step(ddpg_state, data._replace(reward=np.float32(reward) * data.reward))
        finite = all(np.isfinite(metrics[each]) for each in metrics)
        skipped.append(int(metrics["skipped_updates"]))
        assert finite or skipped[-1]
    assert skipped[0] == 0 < skipped[-1]


# --- flags that are numbers -------------------------------------------------------------------------------------------


def as_numbers(data, kind):
    """The data with its third row not valid, and with numbers for flags."""
    data.valid[2] = False
    return data._replace(**{part: getattr(data, part).astype(kind) for part in ("terminated", "truncated", "valid")})


@pytest.mark.parametrize("kind", [np.float32, np.int32, np.uint8])
@pytest.mark.parametrize("data, axes", [(rollout(), "TN"), (batch(), "B")], ids=["rollout", "batch"])
def test_flags_may_be_0_and_1(data, axes, kind):
    numbers = as_numbers(data, kind)
    assert same(mask_invalid(numbers, "it", axes, jnp.float32), mask_invalid(data, "it", axes, jnp.float32))


def test_updates_take_flags_that_are_0_and_1():
    jax.eval_shape(ppo_update, states["Discrete"], as_numbers(rollout(), np.float32))
    data = batch()
    assert same(ddpg_step(ddpg_state, as_numbers(data, np.float32)), ddpg_step(ddpg_state, data))


@pytest.mark.parametrize("bad", [0.5, 2.0, -1.0, np.nan])
@pytest.mark.parametrize("flag", ["terminated", "truncated", "valid"])
def test_a_flag_that_is_neither_0_nor_1_is_not_learned_from(flag, bad):
    data = as_numbers(batch(), np.float32)
    getattr(data, flag)[0] = bad
    after, metrics = ddpg_step(ddpg_state, data)
    assert metrics["skipped_updates"] == 1
    assert same((after.actor, after.critic), (ddpg_state.actor, ddpg_state.critic))
    if flag != "valid":
        data.valid[0] = 0
        assert ddpg_step(ddpg_state, data)[1]["skipped_updates"] == 0


@pytest.mark.parametrize("kind", [np.float32, np.int32, np.uint8])
def test_targets_take_flags_that_are_0_and_1(kind):
    data, value = rollout(), np.ones((T, N), np.float32)
    data.valid[2] = False
    flags = data.terminated, data.truncated, data.valid

    def targets(terminated, truncated, valid):
        advantage = gae(data.reward, value, value, terminated, truncated, 0.9, 0.9, valid)
        return advantage, td_target(data.reward, value, terminated, 0.9)

    assert same(targets(*flags), targets(*(flag.astype(kind) for flag in flags)))


# --- of another kind --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [0, np.int64(0), 0.5, None, "a", [0, 1], np.zeros(3, np.uint32)], ids=repr)
@pytest.mark.parametrize("init, config", [(ppo_init, PPO), (ddpg_init, DDPG)], ids=["ppo", "ddpg"])
def test_what_is_no_key_is_refused(init, config, key):
    with pytest.raises(BadInput, match=r"^key is .*: it must be one JAX key, such as jax\.random\.key\(0\)[^\n]*$"):
        init(key, config, OBSERVATIONS, BOX)


def test_several_keys_are_refused():
    with pytest.raises(BadInput, match=r"key is .* of shape \(3,\).*jax\.vmap takes several"):
        ppo_init(jax.random.split(KEY, 3), PPO, OBSERVATIONS, DISCRETE)


@pytest.mark.parametrize("old_style", [jax.random.PRNGKey(0), np.zeros(2, np.uint32)], ids=["jax", "numpy"])
def test_a_key_of_the_old_style_works(old_style):
    assert same(ddpg_init(old_style, DDPG, OBSERVATIONS, BOX), ddpg_state)
    assert jax.eval_shape(lambda: ppo_init(old_style, PPO, OBSERVATIONS, BOX)).key.shape == (2,)


OTHERS = {
    "ppo, DDPG's config": (lambda: ppo_init(KEY, DDPG, OBSERVATIONS, DISCRETE), "config is a DDPGConfig.*PPOConfig"),
    "ddpg, PPO's config": (lambda: ddpg_init(KEY, PPO, OBSERVATIONS, BOX), "config is a PPOConfig.*DDPGConfig"),
    "no config": (lambda: ppo_init(KEY, None, OBSERVATIONS, DISCRETE), "config is None: it must be a PPOConfig"),
    "a class": (lambda: ppo_init(KEY, PPOConfig, OBSERVATIONS, DISCRETE), "config is the class PPOConfig"),
    "a dict": (lambda: ddpg_init(KEY, {"tau": 0.1}, OBSERVATIONS, BOX), "config is a dict"),
    "a run's config": (lambda: ppo_init(KEY, run_config(), OBSERVATIONS, DISCRETE), "config is a RunConfig"),
    "another agent": (
        lambda: check_settings(RunConfig(agent="ppo")),
        "agent is 'ppo': it must be a PPOConfig, DDPGConfig",
    ),
    "DDPG's state": (lambda: ppo_update(ddpg_state, rollout()), "state is a DDPGState: it must be a PPOState"),
    "PPO's state": (lambda: ddpg_update(states["Box"], batch()), "state is a PPOState: it must be a DDPGState"),
    "DDPG's state to act": (lambda: ppo_act(ddpg_state, batch().obs), "state is a DDPGState"),
    "a batch for a rollout": (lambda: ppo_update(states["Box"], batch()), r"rollout.reward has .*\(8,\).*\(T, N\)"),
    "a rollout for a batch": (lambda: ddpg_update(ddpg_state, rollout("Box")), r"batch.reward has .*\(4, 4\).*\(B\)"),
    "no rollout": (lambda: ppo_update(states["Box"], rollout("Box")._asdict()), "rollout is a dict: .*a Transition"),
    "no reward": (lambda: ddpg_update(ddpg_state, batch()._replace(reward=None)), "batch.reward is None"),
    "other observations": (lambda: ppo_act(states["Box"], np.zeros((5, 4))), r"obs has .*\(5, 4\).* 3 numbers"),
    "one for all": (lambda: ddpg_act(ddpg_state, np.zeros((3, 1))), "3 is 3 x 1: .* single spaces"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_is_of_another_kind_is_named_in_one_line(case):
    call, words = OTHERS[case]
    with pytest.raises(BadInput, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


# --- the spaces of a vector environment -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cartpoles():
    with_wrapper = gym.wrappers.vector.ClipReward(gym.make_vec("CartPole-v1", 4, "sync"), 0, 1)
    yield {"sync": gym.make_vec("CartPole-v1", 4, "sync"), "native": gym.make_vec("CartPole-v1", 4)} | {
        "wrapped": with_wrapper,
        "Box": gym.make_vec("Pendulum-v1", 4, "sync"),
    }


@pytest.mark.parametrize("name", ["sync", "native", "wrapped", "Box"])
def test_batched_spaces_are_refused_and_single_ones_are_not(cartpoles, name):
    envs: VectorEnv = cartpoles[name]
    kernels = [(ppo_init, ppo.check_config, PPO), (ddpg_init, ddpg.check_config, DDPG)]
    for init, check, config in kernels if name == "Box" else kernels[:1]:
        with pytest.raises(BadInput, match=r"give its single_observation_space and its single_action_space$"):
            init(KEY, config, envs.observation_space, envs.action_space)
        with pytest.raises(BadInput, match="observation_space is that of all"):
            init(KEY, config, envs.observation_space, envs.single_action_space)
        with pytest.raises(BadInput, match="action_space is that of all"):
            init(KEY, config, envs.single_observation_space, envs.action_space)
        with pytest.raises(BadInput, match=r"observation_space is a .*: give its single_observation_space"):
            init(KEY, config, envs, envs)
        check(config, envs.single_observation_space, envs.single_action_space)


GENUINE = {
    "four robots, each with a choice": (spaces.Box(-1, 1, (4, 4)), spaces.MultiDiscrete([2, 2, 2, 2])),
    "four robots, each with a force": (spaces.Box(-np.inf, np.inf, (4, 3)), spaces.Box(-2, 2, (4, 1))),
    "a Dict of matrices": (spaces.Dict(a=spaces.Box(0, 1, (4, 2))), spaces.MultiDiscrete([3, 3, 3, 3])),
}


@pytest.mark.parametrize("case", GENUINE)
def test_spaces_that_only_look_batched_are_taken(cartpoles, case):
    for space in GENUINE[case]:
        space.seed(0)
    ppo.check_config(PPO, *GENUINE[case])


def test_batched_spaces_of_no_vector_environment_are_named_at_the_first_use():
    batched = [gym.vector.utils.batch_space(space, 4) for space in (OBSERVATIONS, DISCRETE)]
    state = jax.eval_shape(lambda: ppo_init(KEY, PPO, *batched))
    with pytest.raises(BadInput, match=r"obs has the shape \(4, 3\).* 12 numbers; 12 is 4 x 3: .*single spaces"):
        ppo_act(state, np.zeros((4, S)))


# --- what no memory holds ---------------------------------------------------------------------------------------------


OTHER_ACTIONS = {"MultiDiscrete": spaces.MultiDiscrete([2, 3]), "MultiBinary": spaces.MultiBinary(2)}


class Wide(spaces.Box):
    """A Box of so many numbers that its bounds alone would fill the memory."""

    def __init__(self, number):
        super().__init__(-1.0, 1.0, (1,))
        self._shape = (number,)


LARGE = {
    "Discrete": (ppo_init, PPOConfig(), OBSERVATIONS, spaces.Discrete(10**9)),
    "MultiDiscrete, one large": (ppo_init, PPOConfig(), OBSERVATIONS, spaces.MultiDiscrete([2, 10**9])),
    "MultiDiscrete, many": (ppo_init, PPOConfig(), OBSERVATIONS, spaces.MultiDiscrete([10**4] * 10**4)),
    "observations": (ppo_init, PPOConfig(), Wide(10**9), DISCRETE),
    "a part of a Dict": (ppo_init, PPOConfig(), spaces.Dict(a=OBSERVATIONS, b=Wide(10**9)), DISCRETE),
    "actions": (ppo_init, PPOConfig(), OBSERVATIONS, Wide(10**9)),
    "hidden sizes": (ppo_init, PPOConfig(hidden_sizes=(16_384,) * 40), OBSERVATIONS, DISCRETE),
    "ddpg, observations": (ddpg_init, DDPGConfig(), Wide(10**9), BOX),
    "ddpg, actions": (ddpg_init, DDPGConfig(), OBSERVATIONS, Wide(10**9)),
    "ddpg, hidden sizes": (ddpg_init, DDPGConfig(hidden_sizes=(16_384,) * 40), OBSERVATIONS, BOX),
}


@pytest.mark.parametrize("case", LARGE)
def test_networks_that_no_memory_holds_are_refused_before_they_are_made(case, monkeypatch):
    monkeypatch.setattr(checks, "free_bytes", lambda: 8.0 * 2**30)
    init, *arguments = LARGE[case]
    with pytest.raises(BadInput, match=r"^a state of [\d,]+ parameters .* takes [\d,.]+ GiB, and 8\.0 are free$"):
        init(KEY, *arguments)


@pytest.mark.parametrize("name", [*ACTIONS, *OTHER_ACTIONS, "DDPG"])
def test_the_parameters_are_counted_exactly(name, monkeypatch):
    seen = []
    monkeypatch.setattr(checks, "free_bytes", lambda: 0.0)
    monkeypatch.setattr(checks, "check_fits", lambda what, size: seen.append(size))
    if name == "DDPG":
        ddpg.check_config(DDPG, OBSERVATIONS, BOX)
        state, copies = ddpg_state, 5
    else:
        space = OTHER_ACTIONS.get(name) or ACTIONS[name][0]
        ppo.check_config(PPO, OBSERVATIONS, space)
        state, copies = jax.eval_shape(lambda: ppo_init(KEY, PPO, OBSERVATIONS, space)), 4
    log_std = 2 if name == "Box" else 0  # A number per action that belongs to no layer.
    count = sum(x.size for x in jax.tree.leaves((state.actor.params, state.critic.params)))
    assert seen[0] == 4 * copies * (count - log_std)


@pytest.mark.parametrize("free", [0.0, 2.0**20])
def test_a_small_network_is_made_whatever_is_said_to_be_free(free, monkeypatch):
    monkeypatch.setattr(checks, "free_bytes", lambda: free)
    ppo.check_config(PPO, OBSERVATIONS, DISCRETE)


class ManyActions(gym.Env):
    observation_space, action_space = OBSERVATIONS, spaces.Discrete(10**6)

    def reset(self, seed=None, options=None):
        return np.zeros(S, np.float32), {}

    def step(self, action):
        return np.zeros(S, np.float32), 0.0, False, True, {}


def test_a_loop_counts_the_policy_of_each_row(tmp_path, monkeypatch):
    """Networks of 0.3 GiB, and 8,192 rows of a million logits each, old and new."""
    monkeypatch.setattr(checks, "free_bytes", lambda: 8.0 * 2**30)
    agent = PPO.replace(hidden_sizes=(8,))
    run = run_config(env=ManyActions, agent=agent, num_envs=8, num_steps=1024, run_dir=str(tmp_path / "run"))
    monkeypatch.setitem(ROWS, "ppo", PPO_ROW._replace(init=lambda *_: states["Discrete"]))
    with pytest.raises(BadInput, match=r"num_steps 1,024 x num_envs 8 takes 61\.\d GiB, and 8\.0 are free"):
        train(run)
    assert not (tmp_path / "run").exists()


def test_observations_that_no_memory_holds_are_refused_before_the_first_one(monkeypatch):
    class Wider(ManyActions):
        observation_space = Wide(10**8)

        def reset(self, seed=None, options=None):
            raise AssertionError("it was asked for an observation")

    monkeypatch.setattr("jaxrl.envs.observations.free_host_bytes", lambda: 2.0**30)
    with pytest.raises(BadInput, match=r"100,000,000 numbers from num_envs 2 .* take 2\.2 GiB .* and 1\.0 are free"):
        make_envs(Wider, 2, 0)


@pytest.mark.parametrize("space", [spaces.MultiDiscrete([]), spaces.Box(-1, 1, (0,))], ids=["MultiDiscrete", "Box"])
def test_actions_without_a_number_are_refused(space):
    with pytest.raises(BadInput, match="empty"):
        ppo_init(KEY, PPO, OBSERVATIONS, space)


# --- copies -----------------------------------------------------------------------------------------------------------

COPIES = {
    "pickle": lambda x: pickle.loads(pickle.dumps(x)),
    "the oldest pickle": lambda x: pickle.loads(pickle.dumps(x, protocol=2)),
    "cloudpickle": lambda x: cloudpickle.loads(cloudpickle.dumps(x)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", [*ACTIONS, "DDPG"])
def test_a_copied_state_goes_on_to_the_same_bits_and_compiles_nothing(name, how):
    state, kernel, data = (ddpg_state, ddpg_step, batch()) if name == "DDPG" else (states[name], update, rollout(name))
    copied = COPIES[how](state)
    assert jax.tree.structure(copied) == jax.tree.structure(state)
    assert same(copied, state)
    after = kernel(state, data)
    programs = kernel._cache_size()
    assert same(kernel(copied, data), after)
    assert same(kernel(COPIES[how](after[0]), data), kernel(after[0], data))
    assert kernel._cache_size() == programs


def test_parts_of_a_state_can_be_copied_too():
    for part in (ddpg_state.actor, states["Box"].critic, states["Box"].actor.tx, PPO):
        assert jax.tree.structure(pickle.loads(pickle.dumps(part))) == jax.tree.structure(part)
    assert pickle.loads(pickle.dumps(ddpg_state.actor.tx)) is ddpg_state.actor.tx


ELSEWHERE = """
import pickle, sys, jax
result, kernel, data, options = pickle.load(sys.stdin.buffer)
answer = jax.jit(kernel, compiler_options=options)(result.state, data)
sys.stdout.buffer.write(pickle.dumps((result, answer)))
"""


def a_result():
    evaluations = [Evaluation(64, 1.0, 0.5, 0.0, 2.0, 10, 1.5)]
    return Result(
        states["Box"], normalizer_init(S, N, True, True), evaluations, 64, Path("runs"), run_config(agent=PPO)
    )


def test_another_process_goes_on_to_the_same_bits():
    sent = pickle.dumps((a_result(), ppo_update, rollout("Box"), QUICKLY))
    done = subprocess.run([sys.executable, "-c", ELSEWHERE], input=sent, capture_output=True, check=True)
    came_back, answer = pickle.loads(done.stdout)
    assert same(answer, update(states["Box"], rollout("Box")))
    assert jax.tree.structure(came_back.state) == jax.tree.structure(states["Box"])


@pytest.mark.parametrize("how", COPIES)
def test_a_result_can_be_copied(how):
    result = a_result()
    copied = COPIES[how](result)
    assert jax.tree.structure(copied.state) == jax.tree.structure(result.state)
    assert same((copied.state, copied.normalizer), (result.state, result.normalizer))
    assert (copied.run, copied.evaluations, copied.step) == (result.run, result.evaluations, result.step)
    assert copied.run_dir == result.run_dir


@pytest.mark.parametrize("how", ["pickle", "cloudpickle", "deepcopy"])
def test_a_result_leaves_behind_what_no_other_process_could_import(cartpoles, how):
    run = run_config(
        env=cartpoles["sync"], eval_env=lambda: gym.make("CartPole-v1"), wrapper=(ManyActions, lambda env: env)
    )
    copied = COPIES[how](dataclasses.replace(a_result(), run=run)).run
    assert copied.env == "SyncVectorEnv"
    assert "<lambda>" in copied.eval_env
    assert copied.wrapper[0] is ManyActions
    assert "<lambda>" in copied.wrapper[1]


ERRORS = [BadInput("a"), EnvironmentLost("b"), NotSaved("c"), DamagedFile("d"), EnvironmentFault(3, "gave NaN", 8)]


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_can_be_copied(error, how):
    error.add_note("seen by the user")
    copied = COPIES[how](error)
    assert type(copied) is type(error)
    assert str(copied) == str(error)
    assert vars(copied) == vars(error)

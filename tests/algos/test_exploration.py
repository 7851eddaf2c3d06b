"""Noise that lasts from step to step: its numbers, and what the loops on the host and on the device make of it."""

import dataclasses
import os
import signal
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces
from scipy.signal import lfilter
from scripted import Still

from jaxrl import (
    BadInput,
    OffPolicySettings,
    RunConfig,
    behaviour_policy,
    make_device_envs,
    sac_act,
    td3_act,
    train,
    train_many,
)
from jaxrl.algos.exploration import Noise, add_noise, next_noise
from jaxrl.cli.main import train_command
from jaxrl.ops.distributions import Deterministic, DiagGaussian, TanhGaussian
from jaxrl.runs.algorithms import find
from jaxrl.runs.config import default_run
from jaxrl.runs.record import load_run
from jaxrl.storage.files import load_arrays

LOW, HIGH = Still.action_space.low, Still.action_space.high
ACT = {"td3": td3_act, "sac": sac_act}


# --- the numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.95])
def test_noise_is_the_recursive_filter_of_its_fresh_numbers(correlation):
    rng = np.random.default_rng(0)
    first, fresh = rng.standard_normal((3, 2)), rng.standard_normal((40, 3, 2))
    noise, found = first, []
    for each in fresh:
        noise = next_noise(noise, each, correlation)
        found.append(noise)
    scale = np.sqrt(1 - correlation**2)
    wanted, _ = lfilter([scale], [1, -correlation], fresh, axis=0, zi=(correlation * first)[None])
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)


def test_it_is_the_ornstein_uhlenbeck_process_of_ddpgs_paper():
    """`x <- x + theta (mu - x) + sigma N(0, 1)`, theta 0.15, sigma 0.2 and mu 0: its standard deviation is 0.38."""
    theta, sigma, rng = 0.15, 0.2, np.random.default_rng(0)
    size = sigma / np.sqrt(1 - (1 - theta) ** 2)
    x = noise = np.zeros(4)
    for fresh in rng.standard_normal((50, 4)):
        x = x + theta * (0 - x) + sigma * fresh
        noise = next_noise(noise, fresh, 1 - theta)
        np.testing.assert_allclose(size * noise, x, rtol=1e-10)
    assert size == pytest.approx(0.38, abs=0.005)


@pytest.mark.parametrize("kind", [DiagGaussian, TanhGaussian])
def test_given_noise_draws_what_a_generator_with_this_noise_draws(kind):
    rng = np.random.default_rng(0)
    mean, log_std = (rng.standard_normal((3, 2)).astype(np.float32) for _ in range(2))
    bounds = ((tuple(LOW.tolist()), tuple(HIGH.tolist()))) if kind is TanhGaussian else ()
    policy = kind(mean, log_std, *bounds)
    drawn = np.random.default_rng(1).standard_normal((3, 2), np.float32)
    np.testing.assert_array_equal(policy.from_noise(drawn), policy.sample(np.random.default_rng(1)))
    key, on_device = jax.random.key(2), jax.tree.map(jnp.asarray, policy)
    noise = jax.random.normal(key, (3, 2))
    np.testing.assert_allclose(on_device.from_noise(noise), on_device.sample_jax(key), rtol=1e-6)
    np.testing.assert_allclose(policy.from_noise(np.asarray(noise)), on_device.from_noise(noise), rtol=1e-6)
    np.testing.assert_allclose(policy.from_noise(np.zeros((3, 2), np.float32)), policy.mode())


@pytest.mark.parametrize("library", [np, jnp])
def test_given_noise_is_added_in_units_of_half_the_range(library):
    output, settings = Deterministic(library.array([[0.5, 0.4]])), OffPolicySettings(exploration_noise=0.5)
    for numbers, wanted in (([1.0, -1.0], [1.5, 0.25]), ([9.0, -9.0], [2.0, 0.1])):
        action, env_action = add_noise(output, Noise(library.array([numbers])), settings, (LOW, HIGH))
        np.testing.assert_allclose(action, [wanted], rtol=1e-6)
        np.testing.assert_array_equal(action, env_action)


# --- the loops --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class StillOnDevice:
    """The same inside JAX."""

    observation_space = Still.observation_space
    action_space = Still.action_space
    time_limit = 100

    def reset(self, key):
        return jnp.zeros(()), jnp.zeros(1)

    def step(self, state, action, key):
        return state, jnp.zeros(1), jnp.zeros(()), jnp.zeros((), bool)


def run_of(algo, env, **changes):
    settings = {"total_steps": 4_000, "learning_starts": 16, "batch_size": 8, "hidden_sizes": (4, 4), "num_envs": 2}
    settings |= {"actor_learning_rate": 0.0, "eval_every": None, "noise_correlation": 0.9}
    settings |= {"exploration_noise": 0.1} if algo == "td3" else {}
    backend = {"env_backend": "jax"} if env is StillOnDevice else {}
    return RunConfig.of(algo, env() if backend else env, **settings | backend | changes)


def explored(run):
    """The noise of each step and environment in units of its standard deviation, `(T, 2, 2)`, got back from the actions
    that are stored."""
    state, action = train(run).state, stored(run).astype(np.float64)
    action = action[run.loop.learning_starts :].reshape(-1, run.num_envs, 2)
    output = jax.device_get(ACT[run.algo](state, np.zeros((1, 1), np.float32)))
    if run.algo == "td3":
        return (action - output) / (0.1 * (HIGH - LOW) / 2)
    u = np.arctanh(np.clip((action - (LOW + HIGH) / 2) / ((HIGH - LOW) / 2), -1 + 1e-7, 1 - 1e-7))
    return (u - output.mean) / np.exp(output.log_std)


def stored(run):
    """The actions in the buffer of a run that has ended."""
    checkpoints = Path(run.run_dir) / "checkpoints"
    _, notes = load_arrays(checkpoints / "latest.npz")
    parts = [checkpoints / f"replay-{first:012d}-{end:012d}.npz" for first, end, _ in notes["segments"]]
    return np.concatenate([load_arrays(part)[0]["rows.action"] for part in parts])


def correlation(noise, lag):
    """With that of so many steps before."""
    return (noise[lag:] * noise[:-lag]).mean()


@pytest.mark.parametrize("env", [Still, StillOnDevice], ids=["host", "device"])
@pytest.mark.parametrize("algo", ["td3", "sac"])
def test_what_is_stored_was_explored_by_noise_that_lasts(tmp_path, algo, env):
    """Over 2,000 steps of four numbers, across the ends of episodes; an estimate of 0.9 is good to about 0.01."""
    noise = explored(run_of(algo, env, run_dir=str(tmp_path / "run")))
    assert len(noise) == 1_992
    assert noise.std() == pytest.approx(1, abs=0.12)
    for lag in (1, 2, 5):
        assert correlation(noise / noise.std(), lag) == pytest.approx(0.9**lag, abs=0.07)
    apart = np.corrcoef(noise.reshape(-1, 4).T) - np.eye(4)  # Components and environments, each by itself.
    assert np.abs(apart).max() < 0.3


def test_without_it_noise_forgets(tmp_path):
    """The negative control."""
    noise = explored(run_of("td3", Still, run_dir=str(tmp_path / "run"), noise_correlation=0.0))
    assert abs(correlation(noise, 1)) < 0.05
    assert noise.std() == pytest.approx(1, abs=0.05)


def kept(folder):
    """The noise of a run's last checkpoint."""
    arrays, _ = load_arrays(folder / "checkpoints" / "latest.npz")
    return arrays["env_state.noise"]


def test_a_run_on_the_device_that_is_stopped_goes_on_with_its_noise(tmp_path):
    """One on the host is among the runs of test_resume.py."""
    run = run_of("td3", StillOnDevice, total_steps=120, checkpoint_every=50, actor_learning_rate=1e-3)
    whole, cut = (dataclasses.replace(run, run_dir=str(tmp_path / name)) for name in ("whole", "cut"))
    train(whole)
    with pytest.raises(SystemExit):
        train(cut, lambda snapshot: snapshot.step < 70 or os.kill(os.getpid(), signal.SIGTERM))
    before = kept(tmp_path / "cut")
    train(dataclasses.replace(load_run(cut.run_dir), env=cut.env))
    np.testing.assert_array_equal(stored(cut), stored(whole))
    np.testing.assert_array_equal(kept(tmp_path / "cut"), kept(tmp_path / "whole"))
    assert not np.array_equal(kept(tmp_path / "cut"), before)


def test_seeds_on_the_device_explore_as_each_alone(float64, tmp_path):
    run = run_of("td3", StillOnDevice, total_steps=60, num_seeds=2, run_dir=str(tmp_path / "many"))
    train_many(run)
    alone = dataclasses.replace(run, num_seeds=1, seed=1, run_dir=str(tmp_path / "alone"))
    train(alone)
    together = [stored(dataclasses.replace(run, run_dir=f"{tmp_path}/many/seed-{seed}")) for seed in range(2)]
    np.testing.assert_allclose(together[1], stored(alone), rtol=1e-6)
    assert not np.allclose(*together)


def share_of_cars_up_the_hill(correlation):
    """Of 2,000 episodes under an action of 0 with noise of standard deviation 1."""
    envs = make_device_envs("MountainCarContinuous-v0", 2_000)

    def step(carry, key):
        env_state, noise, arrived = carry
        noise = next_noise(noise, jax.random.normal(key, noise.shape), correlation)
        env_state, rows = envs.step(env_state, noise.clip(-1, 1))
        return (env_state, noise, arrived | rows.terminated), None

    @jax.jit
    def walk(key):
        first, second, third = jax.random.split(key, 3)
        begin = envs.reset(first), jax.random.normal(second, (2_000, 1)), jnp.zeros(2_000, bool)
        (_, _, arrived), _ = jax.lax.scan(step, begin, jax.random.split(third, 998))
        return arrived.mean()

    return float(walk(jax.random.key(0)))


def test_noise_that_lasts_takes_a_car_up_the_hill_and_noise_that_forgets_does_not():
    """The figures of the guide; an estimate of 0.93 is good to about 0.006."""
    assert share_of_cars_up_the_hill(0.9) == pytest.approx(0.93, abs=0.03)
    assert share_of_cars_up_the_hill(0.0) == pytest.approx(0.02, abs=0.015)


@pytest.mark.slow
def test_sac_gets_the_car_up_the_hill_by_its_presets(tmp_path):
    """10,000 steps on the device, with the task's settings; on each of 20 seeds on the host the return was above 93."""
    run = default_run("sac", "MountainCarContinuous-v0").with_settings(
        env_backend="jax", total_steps=10_000, eval_every=10_000, eval_episodes=50, run_dir=str(tmp_path / "run")
    )
    assert train(run).evaluations[-1].mean_return > 85


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", ["1", "1.5", "-0.1", "nan", "inf"])
def test_a_correlation_that_cannot_be_is_one_line(tmp_path, monkeypatch, capsys, number):
    monkeypatch.chdir(tmp_path)
    assert train_command(["--algo", "sac", "--env", "Pendulum-v1", "--noise-correlation", number]) == 2
    said = capsys.readouterr().err
    assert f"noise_correlation is {float(number)}: it must be at least 0, and below 1" in said
    assert said.count("\n") == 1 and not list(tmp_path.iterdir())


def own_explore(output, source, settings, bounds):
    """Noise of another kind."""
    return add_noise(output, source, settings, bounds)


def test_a_row_that_explores_by_a_function_of_its_own_has_no_lasting_noise(tmp_path):
    row = find("td3")._replace(name="mine", explore=own_explore)
    with pytest.raises(BadInput, match="but mine explores by a function of its own: set it to 0"):
        train(RunConfig.of(row, "Pendulum-v1", noise_correlation=0.5, run_dir=str(tmp_path / "run")))
    assert not list(tmp_path.iterdir())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OwnGaussian(DiagGaussian):
    """One that may draw otherwise."""


def own_networks(observation_space, action_space):
    """SAC's, with a distribution of one's own."""

    class Actor(nn.Module):
        @nn.compact
        def __call__(self, obs):
            mean = nn.tanh(nn.Dense(1)(obs))
            return OwnGaussian(mean, jnp.zeros_like(mean))

    return Actor(), None


def test_a_distribution_of_ones_own_has_no_lasting_noise(tmp_path):
    run = RunConfig.of(
        "sac", "Pendulum-v1", noise_correlation=0.5, networks=own_networks, run_dir=str(tmp_path / "run")
    )
    with pytest.raises(BadInput, match="needs a DiagGaussian or TanhGaussian, and the actor gives a OwnGaussian: set"):
        train(run)
    assert not list(tmp_path.iterdir())


def test_a_policy_without_a_memory_has_no_lasting_noise():
    row, box = find("td3"), spaces.Box(-1, 1, (2,), np.float32)
    state = row.init(jax.random.key(0), row.config(hidden_sizes=(8, 8)), box, box)
    with pytest.raises(BadInput, match=r"noise_correlation is 0\.5, but this policy does not remember the noise"):
        behaviour_policy("td3", state, settings=OffPolicySettings(noise_correlation=0.5))
    noisy, _ = behaviour_policy("td3", state)(jax.random.key(1), jnp.zeros((3, 2)))
    assert not np.allclose(noisy, td3_act(state, jnp.zeros((3, 2))), atol=0.01)


@dataclasses.dataclass(frozen=True)
class OwnSettings(OffPolicySettings):
    """With another default."""

    noise_correlation: float | None = None


def test_settings_of_ones_own_must_have_a_number(tmp_path):
    row = find("td3")._replace(name="mine", settings=OwnSettings)
    with pytest.raises(BadInput, match="noise_correlation is None: it must be at least 0, and below 1"):
        train(RunConfig.of(row, "Pendulum-v1", run_dir=str(tmp_path / "run")))
    assert not list(tmp_path.iterdir())

"""Evaluations of a run whose environments live on the device: each is one call."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxrl.algos.networks import as_policy
from jaxrl.data.normalize import Normalizer
from jaxrl.data.normalize_on_device import normalizer_on_device, observer_on_device
from jaxrl.data.spaces import describe, layout
from jaxrl.envs.episodes import DEFAULT_MAX_STEPS, FinishedEpisode
from jaxrl.envs.evaluate_on_device import evaluate_on_device
from jaxrl.envs.faults import MAX_FAULTS_PER_EPISODE
from jaxrl.envs.on_device import DeviceEnvs, make_device_envs
from jaxrl.errors import BadInput, EnvironmentFault
from jaxrl.loggers.logger import Clock, Evaluation, Logger
from jaxrl.runs.config import RunConfig
from jaxrl.runs.record import run_to_json
from jaxrl.runs.state import Training
from jaxrl.runs.streams import EVALUATION, stream
from jaxrl.training.device_envs import RunEnvs
from jaxrl.training.evaluator import Evaluator, say_cut, summary
from jaxrl.training.signals import Stops


class DeviceEvaluator:
    """Evaluates the policy of one run, as `jaxrl.training.evaluator.Evaluator` does where environments step on the
    host. A signal waits for the end of an evaluation.

    Args:
      run: the run's settings.
      training_envs: the environments trained in.
      stops: whether the run is asked to stop.

    Attributes:
      envs: the environments evaluated in.
      was_cut: whether an episode of the last evaluation was cut.

    Raises:
      BadInput: the environments do not fit those trained in.
    """

    def __init__(self, run: RunConfig, training_envs: Any, stops: Stops) -> None:
        self._run = run
        env = training_envs.device_envs.env if run.eval_env is None else run.eval_env
        backend = run.env_backend if isinstance(env, str) else "jax"
        device_envs, self._max_steps = bounded(make_device_envs(env, run.eval_episodes, backend), run.eval_max_steps)
        self.envs = RunEnvs(device_envs)
        self.was_cut = self._said_cut = False
        obs_space, action_space = self.envs.observation_space, self.envs.action_space
        wanted = training_envs.observation_space, training_envs.action_space
        if describe(layout(obs_space)) != describe(layout(wanted[0])) or action_space != wanted[1]:
            raise BadInput(f"eval_env has the spaces {obs_space} and {action_space}: they must be those of env")

    def evaluate(self, training: Training, clock: Clock, loggers: Logger) -> Evaluation:
        """Evaluates the policy as it stands; says where episodes were cut.

        Raises:
          EnvironmentFault: an environment does not finish an episode for its faults.
        """
        run, step = self._run, training.step
        [word] = self._seeds(step)
        actor = training.state.actor
        policy = actor.apply_fn, actor.params, training.normalizer
        try:
            returns, lengths = run_episodes(self.envs.device_envs, *policy, word, run.eval_episodes)
        except EnvironmentFault:
            self.envs.failed = True
            raise
        cut = cut_episodes(returns, lengths, self._max_steps)
        self.was_cut = bool(cut)
        if cut and not self._said_cut:
            say_cut(cut, run, step, loggers)
            self._said_cut = True
        return summary(step, returns, clock)

    def recipe(self, evaluation: Evaluation) -> dict[str, Any]:
        """An evaluation, and all that it takes to repeat it, JSON-able."""
        record = run_to_json(self._run)
        how: dict[str, Any] = {"env": record["eval_env"] or record["env"], "on_fault": self._run.on_fault}
        how |= {"backend": self._run.env_backend, "max_steps": self._max_steps, "num_envs": self.envs.num_envs}
        return evaluation._asdict() | how | {"seeds": self._seeds(evaluation.step)}

    def _seeds(self, step: int) -> list[int]:
        return [int(word) for word in stream(self._run.seed, EVALUATION, step).generate_state(1)]

    def close(self) -> None:
        """Does nothing: the environments are functions."""


AnyEvaluator = Evaluator | DeviceEvaluator


def bounded(envs: DeviceEnvs, max_steps: int | None) -> tuple[DeviceEnvs, int | None]:
    """The environments with the length at which an evaluation cuts an episode, and that length: `max_steps`, or where
    that is None `DEFAULT_MAX_STEPS`; None where the environments' own limit ends every episode before."""
    limit = envs.time_limit
    bound = max_steps if max_steps is not None or limit is not None else DEFAULT_MAX_STEPS
    if bound is None or (limit is not None and limit <= bound):
        return envs, None
    return dataclasses.replace(envs, time_limit=bound), bound


def cut_episodes(returns: np.ndarray, lengths: np.ndarray, bound: int | None) -> list[FinishedEpisode]:
    """The episodes that have the length at which an evaluation cuts them. One that ended there by itself is among them:
    that cannot be told."""
    numbered = enumerate(zip(returns, lengths, strict=True))
    return [FinishedEpisode(index, float(each), int(length)) for index, (each, length) in numbered if length == bound]


def run_episodes(
    envs: DeviceEnvs, apply_fn: Callable[..., Any], params: Any, normalizer: Normalizer, seed: int, num_episodes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns and lengths of whole episodes under the most probable actions.

    Args:
      envs: the environments, one for each episode.
      apply_fn, params: of the actor.
      normalizer: statistics that its observations are standardised with, in NumPy.
      seed: fixes every episode.
      num_episodes: how many.

    Raises:
      EnvironmentFault: an environment does not finish an episode for its faults.
    """
    with jax.transfer_guard_host_to_device("allow"):
        statistics = normalizer_on_device(normalizer._replace(returns=None, discounted=np.zeros(0)))
        answer = _episodes(envs, num_episodes, apply_fn, params, statistics, np.uint32(seed))
    returns, lengths = jax.device_get(answer)
    if not lengths.all():
        text = f"had {MAX_FAULTS_PER_EPISODE} faults without finishing an episode: steps that are not finite"
        raise EnvironmentFault(int(lengths.argmin()), text, 0)
    return np.asarray(returns, np.float64), lengths


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _episodes(
    envs: DeviceEnvs, num_episodes: int, apply_fn: Callable[..., Any], params: Any, normalizer: Normalizer, seed: Any
) -> Any:
    see = observer_on_device(normalizer)

    def policy(obs: jax.Array) -> Any:
        distribution = as_policy(apply_fn(params, see(obs)))
        return distribution.to_env(distribution.mode())

    return evaluate_on_device(envs, policy, jax.random.key(seed), num_episodes)

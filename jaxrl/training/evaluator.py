"""A run's evaluations: its own environments for them, what they say of the policy, and how a record repeats them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from jaxrl.algos.networks import policy_of
from jaxrl.data.normalize import observer
from jaxrl.data.spaces import describe, layout
from jaxrl.envs.episodes import FinishedEpisode
from jaxrl.envs.faults import Fault
from jaxrl.envs.make import make_envs, steps_natively
from jaxrl.envs.vector import Envs
from jaxrl.envs.wrappers import follow
from jaxrl.errors import BadInput
from jaxrl.loggers.logger import Clock, Evaluation, Logger
from jaxrl.runs.config import RunConfig
from jaxrl.runs.record import run_to_json
from jaxrl.runs.state import Training
from jaxrl.runs.streams import EVALUATION, SHOW, stream
from jaxrl.training.evaluate import MAX_ENVS_IN_TURN, cut_line, episode_bound, evaluate, make_eval_envs
from jaxrl.training.signals import Stops


class Evaluator:
    """Evaluates the policy of one run. Each run has environments of its own for that, because what an environment
    remembers over its resets would make one run's evaluations depend on another's.

    Args:
      run: the run's settings.
      training_envs: the environments trained in.
      stops: whether the run is asked to stop, which interrupts an evaluation.

    Attributes:
      envs: the environments evaluated in.
      was_cut: whether an episode of the last evaluation was cut.

    Raises:
      BadInput: the environments do not fit those trained in.
    """

    def __init__(self, run: RunConfig, training_envs: Envs, stops: Stops) -> None:
        self._run, self._stops = run, stops
        self.envs = _make(run, training_envs)
        self.was_cut = self._said_cut = False
        self._max_steps = episode_bound(self.envs, run.eval_max_steps)

    def evaluate(self, training: Training, clock: Clock, loggers: Logger) -> Evaluation | None:
        """Evaluates the policy as it stands; says which faults and cut episodes there were.

        Returns:
          The evaluation; None where a signal interrupted it: all of it is to be done again.
        """
        run, seed = self._run, stream(self._run.seed, EVALUATION, training.step)
        faults: list[Fault] = []
        cut: list[FinishedEpisode] = []
        follow(self.envs.normalizers, training.envs.normalizers)
        asked = lambda: self._stops.asked  # noqa: E731
        answer = evaluate(noise_free(training), self.envs, run.eval_episodes, seed, asked, faults, self._max_steps, cut)
        if answer is None:
            return None
        for fault in faults:
            loggers.fault(training.step, fault._replace(what=f"{fault.what}, in evaluation"), clock.wall_time)
        self.was_cut = bool(cut)
        if cut and not self._said_cut:
            say_cut(cut, run, training.step, loggers)
            self._said_cut = True
        return summary(training.step, answer[0], clock)

    def show(self, training: Training) -> None:
        """Shows one more episode in a window."""
        run, seed = self._run, stream(self._run.seed, SHOW, training.step)
        envs = make_envs(run.env, 1, seed, wrapper=run.wrapper, render_mode="human")
        evaluate(noise_free(training), envs, 1, seed, lambda: self._stops.asked, max_steps=run.eval_max_steps)
        envs.close()

    def recipe(self, evaluation: Evaluation) -> dict[str, Any]:
        """An evaluation, and all that it takes to repeat it, JSON-able."""
        record = run_to_json(self._run)
        how: dict[str, Any] = {"env": record["eval_env"] or record["env"], "on_fault": self._run.on_fault}
        how |= {"backend": self._run.eval_backend, "max_steps": self._max_steps, "num_envs": self.envs.num_envs}
        seeds = self.envs.seeds(stream(self._run.seed, EVALUATION, evaluation.step))
        return evaluation._asdict() | how | {"seeds": seeds}

    def close(self) -> None:
        """Closes the environments; one that the user has built is the user's to close."""
        if not isinstance(self._run.eval_env, VectorEnv):
            self.envs.close()


def _make(run: RunConfig, training_envs: Envs) -> Envs:
    eval_env = run.env if run.eval_env is None else run.eval_env
    alike = run.eval_env is None and not steps_natively(run.env, run.wrapper, run.on_fault)
    envs = make_eval_envs(
        eval_env, run.eval_episodes, run.wrapper, run.on_fault, run.eval_backend,
        run.num_envs if run.eval_backend == "async" else MAX_ENVS_IN_TURN,  # So many processes the machine can bear.
        timeout=run.env_timeout, like=training_envs if alike else None,
    )  # fmt: skip
    obs_space, action_space = envs.observation_space, envs.action_space
    wanted = training_envs.observation_space, training_envs.action_space
    if describe(layout(obs_space)) != describe(layout(wanted[0])) or action_space != wanted[1]:
        envs.close()
        raise BadInput(f"eval_env has the spaces {obs_space} and {action_space}: they must be those of env")
    if envs.shares_with(training_envs):
        raise BadInput("env and eval_env step one and the same environment: evaluation needs one of its own")
    return envs


def say_cut(cut: Sequence[FinishedEpisode], run: RunConfig, step: int, loggers: Logger) -> None:
    """Says that episodes of an evaluation were cut."""
    waits = "" if run.stop_return is None else "; stop_return waits for an evaluation without such episodes"
    loggers.say(f"evaluation at step {step:,}: {cut_line(cut, run.eval_episodes)} (--eval-max-steps){waits}")


@np.errstate(all="ignore")
def summary(step: int, returns: np.ndarray, clock: Clock) -> Evaluation:
    """The evaluation that these returns make."""
    return Evaluation(
        step,
        mean_return=float(returns.mean()),
        std_return=float(returns.std()),
        min_return=float(returns.min()),
        max_return=float(returns.max()),
        episodes=len(returns),
        wall_time=clock.wall_time,
    )


def noise_free(training: Training) -> Callable[[np.ndarray], np.ndarray]:
    """The policy as it stands, from raw observations to its most probable actions."""
    actor = training.state.actor
    see, policy = observer(training.normalizer), policy_of(actor, actor.params)

    def act(obs: np.ndarray) -> np.ndarray:
        distribution = policy(see(obs))
        return distribution.to_env(distribution.mode())

    return act

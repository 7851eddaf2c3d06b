"""The flags of the commands, as dataclasses that tyro reads: their comments are the `--help`."""

import dataclasses
from typing import Annotated, Any, Literal

import tyro

from jaxrl.algos.ddpg import DDPGConfig
from jaxrl.algos.ppo import PPOConfig
from jaxrl.runs.config import RunConfig


class PPOFlags(PPOConfig):
    """The algorithm. Whoever sets one of these finds it acting, or is told why it cannot."""

    anneal_updates: tyro.conf.Suppress[float | None] = None


class DDPGFlags(DDPGConfig):
    """The algorithm. Whoever sets one of these finds it acting, or is told why it cannot."""


@dataclasses.dataclass(frozen=True)
class TrainFlags(RunConfig):
    """Trains a policy, and leaves its curves, checkpoints and the policy itself in a folder.

    The defaults shown are those of the --algo and --env given: some tasks have their own.
    """

    env: str = "CartPole-v1"
    """Gymnasium id of the task."""
    wrapper: tuple[str, ...] = ()
    """Wrappers around each environment, module:callable, the innermost first."""
    eval_env: str | None = None
    """Gymnasium id to evaluate in; none for the one trained in."""
    algo: Literal["ppo", "ppo_kl", "ddpg"] = "ppo"  # type: ignore[assignment]
    """ppo clips the surrogate; ppo_kl penalises KL(old || new) instead, with a coefficient that adapts; ddpg learns a
    deterministic policy from a replay buffer, for Box actions."""

    @staticmethod
    def of(algo: str, run: RunConfig) -> "TrainFlags":
        """The flags that stand for `run`: those that its algorithm has a use for."""
        settings = _fields(run) | {"algo": algo}
        if isinstance(run.agent, DDPGConfig):
            return DDPGTrainFlags(**settings | {"agent": DDPGFlags(**_fields(run.agent))})
        return PPOTrainFlags(**settings | {"agent": PPOFlags(**_fields(run.agent))})

    def run(self) -> RunConfig:
        """The run that the flags stand for."""
        settings = {name: value for name, value in _fields(self).items() if name != "algo"}
        settings["wrapper"] = () if self.wrapper == ("None",) else self.wrapper
        kind = DDPGConfig if isinstance(self.agent, DDPGConfig) else PPOConfig
        return RunConfig(**settings | {"agent": kind(**_fields(self.agent))})


@dataclasses.dataclass(frozen=True)
class PPOTrainFlags(TrainFlags):  # noqa: D101
    __doc__ = TrainFlags.__doc__  # Every algorithm's --help begins alike.
    agent: PPOFlags = PPOFlags()  # noqa: RUF009
    buffer_size: tyro.conf.Suppress[int] = RunConfig.buffer_size
    learning_starts: tyro.conf.Suppress[int] = RunConfig.learning_starts
    exploration_noise: tyro.conf.Suppress[float] = RunConfig.exploration_noise
    batch_size: tyro.conf.Suppress[int] = RunConfig.batch_size
    updates_per_step: tyro.conf.Suppress[int] = RunConfig.updates_per_step


@dataclasses.dataclass(frozen=True)
class DDPGTrainFlags(TrainFlags):  # noqa: D101
    __doc__ = TrainFlags.__doc__  # Every algorithm's --help begins alike.
    agent: DDPGFlags = DDPGFlags()  # noqa: RUF009
    num_steps: tyro.conf.Suppress[int] = RunConfig.num_steps
    anneal_steps: tyro.conf.Suppress[int | None] = RunConfig.anneal_steps
    normalize_obs: tyro.conf.Suppress[bool] = RunConfig.normalize_obs
    normalize_reward: tyro.conf.Suppress[bool] = RunConfig.normalize_reward


@dataclasses.dataclass(frozen=True)
class EvaluateFlags:
    """Runs a saved policy for whole episodes and prints their returns."""

    run_dir: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN_DIR")]
    """Folder of a run (its best policy), or of one policy in it, such as RUN_DIR/policy/latest."""
    episodes: int | None = None
    """How many episodes to run; none for 10, for 1 in an animation, or for as many as were recorded."""
    seed: int | None = None
    """Seed of the episodes, 0 if none; evaluations during training use other streams."""
    recorded: bool = False
    """Repeat the evaluation that chose the policy: its environments, seeds and episodes, to the same returns."""
    stochastic: bool = False
    """Sample actions instead of taking the most probable ones."""
    max_episode_steps: int | None = None
    """Length at which an episode is cut; none for the task's own, or 20,000 where it has none."""
    env: str | None = None
    """Gymnasium id to run in; none for the one trained in."""
    wrapper: tuple[str, ...] = ()
    """Wrappers around the environment, module:callable, the innermost first; none for no wrapper."""
    render: bool = False
    """Show the episodes in a window, one after the other."""
    video: str | None = None
    """Folder for a video of each episode (mp4), or FILE.webp or FILE.gif for one animation of them all."""


def _fields(instance: RunConfig | PPOConfig | DDPGConfig) -> dict[str, Any]:
    return {field.name: getattr(instance, field.name) for field in dataclasses.fields(instance)}

"""The flags of the commands, as dataclasses that tyro reads: their comments are the `--help`."""

import dataclasses
from typing import Annotated, Any, Literal

import tyro

from jaxrl.config import RunConfig
from jaxrl.ppo import PPOConfig


class PPOFlags(PPOConfig):
    """The algorithm. Whoever sets one of these finds it acting, or is told why it cannot."""

    anneal_updates: tyro.conf.Suppress[float | None] = None


@dataclasses.dataclass(frozen=True)
class TrainFlags(RunConfig):
    """Trains a policy, and leaves its curves, checkpoints and the policy itself in a folder.

    The defaults shown are those of the --algo and --env given: some tasks have their own.
    """

    env: str = "CartPole-v1"
    """Gymnasium id of the task."""
    agent: PPOFlags = PPOFlags()  # noqa: RUF009
    eval_env: str | None = None
    """Gymnasium id to evaluate in; none for the one trained in."""
    algo: Literal["ppo", "ppo_kl"] = "ppo"  # type: ignore[assignment]
    """ppo clips the surrogate; ppo_kl penalises KL(old || new) instead, with a coefficient that adapts."""

    @classmethod
    def of(cls, algo: str, run: RunConfig) -> "TrainFlags":
        """The flags that stand for `run`."""
        return cls(**_fields(run) | {"agent": PPOFlags(**_fields(run.agent)), "algo": algo})

    def run(self) -> RunConfig:
        """The run that the flags stand for."""
        settings = {name: value for name, value in _fields(self).items() if name != "algo"}
        return RunConfig(**settings | {"agent": PPOConfig(**_fields(self.agent))})


@dataclasses.dataclass(frozen=True)
class EvaluateFlags:
    """Runs a saved policy for whole episodes and prints their returns."""

    run_dir: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN_DIR")]
    """Folder of a run (its best policy), or of one policy in it, such as RUN_DIR/policy/latest."""
    episodes: int = 10
    """How many episodes to run."""
    seed: int = 0
    """Seed of the episodes; evaluations during training use other streams."""
    stochastic: bool = False
    """Sample actions instead of taking the most probable ones."""
    max_episode_steps: int | None = None
    """Length at which an episode is cut; none for the task's own."""
    env: str | None = None
    """Gymnasium id to run in; none for the one trained in."""
    render: bool = False
    """Show the episodes in a window, one after the other."""
    video: str | None = None
    """Folder to write a film of each episode to."""


def _fields(instance: RunConfig | PPOConfig) -> dict[str, Any]:
    return {field.name: getattr(instance, field.name) for field in dataclasses.fields(instance)}

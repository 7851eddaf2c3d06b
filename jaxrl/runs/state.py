"""Where a training stands: all that a loop hands from one step to the next."""

import dataclasses
from typing import Any

import numpy as np

from jaxrl.data.normalize import Normalizer
from jaxrl.data.replay import Replay
from jaxrl.data.transition import Transition
from jaxrl.envs.vector import Envs
from jaxrl.runs.stack import Stack


@dataclasses.dataclass
class Training:
    """What a loop hands from one step to the next, and a checkpoint keeps.

    Attributes:
      learner: the learner's pytree; `state` is this run's, where several runs' are stacked.
      normalizer: statistics of observations and returns.
      rng: generator of the exploration.
      envs: the environments.
      memory: the replay buffer, where there is one; `replay` is this run's.
      place: of this run in those two.
      step: environment steps taken.
      steps_due: of an off-policy loop, steps taken that no update has answered yet.
      rollout: of an on-policy loop, the transitions that the next update will learn from, `(T, N)`.
      rows: how many of the rollout's T rows have been taken.
    """

    learner: Stack
    normalizer: Normalizer
    rng: np.random.Generator
    envs: Envs
    memory: Stack | None = None
    place: int = 0
    step: int = 0
    steps_due: int = 0
    rollout: Transition | None = None
    rows: int = 0

    @property
    def state(self) -> Any:
        """The learner of this run."""
        return self.learner[self.place]

    @state.setter
    def state(self, state: Any) -> None:
        self.learner[self.place] = state

    @property
    def replay(self) -> Replay | None:
        """The buffer of this run."""
        return None if self.memory is None else self.memory[self.place]

    def begin_anew(self) -> None:
        """Ends every episode here: those that follow are others, and so are their returns."""
        last = self.rows - 1
        if self.rollout is None or last < 0:
            self.normalizer = self.normalizer._replace(discounted=np.zeros_like(self.normalizer.discounted))
        else:
            going = ~self.rollout.terminated[last]
            self.rollout.truncated[last] = going if self.rollout.valid is None else going & self.rollout.valid[last]

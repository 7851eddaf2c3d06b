"""Faults: steps of which nothing can be learned. No JAX here.

An observation, a reward or an action is not finite; or MuJoCo could not compute with a state, and replaced it. A fault
is found before the step becomes a transition.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxrl.data.spaces import Layout, to_float32, what_is_wrong
from jaxrl.envs.guard import FAULT_KEY, marks
from jaxrl.errors import EnvironmentFault

MAX_FAULTS_PER_EPISODE = 100  # Beyond, a reset is no remedy.
MAX_FINITE_SQUARE_SUM = 1e37  # A sum of squares of float32 below it says that each of them is finite.


class Fault(NamedTuple):
    """One environment that was reset on the last step for what it did, such as "gave a reward that is not finite"."""

    env_index: int
    what: str


class FaultCheck:
    """Finds what is wrong with a step, by environment, and says which environments are to be reset for it.

    Args:
      num_envs: N.
      layout: of an observation.
      resets: whether a faulty environment is reset; otherwise a fault ends the run.

    Attributes:
      resets: as given.
      counts: `(N,)` int64, the faults of each environment since it last finished an episode.
      stopped: whether a fault has ended the run.
    """

    def __init__(self, num_envs: int, layout: Layout, resets: bool) -> None:
        self.resets, self.stopped = resets, False
        self.counts = np.zeros(num_envs, np.int64)
        self._bad_obs = f"gave an observation that is {what_is_wrong(layout)}"

    def reset(self) -> None:
        """Forgets every fault."""
        self.counts[:], self.stopped = 0, False

    def of_action(self, action: np.ndarray) -> dict[int, str]:
        """Returns what is wrong with actions, which are not certainly finite."""
        return _not_finite("was given an action that is not finite", action)

    def of_step(self, reward: np.ndarray, next_obs: np.ndarray, infos: Mapping[str, Any]) -> dict[int, str]:
        """Returns what is wrong with what the environments gave."""
        wrong: dict[int, str] = {}
        if not is_finite(reward):
            wrong |= _not_finite("gave a reward that is not finite", reward)
        if not is_finite(next_obs):
            wrong |= _not_finite(self._bad_obs, next_obs)
        if infos:
            wrong |= marks(infos, FAULT_KEY) | marks(infos.get("final_info"), FAULT_KEY)
        return wrong

    def of_start(self, obs: np.ndarray, again: bool = False) -> dict[int, str]:
        """Returns what is wrong with first observations; `again` where they follow a reset for such a fault."""
        return _not_finite(f"{self._bad_obs}, twice in a row after a reset" if again else self._bad_obs, obs)

    def to_reset(self, wrong: dict[int, str], steps: int) -> np.ndarray:
        """Counts the faults in `wrong`; returns the mask, `(N,)`, of the environments that are to be reset.

        Raises:
          EnvironmentFault: faults end the run, or resets have not helped an environment. `steps` is its attribute.
        """
        if not self.resets:
            raise self.stop(wrong, steps)
        mask = mask_of(wrong, len(self.counts))
        self.counts += mask
        if self.counts.max() > MAX_FAULTS_PER_EPISODE:
            index = int(self.counts.argmax())
            times = f"was reset for a fault {MAX_FAULTS_PER_EPISODE} times without finishing an episode"
            raise self.stop({index: f"{wrong[index]}, and {times}"}, steps)
        return mask

    def stop(self, wrong: dict[int, str], steps: int) -> EnvironmentFault:
        """Returns the exception that ends the run, of the first environment in `wrong`."""
        self.stopped = True
        index = min(wrong)
        return EnvironmentFault(index, wrong[index], steps)


def faults_of(wrong: dict[int, str]) -> list[Fault]:
    """Returns what is wrong, by environment, as a list in the environments' order."""
    return [Fault(index, what) for index, what in sorted(wrong.items())]


def mask_of(wrong: dict[int, str], num_envs: int) -> np.ndarray:
    """Returns the mask, `(N,)`, of the environments in `wrong`."""
    mask = np.zeros(num_envs, bool)
    mask[list(wrong)] = True
    return mask


def is_finite(array: np.ndarray) -> bool:
    """Returns whether float32 can certainly hold all of it, for the price of a sum of squares; False calls for a closer
    look, because it may also mean large numbers."""
    return bool(np.vdot(array, array) < MAX_FINITE_SQUARE_SUM)


def _not_finite(what: str, array: np.ndarray) -> dict[int, str]:
    """The closer look: `what`, for each row that holds something which is not finite."""
    finite = np.isfinite(to_float32(array))
    return {int(index): what for index in np.flatnonzero(~finite.reshape(len(array), -1).all(1))}

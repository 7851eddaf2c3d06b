"""A run's environments where they live on the device, as all but its loop sees them."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxrl.envs.episodes import FinishedEpisode
from jaxrl.envs.faults import Fault
from jaxrl.envs.on_device import DeviceEnvs, make_device_envs
from jaxrl.runs.config import RunConfig


class RunEnvs:
    """All that a run asks of its environments but steps: it stands where `jaxrl.envs.vector.Envs` does in other runs.
    The loop tells it what became of them.

    Args:
      device_envs: the environments, without their state.
      on_fault: "stop" or "reset".

    Attributes:
      device_envs: as given.
      num_envs, observation_space, action_space: of these.
      finished: the episodes that ended on the step that is being logged.
      faults: the environments that were reset for a fault, likewise.
      marks_valid: whether its transitions say which of their rows are `valid`.
      failed: whether a fault has ended the run.
      normalizing, normalizers: the normalising wrappers inside: there are none.
    """

    def __init__(self, device_envs: DeviceEnvs, on_fault: str = "stop") -> None:
        self.device_envs, self.num_envs = device_envs, device_envs.num_envs
        self.observation_space, self.action_space = device_envs.observation_space, device_envs.action_space
        self.finished: list[FinishedEpisode] = []
        self.faults: list[Fault] = []
        self.marks_valid, self.failed = on_fault == "reset", False
        self.normalizing: list[str] = []
        self.normalizers: list[list[Any]] = []

    @functools.cached_property
    def obs(self) -> np.ndarray:
        """Observations of some first states, `(N, S)`: an example."""
        return jax.device_get(jax.jit(lambda: self.device_envs.reset(jax.random.key(0)).obs)())

    def reset(self, seed: np.random.SeedSequence | Sequence[int]) -> None:
        """Does nothing: where a run begins, its environments were reset when it was prepared, and where it resumes, its
        checkpoint has their state."""

    def state(self) -> dict[str, Any]:
        """Says that a checkpoint has their state."""
        return {"on_device": True}

    def set_state(self, state: dict[str, Any]) -> None:
        """Does nothing, likewise. Raises ValueError where a checkpoint has the state of other environments."""
        if state != {"on_device": True}:
            raise ValueError("they were not on the device")

    def close(self) -> None:
        """Does nothing: they are functions."""


def make_run_envs(run: RunConfig) -> RunEnvs:
    """The environments of a run.

    Raises:
      BadInput: there are no such environments on the device.
    """
    return RunEnvs(make_device_envs(run.env, run.num_envs, run.env_backend), run.on_fault)

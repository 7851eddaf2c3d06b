"""Where a training stands: all that a loop hands from one step to the next, and how a checkpoint keeps it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl.data.normalize import Normalizer
from jaxrl.data.replay import Replay
from jaxrl.data.transition import Transition
from jaxrl.envs.vector import Envs
from jaxrl.errors import BadInput
from jaxrl.runs.checkpoints import Checkpoints, readable
from jaxrl.runs.stack import Stack
from jaxrl.storage.files import load_arrays, load_tree


@dataclasses.dataclass
class Training:
    """The state that a loop hands from one step to the next, and a checkpoint keeps.

    Attributes:
      learner: the learner's pytree; `state` is this run's, where several runs' are stacked.
      normalizer: statistics of observations and returns.
      rng: generator of the exploration.
      envs: the environments.
      memory: the replay buffer, where there is one; `replay` is this run's.
      world: where the environments stand, where they live on the device; `env_state` is this run's.
      place: of this run in those three.
      step: environment steps taken.
      steps_due: of an off-policy loop, steps taken that no update has answered yet.
      noise: of an off-policy loop, what the last actions were explored with, `(N, A)`, where noise lasts from step to
        step; where the environments live on the device, they keep it.
      rollout: of an on-policy loop, the transitions that the next update will learn from, `(T, N)`.
      rows: how many of the rollout's T rows have been taken.
    """

    learner: Stack
    normalizer: Normalizer
    rng: np.random.Generator
    envs: Envs
    memory: Stack | None = None
    world: Stack | None = None
    place: int = 0
    step: int = 0
    steps_due: int = 0
    noise: np.ndarray | None = None
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

    @property
    def env_state(self) -> Any:
        """Where the environments of this run stand, where they live on the device."""
        return None if self.world is None else self.world[self.place]

    def begin_anew(self) -> None:
        """Ends every episode here: those that follow are others, and so are their returns."""
        last = self.rows - 1
        if self.rollout is None or last < 0:
            self.normalizer = self.normalizer._replace(discounted=np.zeros_like(self.normalizer.discounted))
        else:
            going = ~self.rollout.terminated[last]
            self.rollout.truncated[last] = going if self.rollout.valid is None else going & self.rollout.valid[last]


def save_training(training: Training, checkpoints: Checkpoints, notes: dict[str, Any]) -> None:
    """Writes a checkpoint of all of `training`, and of `notes`, JSON-able.

    Raises:
      OSError: it cannot be written; the last one is whole.
    """
    own = {
        "step": training.step,
        "rng": training.rng.bit_generator.state,
        "envs": training.envs.state(),
        "steps_due": training.steps_due,
        "rows": training.rows,
    }
    tree = {"state": training.state, "normalizer": training.normalizer}
    tree |= {"rollout": training.rollout} if training.rows else {}
    tree |= {} if training.noise is None else {"noise": training.noise}
    tree |= {} if training.world is None else {"env_state": training.env_state}
    checkpoints.save(tree, notes | own, training.replay, training.step)


def load_training(training: Training, checkpoints: Checkpoints, algo: str, env: str) -> dict[str, Any]:
    """Brings `training` to where the latest whole checkpoint was made, but for its environments.

    Args:
      training: where a run with the same settings begins.
      checkpoints: of the run.
      algo, env: what the run is; a checkpoint of another is refused.

    Returns:
      The notes; "envs" among them is the state of the environments, None where it is not known.

    Raises:
      BadInput: there is none, or one of another run.
    """

    def like(notes: dict[str, Any]) -> dict[str, Any]:
        found = notes.get("algo"), notes.get("env")
        if found != (algo, env):
            raise BadInput(f"{checkpoints.folder} is of {found[0]} on {found[1]}, not of {algo} on {env}")
        rows = int(notes["rows"])
        if not 0 <= rows <= (0 if training.rollout is None else len(training.rollout.reward)):
            raise ValueError(f"{rows} rows of a rollout")
        rollout = {"rollout": training.rollout} if rows else {}
        noise = {} if training.noise is None else {"noise": training.noise}
        world = {} if training.world is None else {"env_state": training.env_state}
        return {"state": training.state, "normalizer": training.normalizer} | rollout | noise | world

    tree, notes, replay = checkpoints.load(like, training.replay)
    with readable(checkpoints.folder):
        if training.memory is not None:
            held = int(notes["segments"][-1][1]) if notes["segments"] else 0
            if held != int(notes["step"]):
                raise BadInput(f"{checkpoints.folder} has transitions up to step {held}, and notes of {notes['step']}")
            training.memory[training.place] = replay
        training.state, training.normalizer = tree["state"], tree["normalizer"]
        training.rng.bit_generator.state = notes["rng"]
        training.step, training.steps_due = int(notes["step"]), int(notes["steps_due"])
        training.noise = tree.get("noise")
        training.rollout, training.rows = tree.get("rollout", training.rollout), int(notes["rows"])
        if training.world is not None:
            training.world[training.place] = tree["env_state"]
        if notes["envs"] is None:
            training.begin_anew()
    return notes


def adopt(source: Path, training: Training, names: Sequence[str]) -> None:
    """Starts `training` from the networks, `names` of the state's fields, and the observation statistics of the run in
    `source`."""
    latest = source / "checkpoints" / "latest.npz"
    path = latest if latest.exists() else latest.with_name("previous.npz")  # Killed between two renamings.
    if not path.exists():
        raise BadInput(
            f"init_from {source} holds no checkpoint, there is no {latest}: it must be the folder of a single run"
        )
    networks = {name: getattr(training.state, name) for name in names}
    wanted = {
        name: {part: getattr(network, part) for part in ("params", "target_params") if hasattr(network, part)}
        for name, network in networks.items()
    }
    found, _ = load_tree(path, {"state": wanted}, partly=True)
    training.state = training.state.replace(
        **{name: network.replace(**found["state"][name]) for name, network in networks.items()}
    )
    stored, _ = load_arrays(path, {"normalizer.obs.mean"})
    if bool(stored) != (training.normalizer.obs is not None):
        raise BadInput(
            f"one of {source} and this run normalises observations and one does not: set normalize_obs alike"
        )
    if training.normalizer.obs is not None:
        found, _ = load_tree(path, {"normalizer": {"obs": training.normalizer.obs}}, partly=True)
        training.normalizer = training.normalizer._replace(obs=found["normalizer"]["obs"])

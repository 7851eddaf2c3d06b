"""The commands that show what a run has left, as its end prints them."""

import json
import os
import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxrl.training.train import Result


def next_steps(results: "Sequence[Result]") -> Iterator[str]:
    """A line for each thing that is there to be seen: of one run its curve, its policy and, where the environment can
    be drawn, a film; of several runs the curves."""
    folders = [str(result.run_dir) for result in results]
    if any(result.evaluations for result in results):
        name = "curve: " if len(results) == 1 else "curves:"
        yield f"{name} {shlex.join(['jaxrl', 'plot', os.path.commonpath(folders)])}"
    if len(results) > 1:
        return
    notes = json.loads((results[0].run_dir / "policy" / "latest" / "policy.json").read_text())
    if ":" in notes["actor"] and notes["networks"] is None:
        return  # A network of the user's own that has no name which the command could be given.
    command = ["jaxrl", "evaluate", folders[0], *_named_again(notes)]
    yield f"policy: {shlex.join(command)}"
    if _can_be_filmed(notes):
        yield f"film:   {shlex.join([*command, '--video'])}"


def _named_again(notes: dict[str, Any]) -> list[str]:
    """The flags that name code of the user's: none is imported because a file names it."""
    env = ["--env", notes["env"]] if ":" in notes["env"] and not _is_on_device(notes) else []
    wrapper = ["--wrapper", *notes["wrapper"]] if notes["wrapper"] else []
    networks = ["--networks", notes["networks"]] if ":" in notes["actor"] else []
    return [*env, *wrapper, *networks]


def _is_on_device(notes: dict[str, Any]) -> bool:
    from jaxrl.envs.device_backends import DEVICE_BACKENDS

    return notes["env_backend"] in DEVICE_BACKENDS


def _can_be_filmed(notes: dict[str, Any]) -> bool:
    from jaxrl.envs.video import can_be_recorded

    # The tasks of backend jax are Gymnasium's too, and are drawn there.
    return (notes["env_backend"] == "jax" or not _is_on_device(notes)) and can_be_recorded(notes["env"])

"""Lines that a run says when it begins, about things that its user may not expect."""

import math
from collections.abc import Iterator

from jaxrl.data.spaces import describe, layout, width
from jaxrl.envs.vector import Envs
from jaxrl.envs.wrappers import follow
from jaxrl.runs.config import RunConfig
from jaxrl.training.device_envs import RunEnvs


def flattened(envs: Envs) -> Iterator[str]:
    """Says what is flattened for the networks."""
    seen, action_space = layout(envs.observation_space), envs.action_space
    if not isinstance(seen, tuple) or len(seen) != 1:
        yield f"observations are flattened to {width(seen)} numbers: {describe(seen)}"
    if action_space.shape and len(action_space.shape) > 1:
        yield f"actions of shape {action_space.shape} are flattened to {math.prod(action_space.shape)}"


def normalised(run: RunConfig, envs: Envs, eval_envs: Envs | RunEnvs | None) -> Iterator[str]:
    """Says which statistics are kept in wrappers, where no policy and no checkpoint can take them from."""
    names = sorted({*envs.normalizing, *(eval_envs.normalizing if eval_envs is not None else ())})
    if not names:
        return
    evaluations = ""
    if eval_envs is not None:
        frozen = follow(eval_envs.normalizers, envs.normalizers)
        evaluations = f"evaluations use {'those of the training, frozen' if frozen else 'their own'}; "
        if "NormalizeReward" in names:
            evaluations += "their returns are sums of normalised rewards; "
    flags = {"NormalizeObservation": "--normalize-obs", "NormalizeReward": "--normalize-reward"}
    remedy = f"use {' and '.join(flags.get(name, name) for name in names)} instead"
    if not hasattr(run.loop, "normalize_obs"):
        name = run.row.name
        remedy = f"{name} has no setting for it, and a saved policy needs observations that are normalised as here"
    yield (
        f"the environment has {' and '.join(names)} inside: no saved policy and no checkpoint holds their "
        f"statistics; {evaluations}{remedy}"
    )

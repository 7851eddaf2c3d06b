"""Runs whose environments live on the device: which they are, and what cannot be asked of them."""

from typing import Any

from gymnasium.vector import VectorEnv

from jaxrl.envs.device_backends import DEVICE_BACKENDS
from jaxrl.envs.make import DeviceEnvironment
from jaxrl.errors import BadInput


def is_on_device(run: Any) -> bool:
    """True if the run's environments live on the device."""
    return run.env_backend in DEVICE_BACKENDS


def check_on_device(run: Any) -> None:
    """Raises BadInput, in one line, where the settings ask of environments what these cannot do on the device, or
    elsewhere what only those there can."""
    if not is_on_device(run):
        for name in ("env", "eval_env"):
            env = getattr(run, name)
            if isinstance(env, DeviceEnvironment) and not isinstance(env, VectorEnv):
                raise BadInput(f"{name} is an environment for the device: env_backend must be jax")
        for name, default in {"updates_per_call": None, "num_devices": 1}.items():
            if getattr(run, name) != default:
                raise BadInput(
                    f"{name} is for environments on the device: leave it off, or env_backend must be one of "
                    f"{', '.join(DEVICE_BACKENDS)}"
                )
        return
    here = f"with env_backend {run.env_backend}"
    if callable(run.row.loop):
        raise BadInput(f"{run.row.name} has a loop of its own, which cannot run {here}: it must be gymnasium")
    for env, name in ((run.env, "env"), (run.eval_env, "eval_env")):
        if isinstance(env, VectorEnv) or (callable(env) and not isinstance(env, DeviceEnvironment)):
            raise BadInput(
                f"{name} makes environments of Gymnasium's: {here} it must be the name of a task, or an object with "
                "the functions reset and step"
            )
    if run.wrapper:
        raise BadInput(f"wrapper wraps environments of Gymnasium's: {here} there are none, leave one of the two off")
    if run.render:
        raise BadInput(f"render cannot show environments {here}: leave it off, and use evaluate afterwards")
    if run.eval_backend != "gymnasium":
        raise BadInput(f"eval_backend is {run.eval_backend}, but {here} evaluations run on the device: leave it off")

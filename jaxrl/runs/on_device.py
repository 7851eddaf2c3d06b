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
            if _is_object(env):
                raise BadInput(f"{name} is an environment for the device: env_backend must be jax")
        for name, default in {"updates_per_call": None, "num_devices": 1, "distributed": False}.items():
            if getattr(run, name) != default:
                raise BadInput(
                    f"{name} is for environments on the device: leave it off, or env_backend must be one of "
                    f"{', '.join(DEVICE_BACKENDS)}"
                )
        return
    here = f"with env_backend {run.env_backend}"
    if callable(run.row.loop):
        raise BadInput(f"{run.row.name} has a loop of its own, which cannot run {here}: it must be gymnasium")
    _check_envs(run)
    if run.wrapper:
        raise BadInput(f"wrapper wraps environments of Gymnasium's: {here} there are none, leave one of the two off")
    if run.render:
        raise BadInput(f"render cannot show environments {here}: leave it off, and use evaluate afterwards")
    if run.eval_backend != "gymnasium":
        raise BadInput(f"eval_backend is {run.eval_backend}, but {here} evaluations run on the device: leave it off")
    _check_distributed(run)


def _check_envs(run: Any) -> None:
    here = f"with env_backend {run.env_backend}"
    for env, name in ((run.env, "env"), (run.eval_env, "eval_env")):
        if isinstance(env, VectorEnv) or (callable(env) and not isinstance(env, DeviceEnvironment)):
            raise BadInput(
                f"{name} makes environments of Gymnasium's: {here} it must be the name of a task, or an object with "
                "the functions reset and step"
            )
        if _is_object(env) and run.env_backend != "jax":
            raise BadInput(f"{name} is an environment of your own: env_backend must be jax, not {run.env_backend}")


def _check_distributed(run: Any) -> None:
    if run.distributed and run.num_devices != 1:
        raise BadInput(f"num_devices is {run.num_devices}, but distributed takes all devices: leave num_devices off")
    if run.distributed and (run.num_seeds > 1 or run.sweep):
        raise BadInput(
            "distributed shares one run, and num_seeds and sweep stand for several: leave distributed off, and give "
            "each process seeds of its own"
        )


def _is_object(env: Any) -> bool:
    """True of an environment for the device that is no name."""
    return isinstance(env, DeviceEnvironment) and not isinstance(env, VectorEnv)

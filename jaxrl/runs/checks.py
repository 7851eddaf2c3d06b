"""Checks of a run's settings: what cannot work is said before anything is built."""

import inspect
import math

from gymnasium.vector import VectorEnv

from jaxrl.algos.exploration import check_noise_correlation
from jaxrl.errors import BadInput
from jaxrl.runs.algorithms import configs
from jaxrl.runs.config import RunConfig
from jaxrl.runs.convert import shown
from jaxrl.runs.on_device import check_on_device


def check_settings(run: RunConfig) -> None:
    """Raises BadInput, in one line, if the settings cannot work whatever the environment."""
    _check_algorithm(run)
    for settings in (run, run.loop):
        for name, (low, high) in getattr(settings, "RANGES", {}).items():
            number = getattr(settings, name)
            if number is not None and not low <= number <= high:
                raise BadInput(f"{name} is {number}: it must be from {low} to {high:,}")
    if run.init_from is not None and run.resume is not None:
        raise BadInput("init_from begins a run and resume continues one: give one of them")
    if (run.num_seeds > 1 or run.sweep) and (run.render or isinstance(run.env, VectorEnv)):
        many = f"num_seeds is {run.num_seeds}" if run.num_seeds > 1 else "sweep stands for several runs"
        odd = "render shows one run" if run.render else "a vector environment belongs to one run"
        raise BadInput(f"{many}, but {odd}: leave one of the two off")
    if getattr(run.loop, "anneal_steps", None) is not None and not run.anneals:
        raise BadInput("anneal_steps is set, but nothing anneals: add anneal_learning_rate or anneal_clip")
    own = isinstance(run.env, VectorEnv) or isinstance(run.eval_env, VectorEnv)
    has_processes = own or "async" in (run.env_backend, run.eval_backend)
    if run.env_timeout != RunConfig.env_timeout and not has_processes:
        raise BadInput(
            "env_timeout limits environments in processes of their own: use env_backend or eval_backend async, or "
            "leave it off"
        )
    if run.render and not isinstance(run.env, str):
        raise BadInput("render opens a window on an environment made from an id: give env as an id, or leave it off")
    _check_evaluation(run)
    check_on_device(run)
    run.row.check(run)


def _check_algorithm(run: RunConfig) -> None:
    """The agent, the loop's settings and the row must belong together."""
    if run.algo is None or run.agent is None:
        kinds = ", ".join(configs())
        raise BadInput(f"agent is {shown(run.agent)}: it must be a {kinds}, or the config of an algorithm of your own")
    row = run.row
    if run.networks is not None and not {"actor", "critic"} <= inspect.signature(row.init).parameters.keys():
        raise BadInput(f"networks are given, but init of {row.name} takes no actor and critic: leave networks off")
    check_noise_correlation(row, run.loop)
    if getattr(run.loop, "normalize_reward", False) and not hasattr(run.agent, "gamma"):
        raise BadInput(f"normalize_reward needs a discount, and {row.config.__name__} has no gamma: leave it off")


def _check_evaluation(run: RunConfig) -> None:
    if run.eval_every is None:
        unused = {"eval_env": None, "eval_max_steps": None, "eval_backend": "gymnasium", "stop_return": None}
        for name, default in (unused | {"render": False}).items():
            if getattr(run, name) != default:
                raise BadInput(
                    f"{name} needs evaluations, and eval_every none switches them off: leave one of them off"
                )
        return
    if run.stop_return is not None and not math.isfinite(run.stop_return):
        raise BadInput(f"stop_return is {run.stop_return}: it must be a finite return, or none")
    if isinstance(run.env, VectorEnv) and run.eval_env in (None, run.env):
        raise BadInput(
            "env is a vector environment, which cannot be evaluated in while it trains: give another as eval_env, or "
            "eval_every none"
        )
    if isinstance(run.eval_env, VectorEnv) and (run.num_seeds > 1 or run.sweep):
        raise BadInput("eval_env is a vector environment, which belongs to one run: give an id or a function")
    if isinstance(run.eval_env, VectorEnv) and run.eval_backend != "gymnasium":
        raise BadInput("eval_env is a vector environment, which steps as it does: leave eval_backend off")

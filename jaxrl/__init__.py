"""jaxrl: reinforcement learning as pure, jitted update kernels, and a thin loop that drives environments with them.

Importing this costs nothing: each name below brings in its module when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "BadInput": "errors",
    "EnvironmentFault": "errors",
    "EnvironmentLost": "errors",
    "ProcessLost": "errors",
    "Transition": "data.transition",
    "gae": "ops.returns",
    "td_target": "ops.returns",
    "clipped_surrogate": "ops.losses",
    "adapt_kl_coef": "ops.losses",
    "kl_divergence": "ops.distributions",
    "Categorical": "ops.distributions",
    "MultiCategorical": "ops.distributions",
    "DiagGaussian": "ops.distributions",
    "TanhGaussian": "ops.distributions",
    "Deterministic": "ops.distributions",
    "DDPGConfig": "algos.ddpg",
    "DDPGState": "algos.ddpg",
    "ddpg_init": "algos.ddpg",
    "ddpg_act": "algos.ddpg",
    "ddpg_update": "algos.ddpg",
    "TD3Config": "algos.td3",
    "TD3State": "algos.td3",
    "td3_init": "algos.td3",
    "td3_act": "algos.td3",
    "td3_update": "algos.td3",
    "SACConfig": "algos.sac_config",
    "SACState": "algos.sac",
    "sac_init": "algos.sac",
    "sac_act": "algos.sac",
    "sac_update": "algos.sac",
    "PPOConfig": "algos.ppo_config",
    "PPOState": "algos.ppo",
    "ppo_init": "algos.ppo",
    "ppo_act": "algos.ppo",
    "ppo_update": "algos.ppo",
    "RLOOConfig": "algos.rloo_config",
    "RLOOState": "algos.rloo",
    "rloo_init": "algos.rloo",
    "rloo_update": "algos.rloo",
    "sample_completions": "algos.sampling",
    "Completions": "data.completions",
    "check_completions": "data.completions",
    "leave_one_out": "ops.sequences",
    "Replay": "data.replay",
    "replay_init": "data.replay",
    "replay_add": "data.replay",
    "replay_sample": "data.replay",
    "Algorithm": "algos.algorithm",
    "OnPolicySettings": "algos.algorithm",
    "OffPolicySettings": "algos.algorithm",
    "ReplaySettings": "algos.algorithm",
    "behaviour_policy": "runs.behaviour",
    "register": "runs.algorithms",
    "Logger": "loggers.logger",
    "make_envs": "envs.make",
    "DeviceEnvs": "envs.on_device",
    "make_device_envs": "envs.on_device",
    "collect": "envs.on_device",
    "evaluate_on_device": "envs.evaluate_on_device",
    "RunConfig": "runs.config",
    "train": "training.train",
    "train_many": "training.train",
    "load_policy": "storage.policy",
}

# Listed once more, because type checkers do not compute it.
__all__ = [
    "Algorithm", "BadInput", "Categorical", "Completions", "DDPGConfig", "DDPGState", "Deterministic", "DeviceEnvs",
    "DiagGaussian", "EnvironmentFault", "EnvironmentLost", "Logger", "MultiCategorical", "OffPolicySettings",
    "OnPolicySettings", "PPOConfig", "PPOState", "ProcessLost", "RLOOConfig", "RLOOState", "Replay",
    "ReplaySettings", "RunConfig", "SACConfig", "SACState", "TD3Config", "TD3State", "TanhGaussian", "Transition",
    "adapt_kl_coef", "behaviour_policy", "check_completions", "clipped_surrogate", "collect", "ddpg_act",
    "ddpg_init", "ddpg_update", "evaluate_on_device", "gae", "kl_divergence", "leave_one_out", "load_policy",
    "make_device_envs", "make_envs", "ppo_act", "ppo_init", "ppo_update", "register", "replay_add", "replay_init",
    "replay_sample", "rloo_init", "rloo_update", "sac_act", "sac_init", "sac_update", "sample_completions",
    "td3_act", "td3_init", "td3_update", "td_target", "train", "train_many",
]  # fmt: skip

if TYPE_CHECKING:
    from jaxrl.algos.algorithm import Algorithm, OffPolicySettings, OnPolicySettings, ReplaySettings
    from jaxrl.algos.ddpg import DDPGConfig, DDPGState, ddpg_act, ddpg_init, ddpg_update
    from jaxrl.algos.ppo import PPOState, ppo_act, ppo_init, ppo_update
    from jaxrl.algos.ppo_config import PPOConfig
    from jaxrl.algos.rloo import RLOOState, rloo_init, rloo_update
    from jaxrl.algos.rloo_config import RLOOConfig
    from jaxrl.algos.sac import SACState, sac_act, sac_init, sac_update
    from jaxrl.algos.sac_config import SACConfig
    from jaxrl.algos.sampling import sample_completions
    from jaxrl.algos.td3 import TD3Config, TD3State, td3_act, td3_init, td3_update
    from jaxrl.data.completions import Completions, check_completions
    from jaxrl.data.replay import Replay, replay_add, replay_init, replay_sample
    from jaxrl.data.transition import Transition
    from jaxrl.envs.evaluate_on_device import evaluate_on_device
    from jaxrl.envs.make import make_envs
    from jaxrl.envs.on_device import DeviceEnvs, collect, make_device_envs
    from jaxrl.errors import BadInput, EnvironmentFault, EnvironmentLost, ProcessLost
    from jaxrl.loggers.logger import Logger
    from jaxrl.ops.distributions import (
        Categorical,
        Deterministic,
        DiagGaussian,
        MultiCategorical,
        TanhGaussian,
        kl_divergence,
    )
    from jaxrl.ops.losses import adapt_kl_coef, clipped_surrogate
    from jaxrl.ops.returns import gae, td_target
    from jaxrl.ops.sequences import leave_one_out
    from jaxrl.runs.algorithms import register
    from jaxrl.runs.behaviour import behaviour_policy
    from jaxrl.runs.config import RunConfig
    from jaxrl.storage.policy import load_policy
    from jaxrl.training.train import train, train_many


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})

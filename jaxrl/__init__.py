"""jaxrl: DDPG and PPO as pure, jitted update kernels, and a thin loop that drives Gymnasium and MuJoCo with them.

Importing this costs nothing: each name below brings in its module when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

_HOME = {
    "BadInput": "errors",
    "EnvironmentFault": "errors",
    "EnvironmentLost": "errors",
    "Transition": "transition",
    "gae": "returns",
    "td_target": "returns",
    "clipped_surrogate": "losses",
    "adapt_kl_coef": "losses",
    "kl_divergence": "distributions",
    "DDPGConfig": "ddpg",
    "DDPGState": "ddpg",
    "ddpg_init": "ddpg",
    "ddpg_act": "ddpg",
    "ddpg_update": "ddpg",
    "TD3Config": "td3",
    "TD3State": "td3",
    "td3_init": "td3",
    "td3_act": "td3",
    "td3_update": "td3",
    "SACConfig": "sac",
    "SACState": "sac",
    "sac_init": "sac",
    "sac_act": "sac",
    "sac_update": "sac",
    "PPOConfig": "ppo",
    "PPOState": "ppo",
    "ppo_init": "ppo",
    "ppo_act": "ppo",
    "ppo_update": "ppo",
    "Replay": "replay",
    "replay_init": "replay",
    "replay_add": "replay",
    "replay_sample": "replay",
    "make_envs": "envs",
    "RunConfig": "config",
    "train": "run",
    "train_many": "run",
    "load_policy": "policy",
}

__all__ = sorted(_HOME)  # noqa: PLE0605  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from jaxrl.config import RunConfig
    from jaxrl.ddpg import DDPGConfig, DDPGState, ddpg_act, ddpg_init, ddpg_update
    from jaxrl.distributions import kl_divergence
    from jaxrl.envs import make_envs
    from jaxrl.errors import BadInput, EnvironmentFault, EnvironmentLost
    from jaxrl.losses import adapt_kl_coef, clipped_surrogate
    from jaxrl.policy import load_policy
    from jaxrl.ppo import PPOConfig, PPOState, ppo_act, ppo_init, ppo_update
    from jaxrl.replay import Replay, replay_add, replay_init, replay_sample
    from jaxrl.returns import gae, td_target
    from jaxrl.run import train, train_many
    from jaxrl.sac import SACConfig, SACState, sac_act, sac_init, sac_update
    from jaxrl.td3 import TD3Config, TD3State, td3_act, td3_init, td3_update
    from jaxrl.transition import Transition


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})

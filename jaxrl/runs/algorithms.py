"""The table of algorithms: its rows, and how one is found or added."""

import dataclasses
import importlib
from typing import Any

from jaxrl.algos import ddpg, ppo, ppo_config, sac, sac_config, td3
from jaxrl.algos.algorithm import (
    Algorithm,
    OffPolicySettings,
    OnPolicySettings,
    ReplaySettings,
    check_row,
)
from jaxrl.algos.exploration import add_noise, sample_in_units
from jaxrl.errors import BadInput
from jaxrl.runs import presets


def _check_ppo(run: Any) -> None:
    """The rollout must divide into minibatches of equal size."""
    minibatches, rows = run.agent.num_minibatches, run.num_envs * run.loop.num_steps
    if minibatches < 1 or rows % minibatches or rows // minibatches < 2:
        raise BadInput(
            f"num_minibatches {minibatches} does not divide the rollout of num_envs {run.num_envs} x "
            f"num_steps {run.loop.num_steps} = {rows} rows into equal parts of 2 or more"
        )


def _anneal(config: ppo_config.PPOConfig, updates: float) -> ppo_config.PPOConfig:
    """The config that anneals over `updates` updates, where anything anneals."""
    if not (config.anneal_learning_rate or config.anneal_clip):
        return config
    return config.replace(anneal_updates=updates)


def _check_batch(run: Any) -> None:
    """A batch must be stored before it is sampled."""
    stored = min(run.loop.learning_starts, run.loop.buffer_size)
    if run.loop.batch_size > stored:
        name = "learning_starts" if stored == run.loop.learning_starts else "buffer_size"
        raise BadInput(
            f"batch_size {run.loop.batch_size:,} is larger than what is stored when the updates begin: "
            f"it must be at most {name}, {stored:,}"
        )


PPO = Algorithm(
    name="ppo",
    config=ppo_config.PPOConfig,
    settings=OnPolicySettings,
    init=ppo.ppo_init,
    act=ppo.ppo_act,
    update=ppo.ppo_update,
    metrics=ppo.METRICS,
    loop="on_policy",
    presets=presets.ppo,
    check=_check_ppo,
    horizon=_anneal,
    update_actor=ppo.ppo_update_actor,
    update_critic=ppo.ppo_update_critic,
    networks=("actor", "critic"),
    suits=lambda config: config.kl_coef is None,
)
PPO_KL = PPO._replace(
    name="ppo_kl",
    presets=presets.ppo_kl,
    defaults={"clip_eps": None, "kl_coef": 1.0, "kl_target": 0.01},
    suits=lambda config: config.kl_coef is not None,
)
DDPG = Algorithm(
    name="ddpg",
    config=ddpg.DDPGConfig,
    settings=OffPolicySettings,
    init=ddpg.ddpg_init,
    act=ddpg.ddpg_act,
    update=ddpg.ddpg_update,
    metrics=ddpg.METRICS,
    loop="off_policy",
    presets=presets.ddpg,
    defaults={"num_envs": 1, "eval_every": 5_000},
    check=_check_batch,
    explore=add_noise,
    networks=("actor", "critic"),
)
TD3 = DDPG._replace(
    name="td3",
    config=td3.TD3Config,
    init=td3.td3_init,
    act=td3.td3_act,
    update=td3.td3_update,
    metrics=td3.METRICS,
    averaged_over={"actor_loss": "actor_steps", "grad_norm_actor": "actor_steps"},
    presets=presets.td3,
)
SAC = DDPG._replace(
    name="sac",
    config=sac_config.SACConfig,
    settings=ReplaySettings,
    init=sac.sac_init,
    act=sac.sac_act,
    update=sac.sac_update,
    metrics=sac.METRICS,
    presets=presets.sac,
    defaults={**DDPG.defaults, "learning_starts": 10_000},
    explore=sample_in_units,
)
BUILT_IN = {row.name: row for row in (PPO, PPO_KL, DDPG, TD3, SAC)}
ROWS: dict[str, Algorithm] = dict(BUILT_IN)


def register(row: Algorithm, name: str | None = None) -> Algorithm:
    """Adds a row to the table, for this process: `RunConfig(algo=row.name)` finds it then.

    Args:
      row: an algorithm of your own. A row of your own with the same name is replaced.
      name: what it is to be found under; None for `row.name`.

    Returns:
      The row.

    Raises:
      BadInput: the row lacks something, or its name is that of a built-in one.
    """
    check_row(row)
    name = row.name if name is None else name
    if BUILT_IN.get(row.name, row) is not row or BUILT_IN.get(name, row) is not row:
        raise BadInput(f"the algorithm's name {row.name} is that of a built-in one: give it another")
    ROWS[name] = row
    return row


def find(name: str) -> Algorithm:
    """The row of that name; where the name is `package.module:ROW`, the module is imported.

    Raises:
      BadInput: there is none, or the module cannot be imported or has no such row.
    """
    if isinstance(name, str) and name in ROWS:
        return ROWS[name]
    if not isinstance(name, str) or ":" not in name:
        known = ", ".join(ROWS)
        raise BadInput(f"algorithm {name!r} is not known: it must be {known}, or package.module:ROW of your own")
    module, _, attribute = name.partition(":")
    try:
        row = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # Whatever the module raises, it is the user's.
        why = f"{module} has no {attribute}" if isinstance(error, AttributeError) else str(error)
        raise BadInput(f"algorithm {name} cannot be imported: {why}") from error
    if not isinstance(row, Algorithm):
        raise BadInput(f"algorithm {name} is a {type(row).__name__}: it must be a jaxrl.Algorithm")
    return register(row, name)


def is_known(name: Any) -> bool:
    """True if the table has a row of that name now, without an import."""
    return isinstance(name, str) and name in ROWS


def name_for(config: Any) -> str | None:
    """The name of the first row that this config is one of; None where there is none."""
    return next((name for name, row in ROWS.items() if type(config) is row.config and row.suits(config)), None)


def names() -> list[str]:
    """The names of all rows."""
    return list(ROWS)


def configs() -> list[str]:
    """The names of the classes of config that the table knows."""
    return list(dict.fromkeys(row.config.__name__ for row in ROWS.values()))


def settings_of(row: Algorithm) -> tuple[set[str], set[str]]:
    """The names of the settings of a row's loop, and of its config."""
    loop, agent = ({field.name for field in dataclasses.fields(kind)} for kind in (row.settings, row.config))
    return loop, agent


def check_names(row: Algorithm, of_run: set[str]) -> None:
    """Raises BadInput where a setting of the row has the name of one of a run's, `of_run`, or two have one name."""
    loop, agent = settings_of(row)
    if clash := (loop & agent) | ((loop | agent) & of_run):
        raise BadInput(f"{row.name} has a setting {min(clash)}, which stands elsewhere in a run: give it another name")

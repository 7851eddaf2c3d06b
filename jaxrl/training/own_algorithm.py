"""Checks that an algorithm of the user's own fits into the house, before anything is written."""

from typing import Any

import jax
import numpy as np

from jaxrl.algos.algorithm import Algorithm, check_metrics
from jaxrl.algos.exploration import sample
from jaxrl.algos.networks import as_policy, policy_of
from jaxrl.data.replay import replay_sample
from jaxrl.errors import BadInput
from jaxrl.runs.algorithms import BUILT_IN
from jaxrl.runs.config import RunConfig
from jaxrl.runs.state import Training


def check_algorithm(run: RunConfig, training: Training) -> None:
    """Raises BadInput, in one line, unless the row's functions agree with each other on this run. Those of built-in
    rows do: tests say so."""
    row = run.row
    if row in BUILT_IN.values():
        return
    data = _example(run, training)
    if data is None:
        return  # A loop of one's own: its first update is checked when it is compiled.
    answer = jax.eval_shape(row.update, training.state, data)
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise BadInput(f"update of {row.name} gives a {type(answer).__name__}: it must give a state and its metrics")
    state, metrics = answer
    check_metrics(row, metrics)
    for name, metric in metrics.items():
        if metric.shape:
            raise BadInput(f"update of {row.name} gives {name} of shape {metric.shape}: a metric must be a scalar")
    before = jax.eval_shape(lambda state: state, training.state)
    if _structure(state) != _structure(before):
        raise BadInput(f"update of {row.name} gives a state of another structure: it must be that of init")
    leaves = zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(state), strict=True)
    for (path, old), new in leaves:
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            raise BadInput(
                f"update of {row.name} makes state{jax.tree_util.keystr(path)} a {new.dtype}{list(new.shape)} of a "
                f"{old.dtype}{list(old.shape)}: it must keep shapes and types"
            )


def check_state(row: Algorithm, state: Any, obs: np.ndarray) -> None:
    """Raises BadInput unless `state`, from the row's init, has what the house asks of it, its actor giving for `obs`,
    `(N, S)`, what the row's `act` gives. Those of built-in rows do: tests say so."""
    if row in BUILT_IN.values():
        return
    for name in ("actor", "num_updates", "config"):
        if not hasattr(state, name):
            raise BadInput(f"init of {row.name} gives a {type(state).__name__} without {name}: it must have it")
    for name in ("params", "apply_fn"):
        if not hasattr(state.actor, name):
            kind = type(state.actor).__name__
            raise BadInput(f"init of {row.name} gives an actor that is a {kind}: it must be a Flax TrainState")
    _check_act(row, state, obs)


def _check_act(row: Algorithm, state: Any, obs: np.ndarray) -> None:
    """Loops, evaluations and saved policies act with `state.actor`; `act` must be the same."""
    wanted, found = as_policy(row.act(state, jax.device_put(obs))), policy_of(state.actor, state.actor.params)(obs)
    same = _structure(wanted) == _structure(found) and all(
        np.allclose(one, other, rtol=1e-3, atol=1e-4)
        for one, other in zip(jax.tree.leaves(jax.device_get(wanted)), jax.tree.leaves(found), strict=True)
    )
    if not same:
        raise BadInput(
            f"act of {row.name} gives another {type(wanted).__name__} than its actor alone: it must be "
            "state.actor.apply_fn(state.actor.params, obs)"
        )
    for name in ("mode", "to_env", *(["sample"] if row.explore is sample else [])):
        if not callable(getattr(found, name, None)):
            raise BadInput(
                f"act of {row.name} gives a {type(found).__name__} without {name}: it must be a distribution"
            )


def _structure(tree: Any) -> Any:
    return jax.tree.structure(tree)


def _example(run: RunConfig, training: Training) -> Any:
    """Data of the kind that the update gets, or None where that is not known."""
    if run.row.loop == "on_policy":
        return training.rollout
    if run.row.loop == "off_policy":
        size = run.loop.batch_size
        return jax.eval_shape(lambda replay: replay_sample(replay, jax.random.key(0), size), training.replay)
    return None

"""A run's settings as JSON, as config.json holds them: those of its loop beside its own, and the algorithm's in a dict.
Settings that came after a file was written are read as their defaults."""

import dataclasses
import json
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jaxrl.algos.algorithm import Algorithm
from jaxrl.envs.make import WrapperLike
from jaxrl.errors import BadInput
from jaxrl.runs.algorithms import BUILT_IN, find, is_known, register
from jaxrl.runs.config import Networks, RunConfig


def run_to_json(run: RunConfig) -> dict[str, Any]:
    """The settings as JSON-able values; an environment that is no id is recorded by name."""
    wrapper = tuple(map(_name_of, run.wrapper))
    networks = None if run.networks is None else _name_of(run.networks)
    record = dataclasses.asdict(dataclasses.replace(run, env="", eval_env=None, wrapper=wrapper, networks=networks))
    loop = record.pop("loop")
    record = json.loads(json.dumps({"algo": run.algo} | record | loop))
    eval_env = run.eval_env if run.eval_env is None or isinstance(run.eval_env, str) else repr(run.eval_env)
    return record | {"env": run.env_name, "eval_env": eval_env}


def _name_of(function: WrapperLike | Networks) -> str:
    if isinstance(function, str):
        return function
    return f"{function.__module__}:{getattr(function, '__qualname__', type(function).__qualname__)}"


def run_from_json(record: dict[str, Any]) -> RunConfig:
    """The inverse of `run_to_json`, for runs on environments with an id, by an algorithm in the table."""
    row = find(record["algo"])
    # Files were written once with the settings of every loop.
    own = {field.name for field in dataclasses.fields(RunConfig)} - {"agent", "loop"}
    given = {name: value for name, value in record.items() if name in own}
    run = RunConfig(
        agent=_read(row.config, record["agent"]), loop=_read(row.settings, record), **_tuples(RunConfig, given)
    )
    if not isinstance(run.env, str):
        raise TypeError(f"env is {run.env!r}")
    if not isinstance(run.networks, str | None):
        raise TypeError(f"networks is {run.networks!r}")
    if not all(isinstance(each, str) for each in run.wrapper):
        raise TypeError(f"wrapper is {run.wrapper!r}")
    for settings in (run, run.agent, run.loop):
        kinds = get_type_hints(type(settings))
        for field in dataclasses.fields(settings):
            value = getattr(settings, field.name)
            kind = kinds[field.name]
            if kind is not Any and not _fits(value, kind):
                raise TypeError(f"{field.name} is {value!r}")
    return run


def _read(kind: type, record: dict[str, Any]) -> Any:
    """Settings of this kind, those of its fields that the record has."""
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**_tuples(kind, {name: value for name, value in record.items() if name in names}))


def _tuples(kind: type, record: dict[str, Any]) -> dict[str, Any]:
    """The record with tuples where the fields declare them; JSON has lists alone."""
    kinds = get_type_hints(kind)
    return {
        name: tuple(value) if isinstance(value, list) and get_origin(kinds[name]) is tuple else value
        for name, value in record.items()
    }


def _fits(value: Any, kind: Any) -> bool:
    """True if a value read from JSON is of the kind that a field declares."""
    if get_origin(kind) in (Union, UnionType):
        return any(_fits(value, each) for each in get_args(kind))
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(each, get_args(kind)[0]) for each in value)
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return not isinstance(kind, type) or isinstance(value, kind)


def load_run(folder: str | Path, algorithm: Algorithm | str | None = None) -> RunConfig:
    """The settings of the run in `folder`, set to resume it, by this process alone.

    Args:
      folder: the run's.
      algorithm: its row, or the row's name, where it is one of your own: no module is imported because a file names it.

    Raises:
      BadInput: there is no run, or it is by an algorithm that is not in the table.
    """
    path = Path(folder) / "config.json"
    try:
        record = json.loads(path.read_text())["run"]
        _check_named(record["algo"], algorithm, folder)
        run = run_from_json(record)
        return dataclasses.replace(run, resume=str(folder), init_from=None, distributed=False)
    except BadInput:
        raise
    except FileNotFoundError as error:
        raise BadInput(f"{folder} holds no run: there is no {path}") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error


def _check_named(algo: Any, algorithm: Algorithm | str | None, folder: str | Path) -> None:
    """The algorithm that a file names must be in the table, or be given. One of your own has two names, its row's and
    module:ROW; the file has the one that the run was begun under."""
    if algorithm is None:
        if not is_known(algo):
            raise BadInput(
                f"the run in {folder} is one by {algo}, an algorithm of your own: name it too, by --algo module:ROW or "
                "as algorithm=ROW, if that is right"
            )
        return
    row = algorithm if isinstance(algorithm, Algorithm) else find(algorithm)
    given = row.name if isinstance(algorithm, Algorithm) else algorithm
    is_own = row.name not in BUILT_IN
    if algo != given and not (is_own and (algo == row.name or (isinstance(algorithm, Algorithm) and ":" in str(algo)))):
        raise BadInput(f"the algorithm is {given}, but the run in {folder} is one by {algo}: leave it off")
    if is_own:
        register(row, algo)


# The settings that a resumed run may be given anew: none of them changes what is learned from here on.
MAY_CHANGE = {"total_steps", "stop_return", "checkpoint_every", "log_every", "render", "env_timeout"}
MAY_CHANGE |= {"run_dir", "init_from", "resume", "updates_per_call", "num_devices", "distributed"}


def check_resumable(run: RunConfig, folder: Path) -> dict[str, Any]:
    """Raises BadInput, naming the setting, if `run` is to resume the run in `folder` and that had other settings; gives
    those."""
    path = folder / "config.json"
    try:
        before = json.loads(path.read_text())["run"]
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    now = json.loads(json.dumps(run_to_json(run)))
    may_change = MAY_CHANGE if run.eval_env is None or isinstance(run.eval_env, str) else {*MAY_CHANGE, "eval_env"}
    # A setting that came after the run was begun had its default then.
    default = json.loads(json.dumps(run_to_json(RunConfig(algo=run.algo, agent=type(run.agent)()))))
    before = default | before | {"agent": default["agent"] | before.get("agent", {})}
    for old, new in ((before, now), (before["agent"], now["agent"])):
        for name in new:
            if name != "agent" and name not in may_change and old[name] != new[name]:
                raise BadInput(f"{name} is {new[name]}, but the run in {folder} had {old[name]}: it keeps its settings")
    if run.anneals and getattr(run.loop, "anneal_steps", None) is None and run.total_steps != before["total_steps"]:
        raise BadInput("total_steps cannot change in a run that anneals over it: only one with anneal_steps can")
    return before

"""Search spaces of `jaxrl tune`: which settings are tried, and between which bounds. One for each algorithm, or a file:

[space]
actor_learning_rate = {low = 1e-5, high = 1e-2, log = true}
num_epochs = {low = 1, high = 20}          # whole numbers, where both bounds are
gamma = {choices = [0.9, 0.98, 0.99]}
"""

import math
import tomllib
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, NamedTuple

from jaxrl.studies.script import Mistake


class Range(NamedTuple):
    """Numbers from `low` to `high`; whole ones where both are. With `log`, each order of magnitude is as likely."""

    low: float
    high: float
    log: bool = False

    def suggest(self, trial: Any, name: str) -> Any:
        """A value that the search proposes."""
        suggest = trial.suggest_int if isinstance(self.low, int) and isinstance(self.high, int) else trial.suggest_float
        return suggest(name, self.low, self.high, log=self.log)

    def holds(self, value: Any) -> bool:
        """True if a setting's present value is one of these."""
        return isinstance(value, int | float) and self.low <= value <= self.high


class Choice(NamedTuple):
    """One of several values."""

    values: tuple[Any, ...]

    def suggest(self, trial: Any, name: str) -> Any:
        """A value that the search proposes."""
        return trial.suggest_categorical(name, self.values)

    def holds(self, value: Any) -> bool:
        """True if a setting's present value is one of these."""
        return value in self.values


Space = Mapping[str, Range | Choice]

RATE, GAMMA = Range(1e-5, 1e-2, log=True), Choice((0.9, 0.95, 0.98, 0.99, 0.995, 0.999))
PPO: dict[str, Range | Choice] = {
    "actor_learning_rate": RATE,
    "critic_learning_rate": RATE,
    "gamma": GAMMA,
    "gae_lambda": Choice((0.8, 0.9, 0.95, 0.98, 1.0)),
    "num_epochs": Choice((1, 5, 10, 20)),
    "ent_coef": Range(1e-8, 0.1, log=True),
}
OFF_POLICY: dict[str, Range | Choice] = {
    "actor_learning_rate": RATE,
    "critic_learning_rate": RATE,
    "gamma": GAMMA,
    "tau": Range(1e-3, 0.05, log=True),
    "batch_size": Choice((64, 128, 256, 512)),
}
SPACES: dict[str, Space] = {
    "ppo": PPO | {"clip_eps": Choice((0.1, 0.2, 0.3))},
    "ppo_kl": PPO | {"kl_coef": Range(0.1, 30.0, log=True), "kl_target": Range(3e-4, 0.03, log=True)},
    "ddpg": OFF_POLICY | {"exploration_noise": Range(0.05, 1.0)},
    "td3": OFF_POLICY | {"exploration_noise": Range(0.05, 1.0)},
    "sac": OFF_POLICY,
}


def load_space(path: Path | None, algo: str, settings: Set[str]) -> Space:
    """The space in a file, or without one the algorithm's own.

    Args:
      path: the file.
      algo: the algorithm's name.
      settings: the names that can be searched: those of the algorithm and of its loop.

    Raises:
      Mistake: the file cannot be read, or says what cannot be searched.
    """
    if path is None:
        if algo not in SPACES:
            raise Mistake(f"there is no search space for {algo}: give one by --space FILE.toml")
        return SPACES[algo]
    try:
        record = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Mistake(f"{path} cannot be read: {error}") from error
    if record.keys() != {"space"} or not isinstance(record["space"], dict) or not record["space"]:
        raise Mistake(f"{path} must have one table, [space], of settings to be searched")
    if odd := record["space"].keys() - settings:
        raise Mistake(f"{path}: {algo} has no setting {min(odd)}; it has {', '.join(sorted(settings))}")
    return {name: _axis(f"{path}: {name}", spec) for name, spec in record["space"].items()}


def _axis(what: str, spec: Any) -> Range | Choice:
    match spec:
        case {"choices": [_, *_] as choices, **rest} if not rest:
            if all(isinstance(each, int | float | str | bool) for each in choices):
                return Choice(tuple(choices))
        case {"low": int() | float() as low, "high": int() | float() as high, **rest} if rest.keys() <= {
            "log"
        } and not any(isinstance(bound, bool) for bound in (low, high)):
            log = rest.get("log", False)
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise Mistake(f"{what} is empty, from {low} to {high}: low must be below high")
            if log and low <= 0:
                raise Mistake(f"{what} has log and begins at {low}: low must be above 0")
            return Range(low, high, bool(log))
    raise Mistake(
        f"{what} is {spec!r}: it must be {{low = ..., high = ...}}, maybe with log = true, or {{choices = [...]}}"
    )

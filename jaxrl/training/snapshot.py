"""The callback of a run, and what it sees."""

import copy
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.data.normalize import Normalizer
from jaxrl.errors import BadInput
from jaxrl.loggers.logger import Evaluation
from jaxrl.loggers.metrics import fetch
from jaxrl.runs.convert import shown
from jaxrl.runs.state import Training


class Snapshot:
    """The view of a run that a callback gets after an update.

    `state`, `normalizer` and `metrics` are copied or fetched when they are first read: a callback that does not read
    them costs nothing. The copies are yours, to keep or to change. To read one first after the callback has returned
    raises BadInput: the run has gone on.

    Attributes:
      step: environment steps taken.
      evaluations: all up to now.
      run_dir: the run's folder: as it was named, or its absolute path where something has moved the working folder.
    """

    def __init__(
        self,
        training: Training,
        metric_names: Sequence[str],
        metrics: tuple[Any, int],
        evaluations: Sequence[Evaluation],
        run_dir: Path,
    ) -> None:
        self.step, self.evaluations, self.run_dir = training.step, list(evaluations), run_dir
        self._source: tuple[Training, Sequence[str], tuple[Any, int]] | None = training, metric_names, metrics

    @cached_property
    def state(self) -> Any:
        """The learner's state now: a copy, made when it is first read."""
        return jax.tree.map(jnp.copy, self._now("state")[0].state)

    @cached_property
    def normalizer(self) -> Normalizer:
        """The statistics of observations and returns now: a copy, made when it is first read."""
        return copy.deepcopy(self._now("normalizer")[0].normalizer)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """The metrics of the last update, by name. The first read waits for the update."""
        _, names, metrics = self._now("metrics")
        return dict(zip(names, map(float, fetch([metrics])[0]), strict=True))

    def close(self) -> None:
        """Ends the time in which something can be read for the first time."""
        self._source = None

    def _now(self, name: str) -> tuple[Training, Sequence[str], tuple[Any, int]]:
        if self._source is None:
            raise BadInput(f"snapshot.{name} was first read after the callback had returned: read it in the callback")
        return self._source

    def __getstate__(self) -> dict[str, Any]:
        """A pickle or a copy holds everything, and nothing that belongs to the run."""
        if self._source is not None:
            _ = self.state, self.normalizer, self.metrics
        return vars(self) | {"_source": None}


Callback = Callable[[Snapshot], Any]


def asks_to_stop(answer: Any) -> bool:
    """True if a callback's answer ends the run: False does, None and True do not. BadInput for any other answer."""
    if answer is None or isinstance(answer, bool | np.bool_):
        return answer is not None and not answer
    raise BadInput(f"the callback returned {shown(answer)}: it must return None or True to go on, or False to stop")

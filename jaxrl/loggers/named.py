"""The loggers that a flag names."""

import re
from collections.abc import Sequence
from pathlib import Path

from jaxrl.errors import BadInput
from jaxrl.loggers.logger import Logger
from jaxrl.loggers.mlflow import MLflow
from jaxrl.loggers.wandb import WandB

NAMED = {"wandb": WandB, "mlflow": MLflow}


def named_loggers(names: Sequence[str], folder: str | Path | None = None) -> list[Logger]:
    """A logger for each name.

    Args:
      names: of NAMED, each once.
      folder: of a run that is one of several, `GROUP/gamma=0.9/seed-3`: they are grouped by the name GROUP. None for a
        run by itself.

    Raises:
      BadInput: no such name; or what the logger needs is not there.
    """
    for name in names:
        if name not in NAMED:
            raise BadInput(f"there is no logger {name}: it must be {' or '.join(NAMED)}")
    group = None if folder is None else Path(folder).absolute()
    while group is not None and re.fullmatch(r"seed-\d+|[a-z_]+=.*", group.name):
        group = group.parent
    return [NAMED[name](None if group is None else group.name) for name in dict.fromkeys(names)]

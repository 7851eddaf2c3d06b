"""A run's curves at Weights & Biases, or offline in its folder. The package is imported when the logger is made."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxrl.errors import BadInput
from jaxrl.loggers.service import Service

PROJECT = "jaxrl"  # Unless WANDB_PROJECT names another.
RECORD = "wandb.json"  # In a run's folder: under which id the run is known.


class WandB(Service):
    """Writes a run's numbers to W&B. A run that resumes continues the one there.

    Every number is logged beside `step`, the environment steps, which W&B draws it against. A run that resumes logs the
    steps after its last checkpoint again, with the same numbers.

    Args:
      group: what the run is grouped under, such as the name of a sweep; None for no group.

    Raises:
      BadInput: the package is not installed, or nobody is logged in and the variable WANDB_MODE is not offline.
    """

    NAME = "wandb"
    INSTEAD = (
        "set WANDB_MODE=offline to keep the curves in the run's folder, which wandb sync uploads later, or leave it off"
    )

    def __init__(self, group: str | None = None) -> None:
        super().__init__()
        try:
            import wandb
        except ImportError as error:
            raise BadInput("--logger wandb needs the package wandb: pip install 'jaxrl-kernels[wandb]'") from error
        self._wandb, self._group = wandb, group
        self._run: Any = None
        if os.environ.get("WANDB_MODE") not in ("offline", "disabled", "dryrun"):
            try:
                is_known = wandb.login(prompt=False)
            except Exception as error:  # A key that is none, or no network.
                raise self.refusal(error) from error
            if not is_known:
                raise BadInput(f"--logger wandb: nobody is logged in to W&B; run wandb login, or {self.INSTEAD}")

    def open_run(self, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        """Opens the run at W&B: its own again where the folder has one."""
        record = folder / RECORD
        known = json.loads(record.read_text()) if step > 0 and record.exists() else {}
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            group=self._group,
            name=folder.name,
            id=known.get("id"),
            resume="allow",
            dir=str(folder),
            config=dict(settings),
            reinit="create_new",  # Runs that train side by side have one each.
            settings=self._wandb.Settings(console="off"),
        )
        record.write_text(json.dumps({"id": self._run.id, "project": self._run.project}) + "\n")
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def send(self, step: int, numbers: Mapping[str, float]) -> None:
        """Logs numbers beside their step."""
        self._run.log({"step": step, **numbers})

    def end_run(self) -> None:
        """Ends the run at W&B, once all is sent or on the disk."""
        if self._run is not None:
            self._run.finish()

"""A run's curves in MLflow, by default in its local store. The package is imported when the logger is made."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxrl.errors import BadInput
from jaxrl.loggers.service import Service

EXPERIMENT = "jaxrl"  # Unless MLFLOW_EXPERIMENT_NAME names another.
RECORD = "mlflow.json"  # In a run's folder: under which id the run is known.
MAX_LENGTH = 500  # Of a setting's text, for MLflow.


class MLflow(Service):
    """Writes a run's numbers to MLflow, where MLFLOW_TRACKING_URI says or in its local store. A run that resumes
    continues the one there.

    Args:
      group: the tag `group` of the run, such as the name of a sweep; None for no tag.

    Raises:
      BadInput: the package is not installed, or its store cannot be used.
    """

    NAME = "mlflow"
    INSTEAD = "name a store that can be written to by MLFLOW_TRACKING_URI, such as sqlite:///mlflow.db, or leave it off"

    def __init__(self, group: str | None = None) -> None:
        super().__init__()
        try:
            import mlflow

            self._client = mlflow.MlflowClient()  # A local store needs more packages than MLflow itself.
        except ImportError as error:
            raise BadInput("--logger mlflow needs the package mlflow: pip install 'jaxrl-kernels[mlflow]'") from error
        except Exception as error:  # The store that it is told to use.
            raise self.refusal(error) from error
        self._mlflow, self._group = mlflow, group
        self._id: str | None = None

    def open_run(self, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        """Opens the run in MLflow: its own again where the folder has one."""
        record = folder / RECORD
        known = json.loads(record.read_text()) if step > 0 and record.exists() else {}
        if "id" in known:
            self._id = known["id"]
            self._client.update_run(self._id, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        experiment = self._client.get_experiment_by_name(name)
        number = self._client.create_experiment(name) if experiment is None else experiment.experiment_id
        tags = {} if self._group is None else {"group": self._group}
        self._id = self._client.create_run(number, tags=tags, run_name=folder.name).info.run_id
        flat = {**settings, **{f"agent.{key}": value for key, value in settings.get("agent", {}).items()}}
        flat.pop("agent", None)
        params = [self._mlflow.entities.Param(key, str(value)[:MAX_LENGTH]) for key, value in flat.items()]
        self._client.log_batch(self._id, params=params)
        record.write_text(json.dumps({"id": self._id, "experiment": name}) + "\n")

    def send(self, step: int, numbers: Mapping[str, float]) -> None:
        """Logs numbers at their step."""
        now = int(time.time() * 1000)
        metrics = [self._mlflow.entities.Metric(name, value, now, step) for name, value in numbers.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def end_run(self) -> None:
        """Ends the run in MLflow."""
        if self._id is not None:
            self._client.set_terminated(self._id)

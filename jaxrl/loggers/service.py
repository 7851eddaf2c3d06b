"""Loggers that write to a service, which may be out of reach, full, or closed to the user: that costs its curves, and
not the run."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from jaxrl.errors import BadInput, one_line
from jaxrl.loggers.scalars import Scalars
from jaxrl.report import tell


class Service(Scalars):
    """Writes what a run logs to a service. An error of the service at the start refuses the run, in one line. A later
    one is said once; the run goes on without the service.

    A subclass writes `open_run`, `send` and `end_run`, which may raise whatever the service's package raises.
    """

    NAME: ClassVar[str]
    """The name that `--logger` knows."""
    INSTEAD: ClassVar[str]
    """The remedy where the service cannot be used."""

    def __init__(self) -> None:
        super().__init__()
        self._works = False

    def open_run(self, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        """Opens the run at the service: its own again where it resumes. The arguments are those of `begin`."""
        raise NotImplementedError

    def send(self, step: int, numbers: Mapping[str, float]) -> None:
        """Sends numbers that belong to one step."""
        raise NotImplementedError

    def end_run(self) -> None:
        """Ends what `open_run` has opened."""
        raise NotImplementedError

    def begin(self, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        """Opens the run at the service.

        Raises:
          BadInput: the service cannot be used.
        """
        try:
            self.open_run(folder, settings, step)
        except Exception as error:
            with contextlib.suppress(Exception):
                self.end_run()
            raise self.refusal(error) from error
        self._works = True

    def refusal(self, error: Exception) -> BadInput:
        """The complaint where the service cannot be used."""
        return BadInput(f"--logger {self.NAME} cannot be used: {one_line(error).rstrip('.')}; {self.INSTEAD}")

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Sends numbers that belong to one step."""
        if self._works:
            try:
                self.send(step, numbers)
            except Exception as error:  # It is not tried again: each try may hold up the run until it times out.
                self._give_up(f"nothing more is written there from step {step:,} on", error)

    def close(self) -> None:
        """Ends the run at the service, once all is written."""
        if self._works:
            try:
                self.end_run()
            except Exception as error:
                self._give_up("its last rows may be missing there", error)

    def _give_up(self, what: str, error: Exception) -> None:
        self._works = False
        tell(f"--logger {self.NAME} failed: {one_line(error).rstrip('.')}; {what}, and the run's CSV files have all")

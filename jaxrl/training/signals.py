"""Signals that ask a run to stop: it saves a checkpoint at its next step."""

import signal
import threading
from types import FrameType
from typing import Any, Self

from jaxrl.envs.processes import STOP_SIGNALS


class Stops:
    """While it is open in the main thread, each of `STOP_SIGNALS` is written down in `asked_by`, which asks the loop to
    call `after_update` after its next step: that then saves a checkpoint. A second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.asked_by: signal.Signals | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            heard = [
                kind for kind in STOP_SIGNALS if signal.getsignal(kind) is not signal.SIG_IGN
            ]  # nohup ignores SIGHUP.
            self._handlers = {kind: signal.signal(kind, self._stop) for kind in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for kind, handler in self._handlers.items():
            # One that C code has installed is None here and cannot be given back.
            signal.signal(kind, signal.SIG_DFL if handler is None else handler)

    @property
    def asked(self) -> bool:
        """True once a signal has asked to stop."""
        return self.asked_by is not None

    def _stop(self, kind: int, frame: FrameType | None) -> None:
        if self.asked_by is not None and kind == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked_by = signal.Signals(kind)

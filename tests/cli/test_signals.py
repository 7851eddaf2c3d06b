"""A signal that lands where Python ignores exceptions still ends a command."""

import gc
import os
import signal
import sys
import time

import pytest

from jaxrl.cli.startup import no_signal_lost


@pytest.fixture(params=[signal.SIGTERM, signal.SIGINT])
def landing(request, monkeypatch):
    """The next collection of garbage gets the signal inside of a callback, once. Handlers are those of a command."""
    left = [request.param]

    def terminate(kind, frame):
        raise SystemExit(128 + kind)

    def callback(phase, info):
        if left:
            os.kill(os.getpid(), left.pop())
            time.sleep(0.2)

    before = signal.signal(signal.SIGTERM, terminate)
    interrupted = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    gc.callbacks.append(callback)
    yield SystemExit if request.param == signal.SIGTERM else KeyboardInterrupt
    gc.callbacks.remove(callback)
    signal.signal(signal.SIGTERM, before)
    signal.signal(signal.SIGINT, interrupted)


def collected():
    gc.collect()
    time.sleep(1)
    return "nobody heard it"


def test_a_signal_in_a_callback_of_the_collector_is_sent_again(landing):
    with pytest.raises(landing), no_signal_lost():
        collected()


def test_without_that_it_is_lost(landing):
    assert collected() == "nobody heard it"


def test_other_exceptions_are_reported_as_ever(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: seen.append(unraisable.exc_type))

    class Raises:
        def __init__(self, error):
            self.error = error

        def __del__(self):
            raise self.error

    with no_signal_lost():
        for error in (ValueError(), SystemExit(3)):
            Raises(error)
    assert seen == [ValueError, SystemExit]

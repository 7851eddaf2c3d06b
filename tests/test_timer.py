"""The hook of measurements: parts are heard while somebody listens, each within the other, and not afterwards."""

import contextlib

import numpy as np
import pytest

from jaxrl import make_envs
from jaxrl.timer import listen, timed, timer


def test_parts_are_heard_while_somebody_listens():
    heard = []

    @contextlib.contextmanager
    def listener(part):
        heard.append(f"{part} begins")
        yield
        heard.append(f"{part} ends")

    envs = make_envs("CartPole-v1", 2, 0)
    try:
        envs.step(np.zeros(2, np.int64))
        assert heard == []
        listen(listener)
        envs.step(np.zeros(2, np.int64))
        assert heard == ["adapter begins", "environment begins", "environment ends", "adapter ends"]
    finally:
        listen(None)
    envs.step(np.zeros(2, np.int64))
    envs.close()
    with timer("part"):
        assert len(heard) == 4


def test_what_is_timed_gives_what_it_gave_and_raises_what_it_raised():
    @timed("part")
    def divided(a, b=2):
        """Divides."""
        return a / b

    assert (divided(1), divided(1, b=4), divided.__doc__) == (0.5, 0.25, "Divides.")
    with pytest.raises(ZeroDivisionError):
        divided(1, 0)
    with pytest.raises(ZeroDivisionError), timer("part"):
        divided(1, 0)

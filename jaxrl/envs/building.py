"""How long it takes to build many environments, and how much memory: said before it is done, and refused where there is
not enough. No JAX here."""

import math
import time
from collections.abc import Callable
from typing import Any

from jaxrl.data.memory import free_host_bytes, resident_bytes
from jaxrl.errors import BadInput
from jaxrl.report import tell

LONG, MUCH = 10.0, 0.1  # Seconds, and a share of the memory that is free: more is not taken without a word.
LOOKS = 3, 9, 17, 33  # After so many environments there is a look at what they took,
SURE = 17  # and from this one on it says something of small environments too.


class Builder:
    """Builds environments, and says after the first few what all of them will take, if that is much.

    The first one is not counted, because it may load libraries. Of several looks the cheapest counts, because also a
    later one may load what the next ones share.
    """

    def __init__(self, num_envs: int) -> None:
        self._num_envs, self._built, self._told = num_envs, 0, False
        self._seconds = self._bytes = math.inf  # That one more environment takes, at least.

    def __call__(self, make: Callable[[], Any]) -> Any:
        """The environment that `make` makes.

        Raises:
          BadInput: there is not enough memory for as many.
        """
        env = make()
        self._built += 1
        if self._built == 1:
            self._mark = 1, time.monotonic(), resident_bytes()
        elif self._built in LOOKS and self._built < self._num_envs:
            self._look()
        return env

    def _look(self) -> None:
        before, self._mark = self._mark, (self._built, time.monotonic(), resident_bytes())
        number, seconds, size = (now - then for now, then in zip(self._mark, before, strict=True))
        self._seconds, self._bytes = min(self._seconds, seconds / number), min(self._bytes, size / number)
        if self._built < SURE and self._seconds < 1 and self._bytes < 2**26:
            return  # A few small ones say little: memory comes in pages, and other processes have their turns.
        left = self._num_envs - self._built
        self._told = self._told or say_what_is_taken(self._num_envs, left * self._seconds, left * self._bytes)


def say_what_is_taken(num_envs: int, seconds: float, size: float) -> bool:
    """Says what building environments takes, if that is much; returns whether it was said.

    Args:
      num_envs: how many there are to be.
      seconds, size: what building them takes from now on, in seconds and bytes.

    Raises:
      BadInput: so much memory is not free.
    """
    free = free_host_bytes()
    needs, has = f"{max(size, 0) / 2**30:,.1f} GiB", f"{free / 2**30:,.1f} GiB are free"
    if size > free:
        raise BadInput(f"num_envs is {num_envs:,}: to build so many environments takes {needs}, and {has}")
    if seconds <= LONG and size <= MUCH * free:
        return False
    tell(f"to build {num_envs:,} environments takes about {seconds:,.0f} s and {needs}; {has}")
    return True

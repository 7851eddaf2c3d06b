"""How long it takes to build many environments, and how much memory: said before it is done, and refused where there is
not enough. No JAX here."""

import math
import time
from collections.abc import Callable
from typing import Any

from jaxrl.data.memory import free_host_bytes, resident_bytes
from jaxrl.errors import BadInput
from jaxrl.report import tell

MAX_SILENT_S = 10.0  # Building that takes longer is announced,
MAX_SILENT_MEMORY_SHARE = 0.1  # and so is building that takes more of the memory that is free.
MEASURED_COUNTS = 3, 9, 17, 33  # After so many environments their time and memory are measured.
MIN_COUNT_IF_SMALL = 17  # Fewer small environments say nothing of the others.


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
        elif self._built in MEASURED_COUNTS and self._built < self._num_envs:
            self._measure()
        return env

    def _measure(self) -> None:
        before, self._mark = self._mark, (self._built, time.monotonic(), resident_bytes())
        number, seconds, size = (now - then for now, then in zip(self._mark, before, strict=True))
        self._seconds, self._bytes = min(self._seconds, seconds / number), min(self._bytes, size / number)
        if self._built < MIN_COUNT_IF_SMALL and self._seconds < 1 and self._bytes < 2**26:
            return  # A few small ones say little: memory comes in pages, and other processes have their turns.
        left = self._num_envs - self._built
        self._told = self._told or announce_cost(self._num_envs, left * self._seconds, left * self._bytes)


def announce_cost(num_envs: int, seconds: float, size: float) -> bool:
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
    if seconds <= MAX_SILENT_S and size <= MAX_SILENT_MEMORY_SHARE * free:
        return False
    tell(f"to build {num_envs:,} environments takes about {seconds:,.0f} s and {needs}; {has}")
    return True

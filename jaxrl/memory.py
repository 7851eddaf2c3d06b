"""How much memory there is left, for those who are about to take a lot of it at once."""

import math
import os
from pathlib import Path

import jax

CGROUP_FILES = (  # Limit and use, in versions 2 and 1.
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)


def free_bytes() -> float:
    """Memory that the default device can still give; infinite where nobody says."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    rooms = [math.inf]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        rooms.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            rooms.append(int(line.split()[1]) * 1024)
    # A container may have less than its machine.
    for limit, used in CGROUP_FILES:
        numbers = [*_lines(f"/sys/fs/cgroup/{limit}"), *_lines(f"/sys/fs/cgroup/{used}")]
        if len(numbers) == 2 and all(number.isdigit() for number in numbers):
            rooms.append(int(numbers[0]) - int(numbers[1]))
    return max(0.0, min(rooms))


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []

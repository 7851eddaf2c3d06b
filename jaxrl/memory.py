"""How much memory there is left, for those who are about to take a lot of it at once."""

import math
import os
from pathlib import Path

import jax

CGROUP_FILES = (  # Limit, use, and what of the use is mere file cache, in versions 2 and 1.
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
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
    for limit, used, details, cache in CGROUP_FILES:
        numbers = [*_lines(f"/sys/fs/cgroup/{limit}"), *_lines(f"/sys/fs/cgroup/{used}")]
        if len(numbers) == 2 and all(number.isdigit() for number in numbers):
            reclaimable = [line.split()[1] for line in _lines(f"/sys/fs/cgroup/{details}") if line.split()[0] == cache]
            rooms.append(int(numbers[0]) - int(numbers[1]) + sum(map(int, reclaimable)))
    return max(0.0, min(rooms))


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []

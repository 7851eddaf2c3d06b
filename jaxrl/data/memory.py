"""How much memory there is left, for those who are about to take a lot of it at once. JAX is imported only where it is
asked for that of its device, so that environment workers need not."""

import math
import os
from pathlib import Path

NEGLIGIBLE = 2**28  # Bytes of which nobody need ask whether they are free: what is free is not known as exactly.
CGROUP_FILES = (  # Limit, use, and what of the use is mere file cache, in versions 2 and 1.
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


def free_bytes() -> float:
    """Memory that the default device can still give, in bytes; infinite where nobody says."""
    import jax

    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return free_host_bytes()


def free_host_bytes() -> float:
    """Memory that this machine, or the container, can still give, in bytes; infinite where nobody says."""
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


def resident_bytes() -> int:
    """Memory that this process holds, in bytes; 0 where nobody says."""
    numbers = " ".join(_lines("/proc/self/statm")).split()
    return int(numbers[1]) * os.sysconf("SC_PAGE_SIZE") if numbers else 0


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []

"""The machine that figures come from."""

import os
import platform
from pathlib import Path

from jaxrl.runs.folder import versions


def machine() -> dict[str, str]:
    """The things that figures depend on: processor, cores, system, and versions of the packages."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.is_file() else []
    processor = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    known = {"processor": processor, "architecture": platform.machine(), "cores": str(cores)}
    return known | {"system": platform.system()} | versions()

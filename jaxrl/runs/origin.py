"""Where a run's numbers come from: the machine, the versions of the packages, and the commit of these files."""

import functools
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = "jaxrl-kernels", "jax", "jaxlib", "flax", "optax", "gymnasium", "mujoco", "numpy"
SECONDS_FOR_GIT = 5.0


def versions() -> dict[str, str]:
    """Versions of the packages that a run's numbers depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> dict[str, str]:
    """The parts of the machine that figures depend on: processor, cores and system."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.is_file() else []
    processor = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    known = {"processor": processor, "architecture": platform.machine(), "cores": str(cores)}
    return known | {"system": platform.system()}


@functools.cache
def commit() -> str | None:
    """The commit of the checkout that this package is imported from, followed by -dirty where its files differ from
    that. None where the package is installed, or Git is missing."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # Above an installed package there may be a repository of the user's.
        return None
    describe = "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"
    words = ["git", "--no-optional-locks", "-C", str(root), *describe]
    try:
        ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=SECONDS_FOR_GIT)
    except (OSError, subprocess.SubprocessError):
        return None
    return ended.stdout.strip() or None

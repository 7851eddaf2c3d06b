"""Runs as tasks of a Ray cluster, for `jaxrl study --ray ADDRESS` and `jaxrl tune --ray ADDRESS`.

A task trains in its worker's own process, which dies when its node does: a process of its own would outlive the node's
and keep the run's folder locked. Ray then starts the task again on another node, and there it goes on from the run's
last checkpoint. So the folder of the runs must be one that all nodes see, and all nodes need jaxrl and Python as here.
"""

import contextlib
import logging
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from jaxrl.studies.script import Mistake
from jaxrl.studies.study_run import Part

NODES_LOST = 100  # How often a run may lose its node.
PROBE_SECONDS = 30.0
FREE_SECONDS = 120.0  # How long a lost node's lock may outlive it.


def run_all(waiting: Sequence[Part], lock: Path, address: str, cores: float, gpus: float) -> list[Mistake]:
    """Runs what waits on the cluster at `address`, and returns what went wrong. When it is interrupted, its runs save
    what they have. By the study's `lock`, which is held here, a node knows that it sees the folder of the runs."""
    if not waiting:
        return []
    ray, task = _connect(address, cores, gpus)
    going, wrong = {task.remote(part, lock, gpus): part for part in waiting}, []
    try:
        while going:
            (ready, *_), _ = ray.wait(list(going))
            part = going.pop(ready)
            try:
                part.end(_code(ray, ready))
            except Mistake as mistake:
                wrong.append(mistake)
    finally:
        for reference in going:
            ray.cancel(reference)  # Ctrl-C to the run, wherever it is.
        with contextlib.suppress(KeyboardInterrupt):
            if going:
                ray.wait(list(going), num_returns=len(going))
        ray.shutdown()
    return wrong


class Cluster:
    """A Ray cluster that a search gives its trials to, one after the other. Use it as a context manager.

    Args:
      address: of its head.
      lock: a file that is there: by it a node knows that it sees the folder of the runs.

    Attributes:
      num_cores: how many it has now; a trial takes one.

    Raises:
      Mistake: it cannot be reached.
    """

    def __init__(self, address: str, lock: Path) -> None:
        self._ray, self._task = _connect(address, 1, 0)
        self._lock = lock
        self.num_cores = max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def start(self, part: Part) -> "Task":
        """Begins a run there, or goes on with it, once a core is free."""
        return Task(self._ray, self._task.remote(part, self._lock, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()


class Task:
    """A run on a cluster, with those methods of a process that a search calls."""

    def __init__(self, ray: Any, reference: Any) -> None:
        self._ray, self._reference = ray, reference

    def poll(self) -> int | None:
        """Its exit code; None while it is going. Raises Mistake where Ray has lost it."""
        ready, _ = self._ray.wait([self._reference], timeout=0)
        return _code(self._ray, self._reference) if ready else None

    def terminate(self) -> None:
        """Ctrl-C to the run, wherever it is."""
        self._ray.cancel(self._reference)

    def wait(self) -> None:
        """Waits until it has ended."""
        self._ray.wait([self._reference])


def _connect(address: str, cores: float, gpus: float) -> tuple[Any, Any]:
    """Ray, connected to the cluster, and the task that trains a run with so many cores and GPUs of a node."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        import ray
    except ModuleNotFoundError as error:
        raise Mistake("--ray needs Ray: pip install 'jaxrl-kernels[ray]'") from error
    signal.signal(signal.SIGTERM, handler)  # Ray's import has put its own there.
    _check_reached(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise Mistake(f"--ray {address} cannot be reached: {str(error).splitlines()[0]}") from error
    have = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(node.get("CPU", 0) >= cores and node.get("GPU", 0) >= gpus for node in have):
        print(f"no node has {cores:g} cores and {gpus:g} GPUs, which a run takes: waiting for one", flush=True)
    # A fresh process for each run: JAX sees the GPUs that it finds when it is first imported.
    return ray, ray.remote(num_cpus=cores, num_gpus=gpus, max_calls=1, max_retries=NODES_LOST)(train)


def _check_reached(address: str) -> None:
    """Ray itself would try for minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise Mistake(f"--ray {address} is no address of a Ray cluster: it must be HOST:PORT of its head, or auto")
    check = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        subprocess.run(check, check=True, capture_output=True, timeout=PROBE_SECONDS)
    except (OSError, OverflowError) as error:
        raise Mistake(f"--ray {address} cannot be reached: {error}") from error
    except subprocess.SubprocessError as error:
        raise Mistake(f"--ray {address} answers, but is no head of a Ray cluster") from error


def _code(ray: Any, reference: Any) -> int:
    try:
        return int(ray.get(reference))
    except ray.exceptions.RayTaskError as error:
        raise Mistake(str(error.cause)) from error
    except ray.exceptions.RayError as error:
        raise Mistake(f"Ray gave up a run: {str(error).splitlines()[0]}") from error


def train(part: Part, lock: Path, gpus: float) -> int:
    """The task: trains as `part` says, from its last checkpoint if it has one. Returns the command's exit code."""
    if gpus == 0:
        os.environ["JAX_PLATFORMS"] = "cpu"  # The node may have one, which is others'.
    elif gpus < 1:
        os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 * gpus:.3f}"  # JAX would take three quarters of it.
    if not lock.exists():
        raise Mistake(f"{lock.parent} is not there on node {os.uname().nodename}: give --runs a folder all nodes share")
    until = time.monotonic() + FREE_SECONDS
    while True:
        try:
            arguments = part.begin()
            break
        except BlockingIOError as error:
            if time.monotonic() > until:
                raise Mistake(f"{part.folder} is in use: another process trains there") from error
            time.sleep(1)
    with (
        part.beside("log").open("a", buffering=1) as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        return _command(["train", *arguments])


def _command(arguments: Sequence[str]) -> int:
    """The command `jaxrl` in this process. Returns its exit code, but lets that of SIGTERM and SIGHUP through."""
    sys.argv[1:] = arguments
    try:
        runpy.run_module("jaxrl.cli.main", run_name="__main__")
    except SystemExit as end:
        if end.code in (128 + signal.SIGTERM, 128 + signal.SIGHUP):
            raise
        return int(end.code or 0)
    return 0

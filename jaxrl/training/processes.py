"""The processes that share a distributed run, each with devices of its own.

The first leads: it has the run's folder, its logs, its evaluations and its callback, and says what comes next. The
others follow: they make the calls that it makes, each with its part of the environments, and write nothing. So nothing
has to be agreed on, and the processes cannot part.
"""

import contextlib
import hashlib
import inspect
import json
import os
import signal
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxrl.errors import BadInput, ProcessLost, one_line
from jaxrl.runs.config import RunConfig
from jaxrl.runs.record import run_to_json

# A process that is silent for so long is taken for dead. JAX's own 100 s are longer than anyone waits.
HEARTBEAT_SECONDS = 20
SHUTDOWN_SECONDS = 20  # For which one that is at its end waits for the others.
NUM_PROCESSES, PROCESS_ID = "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
BEGIN, CALL, GATHER, END = range(4)
DONE, FAILED = 0, -1


class Order(NamedTuple):
    """What the first process tells the others to do; of theirs to it, `ended_by` alone says something.

    Attributes:
      kind: BEGIN with its state, make a CALL, GATHER the environments, END.
      num_updates, is_random: of a CALL, how many updates it makes, and whether the actions are random.
      ended_by: of an END, the number of the signal that has stopped the run, DONE or FAILED. Of the others to the
        first, the number of a signal that asks them to stop, or 0.
    """

    kind: int
    num_updates: int = 0
    is_random: int = 0
    ended_by: int = DONE


def join(run: RunConfig) -> None:
    """Makes this process one of those that share the run, where it is not yet: `jax.distributed.initialize`.

    Raises:
      BadInput: the variables do not say who they are, JAX has been used before, or another has other settings.
      ProcessLost: the others do not come.
    """
    if not jax.distributed.is_initialized():
        _initialize()
    record = {name: value for name, value in run_to_json(run).items() if name not in ("run_dir", "init_from", "resume")}
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).digest()
    with _one_line_if_lost():
        digests = multihost_utils.process_allgather(np.frombuffer(digest, np.uint8))
    if (digests != digests[0]).any():
        raise BadInput("the processes of the run have other settings: each must be given the same command")


def _initialize() -> None:
    settings: dict[str, Any] = {"coordinator_address": os.environ.get("JAX_COORDINATOR_ADDRESS")}
    settings |= {"num_processes": _number(NUM_PROCESSES), "process_id": _number(PROCESS_ID)}
    if None not in settings.values():
        settings["cluster_detection_method"] = "deactivate"
    waits = {"heartbeat_timeout_seconds": HEARTBEAT_SECONDS, "shutdown_timeout_seconds": SHUTDOWN_SECONDS}
    known = inspect.signature(jax.distributed.initialize).parameters  # Older versions have them fixed.
    settings |= {name: seconds for name, seconds in waits.items() if name in known}
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    with contextlib.suppress(AttributeError):  # It would take SIGTERM from us; older versions do so all the same.
        jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(**settings)
    except ValueError as error:
        raise BadInput(
            f"distributed finds no other processes ({one_line(error)}): set JAX_COORDINATOR_ADDRESS to HOST:PORT of "
            "the first, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or start the command by SLURM or on Kubernetes"
        ) from error
    except RuntimeError as error:
        if "before any JAX calls" in str(error):
            raise BadInput(
                "distributed must begin before JAX is used in this process: call jax.distributed.initialize() first"
            ) from error
        raise ProcessLost(f"the other processes of the run cannot be reached: {one_line(error)}") from error


def _number(name: str) -> int | None:
    text = os.environ.get(name)
    if text is not None and not text.isdecimal():
        raise BadInput(f"{name} is {text!r}: it must be a whole number")
    return None if text is None else int(text)


def follows(run: RunConfig) -> bool:
    """True in the processes of a distributed run that do not lead."""
    return run.distributed and jax.process_index() > 0


class Processes:
    """The processes of a run, as one of them sees them. In the first, a context manager: at its end it ends the others.
    Of a run that is not distributed nothing is told, and nobody hears.

    Args:
      run: the settings.

    Attributes:
      is_shared: whether the run is distributed.
      asked_by: the last signal that has asked another process to stop.
      stopped_by: to be set to the signal that has stopped the run, before its end.
    """

    def __init__(self, run: RunConfig) -> None:
        self.is_shared = run.distributed
        self.asked_by: signal.Signals | None = None
        self.stopped_by: signal.Signals | None = None
        self._is_whole = True  # Whether the others wait for an order.

    @contextlib.contextmanager
    def ordered(self, order: Order) -> Iterator[None]:
        """In the first: has the others do the same as it does in this context.

        Raises:
          ProcessLost: one of them is not there any more.
        """
        if not self.is_shared:
            yield
            return
        self._is_whole = False
        with _one_line_if_lost():
            kinds = self._exchanged(order)[1:, -1]
            if kinds.any():
                self.asked_by = signal.Signals(int(kinds[kinds != 0][0]))
            yield
        self._is_whole = True

    @contextlib.contextmanager
    def heard(self, asked_by: signal.Signals | None) -> Iterator[Order]:
        """In the others: the next order, which is carried out in this context. `asked_by` is the signal that has asked
        this process to stop."""
        with _one_line_if_lost():
            order = Order(*self._exchanged(Order(BEGIN, ended_by=asked_by or 0))[0].tolist())
            yield order

    def _exchanged(self, order: Order) -> np.ndarray:
        """The orders of all processes, a row for each."""
        return multihost_utils.process_allgather(np.array(order, np.int32))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        if self.is_shared and self._is_whole:
            ended_by = FAILED if error is not None else self.stopped_by or DONE
            with contextlib.suppress(ProcessLost), self.ordered(Order(END, ended_by=ended_by)):
                pass


@contextlib.contextmanager
def _one_line_if_lost() -> Iterator[None]:
    """JAX raises errors of several kinds where another process is gone, or a device fails."""
    try:
        yield
    except (BadInput, ProcessLost):
        raise
    except (RuntimeError, ValueError) as error:
        raise ProcessLost(
            "another process of the run has ended or cannot be reached, or a device has failed: the last checkpoint "
            f"has the run up to it ({one_line(error)[:300]})"
        ) from error

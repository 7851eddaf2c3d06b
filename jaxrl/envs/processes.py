"""Environments in processes of their own: started so that signals to stop are not theirs to hear, asked with a limit on
how long an answer may take, and stopped so that none is left. They are Gymnasium's AsyncVectorEnv; no JAX here.
"""

import atexit
import contextlib
import functools
import multiprocessing
import os
import queue
import signal
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv

from jaxrl.envs.building import announce_cost
from jaxrl.errors import EnvironmentLost, one_line

LOG_LEVEL_NONE = 50  # Gymnasium's level of logging above that of errors.
MAIN_GUARD_HINT = "a script that starts environments in processes must guard its own start: if __name__ == '__main__':"
MIN_START_TIMEOUT_S = 60.0  # That a process gets at least, to import what it needs.
STOP_SIGNALS = signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ())
MIN_PROCESS_S, MIN_PROCESS_BYTES = 0.5, 20 * 2**20  # That a process takes at least, to import what it needs.
CLOSE_TIMEOUT_S = 5.0  # That workers get to close their environments before they are killed.
_started: weakref.WeakSet["ProcessEnvs"] = weakref.WeakSet()  # To be stopped before this process ends.


class ProcessEnvs(AsyncVectorEnv):
    """An AsyncVectorEnv of spawned processes. None is left behind when it cannot be built, when nobody closes it, or
    when this process ends. They are no daemons, so that an environment may start processes of its own: each leads a
    group of processes, and the group is stopped with it. Where the `spaces` of an environment, of its observations and
    actions, are known, none is built in this process.
    """

    def __init__(
        self,
        makers: Sequence[Callable[[], gym.Env]],
        mode: AutoresetMode,
        timeout: float,
        spaces: tuple[gym.Space, gym.Space] | None = None,
    ) -> None:
        self._blocked: set[Any] | None = None
        count, cores = len(makers), os.cpu_count() or 1
        announce_cost(count, count * MIN_PROCESS_S / cores, count * MIN_PROCESS_BYTES)
        self._start_limit, self._late = max(timeout, MIN_START_TIMEOUT_S), False
        self.owner = os.getpid()
        _started.add(self)
        with tempfile.TemporaryDirectory() as folder, quiet():
            notes = [Path(folder, str(index)) for index in range(len(makers))]
            each = zip(makers, notes, strict=True)
            makers = [functools.partial(make_in_worker, make, note, spaces) for make, note in each]
            try:
                self._hold_interrupts_back()
                # A spawned process copies nothing of this one, whose JAX threads a fork would leave in mid-work.
                super().__init__(makers, context="spawn", daemon=False, autoreset_mode=mode)
            except (EOFError, OSError) as error:
                said = [note.read_text() for note in notes if note.is_file()]
                if self._late:
                    said = [f"an environment's process was not ready after {self._start_limit:g} s"]
                who = said[0] if said else f"{_who_died(self)} while it was started; {MAIN_GUARD_HINT}"
                raise EnvironmentLost(who) from error
            finally:
                self._let_interrupts_through()
                if not hasattr(self, "_checked"):
                    stop_workers(self, patience=0)

    def _check_spaces(self) -> None:
        """The constructor's last act, and its first that waits for the processes."""
        self._let_interrupts_through()
        watch = threading.Timer(self._start_limit, self._give_up)
        watch.start()
        try:
            super()._check_spaces()
        finally:
            watch.cancel()
        self._checked = True

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Ends the processes."""
        stop_workers(self, patience=0 if terminate else CLOSE_TIMEOUT_S if timeout is None else timeout)

    def _give_up(self) -> None:
        self._late = True
        for process in self.processes:
            process.kill()

    def _hold_interrupts_back(self) -> None:
        """A process inherits which signals are blocked: so a worker hears no Ctrl-C while it still imports."""
        if hasattr(signal, "pthread_sigmask"):
            self._blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {STOP_SIGNALS[-1]})
            resource_tracker.ensure_running()  # It sees to the other two itself, and unblocks them here.
            signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)

    def _let_interrupts_through(self) -> None:
        if self._blocked is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked)
            self._blocked = None


@contextlib.contextmanager
def folder_kept() -> Iterator[None]:
    """Around code of the user's that may move the working folder: brings it back, unless it was removed before."""
    try:
        here = os.getcwd()  # noqa: PTH109
    except OSError:
        here = None
    try:
        yield
    finally:
        if here is not None:
            os.chdir(here)


class _ImpatientQueue:
    """The queue of a worker's exceptions, on which Gymnasium waits for ever: one that cannot be pickled never comes."""

    def __init__(self, exceptions: Any, timeout: float) -> None:
        self._exceptions, self._timeout = exceptions, timeout

    def get(self) -> Any:
        return self._exceptions.get(timeout=self._timeout)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._exceptions, name)


def apply_timeout(timeout: float, workers: AsyncVectorEnv, vector_env: VectorEnv) -> None:
    """Applies `timeout`, in seconds, to an AsyncVectorEnv that the caller built."""
    replaced: Any = workers
    replaced.error_queue = _ImpatientQueue(workers.error_queue, timeout)
    if workers is vector_env:
        replaced._add_info = functools.partial(_add_final_obs, workers)
    else:  # Whatever is around it calls these.
        replaced.step_wait = functools.partial(workers.step_wait, timeout=timeout)
        replaced.reset_wait = functools.partial(workers.reset_wait, timeout=timeout)


def _add_final_obs(workers: AsyncVectorEnv, infos: dict[str, Any], info: Any, index: int) -> dict[str, Any]:
    """Adds to `infos` only what is read here: Gymnasium cannot merge every info with its neighbours'."""
    if not isinstance(info, dict) or "final_obs" not in info:
        return infos
    return AsyncVectorEnv._add_info(workers, infos, {"final_obs": info["final_obs"]}, index)


def call_workers(
    vector_env: VectorEnv, workers: AsyncVectorEnv, method: str, timeout: float, *arguments: Any, **options: Any
) -> Any:
    """`vector_env.step(...)`, `.reset(...)` or `.call(...)`, whichever `method` says; `workers` are what is inside.

    Raises:
      EnvironmentLost: a worker died, raised, or gave no answer within `timeout` seconds; none is left alive.
    """
    try:
        with quiet():
            if vector_env is not workers:
                return getattr(vector_env, method)(*arguments, **options)
            getattr(workers, f"{method}_async")(*arguments, **options)
            _await_answers(workers, timeout)
            return getattr(workers, f"{method}_wait")()
    except EnvironmentLost:
        stop_workers(workers, patience=0)
        raise
    except multiprocessing.TimeoutError as error:
        stop_workers(workers, patience=0)
        raise EnvironmentLost(f"an environment gave no answer within {timeout:g} s (env_timeout)") from error
    except (EOFError, OSError) as error:  # Nobody at the other end of a pipe.
        who = _who_died(workers)
        stop_workers(workers, patience=0)
        raise EnvironmentLost(who) from error
    except Exception as error:
        # Of the workers that failed Gymnasium has closed the pipes.
        index = next((index for index, pipe in enumerate(workers.parent_pipes) if pipe is None), None)
        stop_workers(workers, patience=0)
        who = "an environment" if index is None else f"environment {index}"
        what = "what cannot be sent here" if isinstance(error, queue.Empty) else one_line(error)
        raise EnvironmentLost(f"{who} raised {what}") from error


def stop_workers(workers: AsyncVectorEnv, patience: float = CLOSE_TIMEOUT_S) -> None:
    """Ends every worker: by asking first where there is patience, and then by force."""
    processes, pipes = getattr(workers, "processes", []), getattr(workers, "parent_pipes", [])
    started = [process for process in processes if process.pid is not None]
    for pipe in pipes if patience else ():
        with contextlib.suppress(OSError, AttributeError):
            pipe.send(("close", None))
    deadline = time.monotonic() + patience
    for process in started:
        process.join(max(0.0, deadline - time.monotonic()))
    for process in started:
        if process.is_alive():
            process.kill()
        process.join()
        if isinstance(workers, ProcessEnvs):
            _kill_group(process.pid)
    for pipe in pipes:
        if pipe is not None:
            pipe.close()
    workers.closed = True


@atexit.register  # Multiprocessing would wait for them, and for ever: it registers before, and so is called later.
def _stop_started() -> None:
    for workers in list(_started):
        if not workers.closed and workers.owner == os.getpid():  # After a fork they are not the child's to stop.
            stop_workers(workers)


def _kill_group(leader: int) -> None:
    """Kills what an environment's process has started and left."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(OSError):  # Of a group that is empty.
            os.killpg(leader, signal.SIGKILL)


def _await_answers(workers: AsyncVectorEnv, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    late = [
        index for index, pipe in enumerate(workers.parent_pipes) if not pipe.poll(max(0.0, deadline - time.monotonic()))
    ]
    if late:
        raise EnvironmentLost(f"environment {late[0]} gave no answer within {timeout:g} s (env_timeout)")


def _who_died(workers: AsyncVectorEnv) -> str:
    for _ in range(50):  # The pipe may close a moment before the process is gone.
        for index, process in enumerate(workers.processes):
            if process.exitcode is not None:
                code = process.exitcode
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                return f"environment {index}'s process {how}"
        time.sleep(0.02)
    return "an environment's process hung up"


class _Spaces(gym.Env):
    """Stands in for an environment of which nothing but the spaces is asked."""

    def __init__(self, observation_space: gym.Space, action_space: gym.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space


def make_in_worker(make: Callable[[], gym.Env], note: Path, spaces: tuple[gym.Space, gym.Space] | None) -> gym.Env:
    """Makes an environment where it is to live.

    Ctrl-C reaches every process of a terminal, and so may other signals to stop. They are the run's to answer, which
    still needs its environments. When the run's process is gone, however it went, this one goes too, whatever it is at.
    An exception of the constructor is written to `note`, since Gymnasium does not pass it on.
    """
    parent = multiprocessing.parent_process()
    if parent is None:  # Gymnasium makes one at home first, to see its spaces; it is not to move the working folder.
        with folder_kept():
            return make() if spaces is None else _Spaces(*spaces)
    for kind in STOP_SIGNALS:
        signal.signal(kind, signal.SIG_IGN)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        return make()
    except BaseException as error:
        note.write_text(
            str(error) if isinstance(error, EnvironmentLost) else f"an environment's process raised {error!r}"
        )
        os._exit(1)


def _end_with(parent: Any) -> None:
    parent.join()
    _kill_group(os.getpid())
    os._exit(1)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Gymnasium prints the traceback of a worker that raises, and EnvPool's spaces make it warn; neither says anything
    that our one line does not."""
    before = gym.logger.min_level
    gym.logger.min_level = LOG_LEVEL_NONE
    try:
        yield
    finally:
        gym.logger.min_level = before

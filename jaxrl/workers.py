"""Environments in processes of their own: started so that Ctrl-C is not theirs to hear, asked with a limit on how long
an answer may take, and stopped so that none is left. They are Gymnasium's AsyncVectorEnv; no JAX here.
"""

import contextlib
import functools
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from typing import Any

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from jaxrl.errors import EnvironmentLost

NOTHING = 50  # Gymnasium's level of logging above that of errors.
PATIENCE = 5.0  # Seconds that workers get to close their environments before they are killed.


class Workers(AsyncVectorEnv):
    """An AsyncVectorEnv that leaves no process behind when it cannot be built."""

    def __init__(self, makers: Sequence[Callable[[], gym.Env]], mode: AutoresetMode) -> None:
        # A spawned process copies nothing of this one, whose JAX threads a fork would leave in the middle of things.
        with _interrupts_held_back(), _quiet():
            try:
                makers = [functools.partial(_deaf_to_interrupts, make) for make in makers]
                super().__init__(makers, context="spawn", autoreset_mode=mode)
            except EnvironmentLost:
                raise
            except (EOFError, OSError) as error:
                hint = "a script that starts environments in processes must guard its own start: "
                stop_workers(self)
                raise EnvironmentLost(
                    f"{_who_died(self)} while it was started; {hint}if __name__ == '__main__':"
                ) from error
            except BaseException:
                stop_workers(self)
                raise


def ask(workers: AsyncVectorEnv, question: str, timeout: float, *arguments: Any, **options: Any) -> Any:
    """`workers.step(...)` or `workers.reset(...)`, whichever `question` says.

    Raises:
      EnvironmentLost: a worker died, raised, or gave no answer within `timeout` seconds; none is left alive.
    """
    try:
        with _quiet():
            getattr(workers, f"{question}_async")(*arguments, **options)
            _await_answers(workers, timeout)
            return getattr(workers, f"{question}_wait")()
    except EnvironmentLost:
        stop_workers(workers, patience=0)
        raise
    except (EOFError, OSError) as error:  # Nobody at the other end of a pipe.
        who = _who_died(workers)
        stop_workers(workers, patience=0)
        raise EnvironmentLost(who) from error
    except Exception as error:
        # Of the workers that failed Gymnasium has closed the pipes.
        index = next((index for index, pipe in enumerate(workers.parent_pipes) if pipe is None), None)
        stop_workers(workers, patience=0)
        who = "the vector environment" if index is None else f"environment {index}"
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise EnvironmentLost(f"{who} raised {words}") from error


def stop_workers(workers: AsyncVectorEnv, patience: float = PATIENCE) -> None:
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
    for pipe in pipes:
        if pipe is not None:
            pipe.close()
    workers.closed = True


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


def _deaf_to_interrupts(make: Callable[[], gym.Env]) -> gym.Env:
    """Ctrl-C reaches every process of a terminal. It is the run's to answer, which still needs its environments."""
    if multiprocessing.parent_process() is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return make()


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """A process inherits which signals are blocked: so a worker does not hear Ctrl-C while it is still importing."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # It unblocks the signal after it has started itself.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Gymnasium prints the traceback of a worker that raises; our one line says what it was."""
    before = gym.logger.min_level
    gym.logger.min_level = NOTHING
    try:
        yield
    finally:
        gym.logger.min_level = before

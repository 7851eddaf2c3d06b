"""How a command starts: settings of JAX, the garbage collector's pause while it is imported, the folder of the user's
modules. JAX is imported late, because what is set must be set before it."""

import contextlib
import gc
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

from jaxrl.errors import BadInput, EnvironmentLost

RESEND_SECONDS = 0.05


def prepare_jax() -> None:
    """Settings of JAX that suit the commands; whatever the user set in the environment stays as it is.

    The compilation cache makes a second start fast: by default it skips what compiles in under a second, which is all
    that we have.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        _fix_cache_folder()
    else:
        try:
            folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "jaxrl" / "xla"
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
        except (OSError, RuntimeError):  # No home, or one that cannot be written to, costs the cache, not the run.
            return
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def _fix_cache_folder() -> None:
    """An environment may move the working folder, and a relative cache folder must not move with it."""
    folder = os.environ["JAX_COMPILATION_CACHE_DIR"]
    if folder and "://" not in folder:
        with contextlib.suppress(OSError):  # The working folder is gone.
            os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(folder).absolute())


@contextlib.contextmanager
def nothing_collected() -> Iterator[None]:
    """For the time of importing JAX and ourselves: these 120,000 objects are there to stay, and the garbage collector
    looks through them again and again, which is a fifth of a start. Nor does it look at them afterwards.

    Where JAX has been imported before, there may be garbage, and little is left to import.
    """
    if "jax" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextlib.contextmanager
def current_folder_first() -> Iterator[None]:
    """Modules that the user names are looked for in the current folder first, as under `python -m`. Processes that are
    spawned inherit that: so where another copy of this package stands there, the folder is looked in last."""
    try:
        here, own = Path.cwd(), Path(__file__).resolve().parents[1]
    except OSError:  # It has been removed.
        here = None
    if here is None or sys.flags.safe_path:
        yield
        return
    copy = here / own.name
    is_other = copy.is_dir() and copy.resolve() != own
    before = list(sys.path)
    sys.path.insert(len(sys.path) if is_other else 0, str(here))
    try:
        yield
    finally:
        sys.path[:] = before


@contextlib.contextmanager
def no_signal_lost() -> Iterator[None]:
    """Where a handler raises in a callback of the garbage collector, and JAX has one, or in a `__del__`, Python ignores
    the exception. Then the signal is sent again, a moment later."""
    before = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        kind = _asked_by(unraisable.exc_value)
        if kind is None:
            before(unraisable)
        else:  # From a thread: here it would land in this very function.
            threading.Timer(RESEND_SECONDS, os.kill, (os.getpid(), kind)).start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def _asked_by(error: BaseException | None) -> int | None:
    """The signal whose handler raises this exception, if one does."""
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT
    is_ours = isinstance(error, SystemExit) and error.code == 128 + signal.SIGTERM
    return signal.SIGTERM if is_ours else None


@contextlib.contextmanager
def no_exit_of_others() -> Iterator[None]:
    """Code of the user's that calls `sys.exit` has failed, whatever the code that it gives: with 0 it would look as if
    all had gone well. Our own exits are those of a signal, once the run is saved."""
    from jaxrl.envs.processes import STOP_SIGNALS

    try:
        yield
    except SystemExit as end:
        if end.code in [128 + kind for kind in STOP_SIGNALS]:
            raise
        place = traceback.extract_tb(end.__traceback__)[-1]
        raise EnvironmentLost(
            f"code that the command imports called sys.exit({end.code!r}) ({Path(place.filename).name}:{place.lineno})"
        ) from end


def import_jax() -> None:
    """JAX reads its variables when it is imported, and complains of one that it cannot read in many lines."""
    try:
        import jax  # noqa: F401
    except ValueError as error:
        raise BadInput(f"JAX cannot be imported, a variable of its own is wrong: {error}") from error


def check_display() -> None:
    """Windows need a screen; without one, pygame and MuJoCo's viewer fail in ways that say nothing."""
    from jaxrl.envs.video import has_screen

    if not has_screen():
        raise BadInput("--render needs a screen and there is none; evaluate.py --video DIR makes a video instead")

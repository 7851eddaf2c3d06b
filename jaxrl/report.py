"""One line about user code that fails. No JAX here."""

import functools
import sys
import traceback
from importlib import metadata
from pathlib import Path

from jaxrl.errors import one_line
from jaxrl.output import say


def raised(error: BaseException) -> str:
    """One line: the exception and where it was raised. An installed package is named with its version."""
    text = one_line(error)
    frames = list(traceback.walk_tb(error.__traceback__))
    if not frames:
        return text
    frame, line = frames[-1]
    package = _package(str(frame.f_globals.get("__name__")).partition(".")[0])
    where = f"{Path(frame.f_code.co_filename).name}:{line}"
    return f"{text} ({where} of {package})" if package else f"{text} ({where})"


def raise_if_asked_to_stop(error: BaseException) -> None:
    """Raises `error` again where it is the `SystemExit` that answers a signal: its code is 128 and the signal's number.
    Any other `SystemExit` is the environment's own, and would end a command as if all were well."""
    if isinstance(error, SystemExit) and isinstance(error.code, int) and error.code > 128:
        raise error


@functools.cache
def tell(line: str) -> None:
    """Prints a line for the user. A line that was printed before is not printed again: many environments may have the
    same to tell."""
    say(f"jaxrl: {line}", sys.stderr)


def _package(module: str) -> str | None:
    """The name and version of the installed package that a top-level module belongs to."""
    names = _distributions().get(module)
    return f"{names[0]} {metadata.version(names[0])}" if names else None


_distributions = functools.cache(metadata.packages_distributions)  # It reads a file of every package.

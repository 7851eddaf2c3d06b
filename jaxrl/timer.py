"""Where a run's time goes: a hook for measurements. Where nobody listens, a part costs less than 0.2 microseconds."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
Listener = Callable[[str], AbstractContextManager[object]]


class _Silence:
    """A context in which nothing is measured; `contextlib.nullcontext` takes half as long again."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


_SILENCE = _Silence()
_listener: Listener | None = None


def listen(listener: Listener | None) -> None:
    """Has each part of the code that is timed run within `listener(part)`, a context; None ends that."""
    global _listener  # noqa: PLW0603
    _listener = listener


def timer(part: str) -> AbstractContextManager[object]:
    """The context for a part of the code: `with timer("environment"): ...`."""
    return _SILENCE if _listener is None else _listener(part)


def timed(part: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """The same for a whole function, as a decorator."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def call(*arguments: P.args, **options: P.kwargs) -> T:
            if _listener is None:
                return function(*arguments, **options)
            with _listener(part):
                return function(*arguments, **options)

        return call

    return decorate

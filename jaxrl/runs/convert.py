"""Settings in the types that their fields declare."""

import collections.abc
import contextlib
import dataclasses
import os
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import jax
import numpy as np

from jaxrl.errors import BadInput

Settings = TypeVar("Settings")


def converted(settings: Settings) -> Settings:
    """The same settings, a dataclass, in the types that their fields declare, which are those that config.json gives
    back: a whole float such as 1e6 becomes an int, a NumPy or JAX scalar a Python number, 0 or 1 a flag, a list a
    tuple, and a Path a string. A field that is a dataclass itself is converted likewise.

    Raises:
      BadInput: one of them is of another type.
    """
    return _converted_fields(settings)


def _converted_fields(settings: Any) -> Any:
    kinds, values = get_type_hints(type(settings)), {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        try:
            values[field.name] = _converted(value, kinds[field.name])
        except (TypeError, OverflowError):
            raise BadInput(f"{field.name} is {shown(value)}: it must be {_words(kinds[field.name])}") from None
    return dataclasses.replace(settings, **values)


def _converted(value: Any, kind: Any) -> Any:
    """`value` as a field of this kind holds it; TypeError where it is of another."""
    if kind is Any:
        return _converted_fields(value) if dataclasses.is_dataclass(value) else value
    if isinstance(value, jax.Array):
        value = np.asarray(value)
    if isinstance(value, np.generic | np.ndarray) and value.ndim == 0:
        value = value.item()
    if get_origin(kind) in (Union, UnionType):
        for each in get_args(kind):
            with contextlib.suppress(TypeError):
                return _converted(value, each)
    elif get_origin(kind) is tuple and (isinstance(value, list | tuple | np.ndarray | str) or callable(value)):
        value = [value] if isinstance(value, str) or callable(value) else value  # One wrapper, or one sweep.
        return tuple(_converted(each, get_args(kind)[0]) for each in value)
    elif kind in (int, float, bool, str):
        return _converted_scalar(value, kind)
    elif _is(value, kind):
        return value
    raise TypeError


def _converted_scalar(value: Any, kind: type) -> Any:
    if kind is str:
        text = os.fspath(value)
        if isinstance(text, str):
            return text
    elif kind is bool:
        if isinstance(value, int | float) and value in (0, 1):
            return bool(value)
    elif isinstance(value, int | float) and not isinstance(value, bool) and (kind is float or value % 1 == 0):
        return kind(value)
    raise TypeError


def _is(value: Any, kind: Any) -> bool:
    """True if `value` is of a kind that is taken as it is."""
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) is collections.abc.Callable:
        return callable(value)
    return isinstance(kind, type) and isinstance(value, kind)


def shown(value: Any) -> str:
    """A value in a complaint: one line, and not a long one."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:80]}..."


KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a string", NoneType: "None"}


def _words(kind: Any) -> str:
    """The values that a field of this kind takes."""
    if get_origin(kind) in (Union, UnionType):
        *first, last = map(_words, get_args(kind))
        return f"{', '.join(first)} or {last}"
    if get_origin(kind) is tuple:
        return f"a list or a tuple, each of its parts {_words(get_args(kind)[0])}"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    if get_origin(kind) is collections.abc.Callable:
        return "a function"
    return KINDS.get(kind) or f"a {kind.__name__}"

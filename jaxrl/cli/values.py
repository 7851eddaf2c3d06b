"""The values of flags as people write them: 1e6, 100k, 1M or 100_000 for a whole number, 64,64 for two, True and False
for a switch, none for nothing. The flag's type decides: a name is left as it is."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Annotated, Any, get_args, get_origin

from jaxrl.errors import BadInput

UNITS = {"": 1, "k": 1_000, "M": 1_000_000}


def flag_kinds(kind: type) -> dict[str, Any]:
    """The type of each flag of a dataclass, those of its groups included, by the setting's name."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(field.type):
            found |= flag_kinds(field.type)  # type: ignore[arg-type]
        else:
            found[field.name] = get_args(field.type)[0] if get_origin(field.type) is Annotated else field.type
    return found


def setting_named(word: str) -> str | None:
    """`total_steps` of `--total-steps` and of `--total_steps=5`; None of a word that is no flag."""
    return word[2:].partition("=")[0].replace("-", "_") if word.startswith("--") else None


def understood(argv: Sequence[str], kinds: dict[str, Any]) -> list[str]:
    """The words of a command as the parser reads them: `--normalize-obs True` as `--normalize-obs`."""
    words: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        kind = kinds.get(setting_named(word) or "")
        flag, given, value = word.partition("=")
        if kind is None or not (given or rest):
            words.append(_none(word))
        elif kind is bool:
            value = value if given else rest[0]
            is_said = value.lower() in ("true", "false")
            if given and not is_said:
                raise BadInput(no_switch(flag, value))
            del rest[: is_said and not given]
            words.append(f"--no-{flag[2:]}" if is_said and value.lower() == "false" else flag if is_said else word)
        elif get_origin(kind) is tuple or not given:
            count = next((i for i, each in enumerate(rest) if each.startswith("--")), len(rest))
            values, rest = ([value], rest) if given else (rest[:count], rest[count:])
            words += [flag, *_values(values, kind)]
        else:
            words += [f"{flag}={each}" for each in _values([value], kind)]
    return words


def no_switch(flag: str, value: str) -> str:
    """The complaint about a switch that is neither on nor off."""
    return f"{flag} is {value}: it must be True or False"


def _values(words: Sequence[str], kind: Any) -> Iterator[str]:
    """The values of one flag."""
    parts = {kind, *get_args(kind)}
    for word in words:
        if get_origin(kind) is tuple and parts & {int, float}:
            yield from map(whole, re.findall(r"[^,\s]+", word.strip("()[]")) or [word])
        else:
            yield _none(whole(word) if parts & {int, float} else word)


def whole(word: str) -> str:
    """A number with an exponent, a unit or underscores as digits, where it is whole; any other word as it is."""
    number = re.fullmatch(r"(\d+(?:_\d+)*(?:\.\d+)?(?:[eE]\+?\d{1,3})?)(k|M|)", word.replace("K", "k"))
    if number is None or len(word) > 1_000:  # Python makes no whole number of some thousands of digits.
        return word
    value = Fraction(number[1]) * UNITS[number[2]]  # A seed may have more digits than a float.
    return str(value) if value.denominator == 1 else word


def _none(word: str) -> str:
    """`none` as the parser wants it."""
    return "None" if word.lower() == "none" else word

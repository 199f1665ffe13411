"""What the type of an argument takes, in words."""

import inspect
import math
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from inference.nearest import nearest
from inference.runs.documents import parse_yaml
from scripts._numbers import WORDS

SIMPLE = {**WORDS, bool: "true or false", str: "a word", Path: "a path"}
"""What an argument of a plain type takes."""


def wrong(annotation: Any, value: Any) -> str | None:
    """Return what an argument takes, if a value is not that."""
    members = members_of(annotation)
    if value is None:
        return None if annotation is None else f"it takes {what(members)}."
    if str(value) in ("null", "None") and type(None) in members:
        return None
    if all(fits_type(each, value) is False for each in members) and members:
        choices = [
            str(c) for each in members for c in get_args(each) if get_origin(each) is Literal
        ]
        near = nearest(str(value), choices)
        takes = f"t takes {what(members)}."
        return f"did you mean {near}? I{takes}" if near else f"i{takes}"
    return None


def fits_type(annotation: Any, value: Any) -> bool | None:
    """Return whether a value is of a type; None where that can't be told."""
    origin = get_origin(annotation)
    if annotation is type(None):
        return False
    if origin is Literal:
        return str(value) in map(str, get_args(annotation))
    document = plain(value)
    if annotation is bool:
        return isinstance(document, bool)
    if inspect.isclass(annotation) and issubclass(annotation, (int, float)):
        number = next(base for base in (int, float) if issubclass(annotation, base))
        try:
            return not math.isnan(annotation(number(str(value))))
        except (ValueError, OverflowError):
            return False
    if inspect.isclass(origin) and issubclass(origin, Sequence):
        if not isinstance(document, (list, tuple)):
            return False
        inner = [each for each in get_args(annotation) if each is not ...]
        return not any(fits_type(each, item) is False for each in inner[:1] for item in document)
    return None


def what(members: Sequence[Any]) -> str:
    words = []
    for each in members:
        if get_origin(each) is Literal:
            *some, last = map(str, get_args(each))
            words.append(f"{', '.join(some)} or {last}" if some else last)
        elif inspect.isclass(get_origin(each)) and issubclass(get_origin(each), Sequence):
            words.append("a list, as [1,2]")
        elif each in SIMPLE:
            words.append(SIMPLE[each])
    return " or ".join(words) or "a value"


def got(value: Any) -> str:
    return "" if value is None else f" {value}"


def members_of(annotation: Any) -> list[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        return [m for each in get_args(annotation) for m in members_of(each)]
    return [] if annotation is None else [annotation]


def origins(annotation: Any) -> list[Any]:
    return [get_origin(each) for each in members_of(annotation)]


def plain(value: Any) -> Any:
    try:
        return parse_yaml(value) if isinstance(value, str) else value
    except ValueError:
        return value

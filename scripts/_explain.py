"""What is wrong with a command line, in words: the nearest right word, or what is taken there."""

import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import yaml

from inference.nearest import did_you_mean, nearest
from scripts._numbers import WORDS

HOMES = ("models", "guides", "inference", "lowerbound", "torch", "pyro")
"""Packages whose classes are offered."""

ELSEWHERE = {"lr": "learning_rate"}
"""Arguments of parts that a command line sets by another name."""

SIMPLE = {**WORDS, bool: "true or false", str: "a word", Path: "a path"}
"""What an argument of a plain type takes."""


class Given(NamedTuple):
    """An argument as it was given.

    Args:
        shown: how the user named it.
        name: its name, without dashes.
        value: what it got; None for nothing.
    """

    shown: str
    name: str
    value: Any


def from_words(words: Sequence[str]) -> Iterator[Given]:
    """Return the arguments of a command line's words."""
    for word, after in zip(words, [*words[1:], None], strict=True):
        if word.startswith("--") and len(word) > 2:
            flag, equals, value = word.partition("=")
            nothing = after is None or after.startswith("--")
            yield Given(
                flag.rstrip("+"),
                flag[2:].rstrip("+"),
                value if equals else None if nothing else after,
            )


def from_document(document: Mapping[str, Any], file: str) -> Iterator[Given]:
    """Return the arguments of a file."""
    for name, value in document.items():
        yield Given(f"{file}: {name}", str(name), "null" if value is None else value)


def explain(
    given: Sequence[Given],
    takes: Mapping[str, Any],
    others: Sequence[str],
    defaults: Mapping[str, Any],
) -> str | None:
    """Return what is wrong with the first wrong argument, or None where all look right.

    Args:
        given: the arguments.
        takes: the type of each that has one, by name.
        others: names of those that have none.
        defaults: class of the part that an argument has by default, by name.
    """
    chosen: dict[str, Any] = dict(defaults)
    for each in given:
        head, _, inside = each.name.partition(".")
        if head not in takes and head not in others:
            return f"{each.shown}: {_nearest_flag(head, [*takes, *others])}"
        kinds, skipped = part_of(takes.get(head))
        if not kinds:
            if (inside and dict not in _origins(takes.get(head))) or not head:
                return f"{each.shown}: {head} has no arguments of its own."
            if not inside and head in takes and (said := _wrong(takes[head], each.value)):
                return f"{each.shown}{_got(each.value)}: {said}"
            continue
        if not inside:
            value = _document(each.value)
            name = value.get("class_path") if isinstance(value, dict) else value
            if isinstance(value, dict) and "class_path" not in value and "init_args" not in value:
                name = getattr(chosen.get(head), "__name__", None)
            if name == "null" or name is None:
                if each.value is None:
                    return f"{each.shown}: name one of {', '.join(_classes(kinds))}."
                continue
            if said := _wrong_part(str(name), kinds, head, takes):
                return f"{each.shown} {name}: {said}"
            chosen[head] = _class(str(name), kinds)
            arguments = value.get("init_args", {}) if isinstance(value, dict) else {}
            for key, item in arguments.items() if isinstance(arguments, dict) else ():
                place = Given(f"{each.shown}.{key}", key, item)
                if said := _wrong_argument(place, chosen[head], skipped, takes):
                    return said
        elif inside not in ("class_path", "init_args") and chosen.get(head) is not None:
            place = Given(each.shown, inside.removeprefix("init_args."), each.value)
            if said := _wrong_argument(place, chosen[head], skipped, takes):
                return said
    for each in given:
        kinds, skipped = part_of(takes.get(each.name))
        if kinds and isinstance(each.value, str) and inspect.isclass(made := chosen.get(each.name)):
            had = {other.name for other in given}
            needed = [
                name
                for name, parameter in arguments_of(made, skipped).items()
                if parameter.default is parameter.empty and f"{each.name}.{name}" not in had
            ]
            if needed and isinstance(_document(each.value), str):
                flags = ", ".join(f"--{each.name}.{name}" for name in needed)
                return f"{each.shown} {made.__name__}: it needs {flags}."
    return None


def part_of(annotation: Any) -> tuple[tuple[type, ...], int]:
    """Return of which kinds a part is that an argument takes, and how many arguments it gets."""
    for each in _members(annotation):
        if get_origin(each) is not None and issubclass(get_origin(each), Callable):  # type: ignore[arg-type]
            gets, made = get_args(each)
            return tuple(m for m in _members(made) if isinstance(m, type)), len(gets)
    return (), 0


def abstract(made: Any, kinds: Sequence[type]) -> bool:
    """Return whether a class is a kind of part, of which nothing can be made."""
    return inspect.isclass(made) and (
        inspect.isabstract(made) or (made in kinds and _is_kind(made))
    )


def arguments_of(made: Any, skipped: int) -> dict[str, inspect.Parameter]:
    """Return the arguments of a class or function that a command line gives, by name."""
    try:
        parameters = list(inspect.signature(made).parameters.values())[skipped:]
    except (TypeError, ValueError):
        return {}
    return {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def _is_kind(made: type) -> bool:
    return made.__name__ in ("Optimizer", "LRScheduler", "ELBO", "Objective", "Observer")


def _wrong_part(
    name: str, kinds: tuple[type, ...], head: str, takes: Mapping[str, Any]
) -> str | None:
    known = _classes(kinds)
    found = _class(name, kinds)
    if found is not None:
        if abstract(found, kinds):
            return f"it is a kind of part; {did_you_mean('', known)}"
        return None
    package, _, last = name.rpartition(".")
    for other, annotation in takes.items():
        theirs, _ = part_of(annotation)
        if other != head and last in _classes(theirs):
            return f"it belongs to --{other}; --{head} takes {', '.join(known)}."
    if near := nearest(last, known):
        return f"did you mean {near}?"
    if package:
        module = sys.modules.get(package)
        if module is None:
            return f"no module {package} is imported; {did_you_mean('', known)}"
        if not hasattr(module, last):
            return f"{package} has no {last}; {did_you_mean(last, known)}"
        return f"that makes no {' or '.join(k.__name__ for k in kinds)}; {did_you_mean('', known)}"
    return did_you_mean(name, known)


def _wrong_argument(each: Given, made: Any, skipped: int, takes: Mapping[str, Any]) -> str | None:
    known = arguments_of(made, skipped)
    first, _, deeper = each.name.partition(".")
    called = getattr(made, "__name__", str(made))
    if first in known:
        if deeper:
            return None
        try:
            hints = get_type_hints(made.__init__ if inspect.isclass(made) else made)
        except (NameError, TypeError):
            hints = {}
        said = _wrong(hints.get(first), each.value)
        return f"{each.shown}{_got(each.value)}: {said}" if said else None
    if not known and not inspect.isclass(made):
        return None
    all_of_them = list(inspect.signature(made).parameters)
    if first in all_of_them[:skipped]:
        outer = ELSEWHERE.get(first, first)
        by = f"--{outer}" if outer in takes else "the data"
        return f"{each.shown}: {called} has that from {by}."
    near = nearest(first, known)
    question = f"did you mean {near}? " if near else ""
    return f"{each.shown}: {question}{called} takes {', '.join(known) or 'no arguments'}."


def _wrong(annotation: Any, value: Any) -> str | None:
    """Return what an argument takes, if a value is not that."""
    members = _members(annotation)
    if value is None:
        return None if annotation is None else f"it takes {_what(members)}."
    if str(value) in ("null", "None") and type(None) in members:
        return None
    if all(_fits(each, value) is False for each in members) and members:
        choices = [
            str(c) for each in members for c in get_args(each) if get_origin(each) is Literal
        ]
        near = nearest(str(value), choices)
        return f"{f'did you mean {near}? ' if near else ''}it takes {_what(members)}."
    return None


def _fits(annotation: Any, value: Any) -> bool | None:
    """Return whether a value is of a type; None where that can't be told."""
    origin = get_origin(annotation)
    if annotation is type(None):
        return False
    if origin is Literal:
        return str(value) in map(str, get_args(annotation))
    document = _document(value)
    if annotation is bool:
        return isinstance(document, bool)
    if inspect.isclass(annotation) and issubclass(annotation, (int, float)):
        number = next(base for base in (int, float) if issubclass(annotation, base))
        try:
            annotation(number(str(value)))
        except (ValueError, OverflowError):
            return False
        return True
    if inspect.isclass(origin) and issubclass(origin, Sequence):
        if not isinstance(document, (list, tuple)):
            return False
        inner = [each for each in get_args(annotation) if each is not ...]
        return not any(_fits(each, item) is False for each in inner[:1] for item in document)
    return None


def _what(members: Sequence[Any]) -> str:
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


def _got(value: Any) -> str:
    return "" if value is None else f" {value}"


def _members(annotation: Any) -> list[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        return [m for each in get_args(annotation) for m in _members(each)]
    return [] if annotation is None else [annotation]


def _origins(annotation: Any) -> list[Any]:
    return [get_origin(each) for each in _members(annotation)]


def _document(value: Any) -> Any:
    try:
        return yaml.safe_load(value) if isinstance(value, str) else value
    except yaml.YAMLError:
        return value


def _nearest_flag(name: str, known: Sequence[str]) -> str:
    near = nearest(name, known)
    return f"did you mean --{near}?" if near else "there is no such argument; --help lists them."


def _classes(kinds: Sequence[type]) -> list[str]:
    """Return the names of all parts of some kinds, in the order of their names."""
    return sorted(made.__name__ for made in _below(kinds) if not abstract(made, kinds))


def _class(name: str, kinds: Sequence[type]) -> Any:
    package, _, last = name.rpartition(".")
    if package:
        found = getattr(sys.modules.get(package), last, None)
        right = inspect.isclass(found) and issubclass(found, tuple(kinds))
        return found if right or inspect.isfunction(found) else None
    return next((each for each in _below(kinds) if each.__name__ == name), None)


def _below(kinds: Sequence[type]) -> list[type]:
    found: dict[type, None] = {}
    for kind in kinds:
        for each in (kind, *_below(kind.__subclasses__())):
            if not each.__name__.startswith("_") and each.__module__.split(".")[0] in HOMES:
                found[each] = None
    return list(found)

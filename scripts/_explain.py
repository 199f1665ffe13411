"""What is wrong with a command line, in words: the nearest right word, or what is taken there."""

import inspect
import sys
from collections.abc import Callable as CallableOrigin
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from inference.nearest import did_you_mean, nearest
from scripts._taken import SIMPLE, got, members_of, origins, plain, wrong

HOMES = ("models", "guides", "inference", "lowerbound", "torch", "pyro")
"""Packages whose classes are offered."""

ELSEWHERE = {"lr": "learning_rate"}
"""Arguments of parts that a command line sets by another name."""


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
    for word, after in zip(words, [*words[1:], None], strict=False):
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
        if is_dataclass(made := takes.get(head)):
            first = next(iter(fields(made))).name
            place = each._replace(name=inside or first)
            if said := _wrong_argument(place, made, 0, takes):
                return said
            continue
        if not kinds:
            if each.value == "null" and type(None) in members_of(takes.get(head)):
                continue
            if not inside and (kinds := listed(takes.get(head))):
                if said := _wrong_list(each, kinds, head, takes):
                    return said
                continue
            value = plain(each.value)
            named = inside and dict in origins(takes.get(head)) and str(value).isidentifier()
            if named and (said := _wrong_part(str(value), listed(takes[head]), head, takes)):
                return f"{each.shown} {value}: {said}"
            if (inside and dict not in origins(takes.get(head))) or not head:
                return f"{each.shown}: {head} has no arguments of its own."
            if not inside and head in takes and (said := wrong(takes[head], each.value)):
                return f"{each.shown}{got(each.value)}: {said}"
            continue
        if not inside:
            value = plain(each.value)
            name = value.get("class_path") if isinstance(value, dict) else value
            needed = type(None) not in members_of(takes[head])
            if isinstance(value, dict) and "class_path" not in value:
                value = {"init_args": value.get("init_args", value)}
            elif name == "null" or name is None:
                if each.value in (None, "") or needed:
                    return f"{each.shown}: name one of {', '.join(_classes(kinds))}."
                continue
            elif said := _wrong_part(str(name), kinds, head, takes):
                return f"{each.shown} {name}: {said}"
            else:
                chosen[head] = _class(str(name), kinds)
            arguments = value.get("init_args", {}) if isinstance(value, dict) else {}
            known = isinstance(arguments, dict) and chosen.get(head) is not None
            for key, item in arguments.items() if known else ():
                place = Given(f"{each.shown}.{key}", key, "null" if item is None else item)
                if said := _wrong_argument(place, chosen[head], skipped, takes):
                    return said
        elif chosen.get(head) is None and head not in {other.name for other in given}:
            return f"{each.shown}: name the part that takes it, --{head} {_classes(kinds)[0]}."
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
            if needed and isinstance(plain(each.value), str):
                flags = ", ".join(f"--{each.name}.{name}" for name in needed)
                return f"{each.shown} {made.__name__}: it needs {flags}."
    return None


def part_of(annotation: Any) -> tuple[tuple[type, ...], int]:
    """Return of which kinds a part is that an argument takes, and how many arguments it gets."""
    for each in members_of(annotation):
        if inspect.isclass(each) and inspect.isabstract(each):
            return (each,), 0
        if get_origin(each) is CallableOrigin:
            gets, made = get_args(each)
            return tuple(m for m in members_of(made) if isinstance(m, type)), len(gets)
    return (), 0


def listed(annotation: Any) -> tuple[type, ...]:
    """Return of which kinds the objects are that an argument takes a list or mapping of."""
    lists = [each for each in members_of(annotation) if get_origin(each) in (list, dict)]
    inner = [kind for each in lists for kind in get_args(each) if inspect.isclass(kind)]
    return tuple(kind for kind in inner if kind not in SIMPLE)


def _wrong_list(
    each: Given, kinds: tuple[type, ...], head: str, takes: Mapping[str, Any]
) -> str | None:
    value = plain(each.value)
    if dict in origins(takes[head]) and not isinstance(value, dict):
        return (
            f"{each.shown}{got(value)}: it takes a mapping, or --{head}.NAME {_classes(kinds)[0]}."
        )
    if isinstance(value, dict) and dict in origins(takes[head]):
        items = list(value.values())
    else:
        items = value if isinstance(value, list) else [value]
    for item in items:
        name = item.get("class_path") if isinstance(item, dict) else item
        if said := _wrong_part(str(name), kinds, head, takes):
            return f"{each.shown} {name}: {said}"
    if isinstance(value, str) and each.shown == f"--{head}":
        return f"{each.shown} {value}: it takes a list; {each.shown}+={value} adds to it."
    return None


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
        wanted = " or ".join(k.__name__ for k in kinds)
        makes = found if inspect.isclass(found) else get_type_hints(found).get("return")
        if makes is None:
            return f"it doesn't say what it returns; a function here ends in -> {wanted}."
        if inspect.isclass(makes) and issubclass(makes, kinds):
            return None
        return f"it makes no {wanted}; {did_you_mean('', known)}"
    package, _, last = name.rpartition(".")
    for other, annotation in takes.items():
        theirs, _ = part_of(annotation)
        fits = _class(name, theirs) is not None and last in _classes(theirs)
        if other != head and theirs and fits:
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
        said = wrong(hints.get(first), each.value)
        return f"{each.shown}{got(each.value)}: {said}" if said else None
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

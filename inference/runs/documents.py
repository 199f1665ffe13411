"""Small files that came with a run, perhaps from elsewhere: a mapping, or one line of refusal."""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from ..data.sources import Source
from ..files import regular

LARGEST = 16 * 2**20
"""Bytes of a file that is read at all: those of a run are a few kilobytes."""

LARGEST_YAML = 2**18
"""The same of YAML, of which a megabyte takes seconds."""

_MANY_PARTS = re.compile(r"\d(?::\d+){9}")  # a number of base 60, slow to put together

DEEPEST = 100
"""Brackets inside brackets that are read at all: more take seconds."""

LONGEST = 300
"""Letters of a name or a unit."""

MOST = 100_000
"""Values that a document may hold once its aliases are written out."""


class Document(dict[str, Any]):
    """A mapping out of a file, which says where a key is missing.

    Args:
        path: the file.
        values: its keys and values.
        place: of the mapping in the file.
    """

    def __init__(self, path: Path, values: dict[str, Any], place: str = "") -> None:
        super().__init__(values)
        self._path, self._place = path, place

    def __missing__(self, key: str) -> Any:
        """Raise a `ValueError` that names the file and the key."""
        raise ValueError(f"{self._path} has no {self._place}{key}.")


def read_yaml(path: Path) -> dict[str, Any]:
    """Return a file of YAML as plain data.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no mapping, or can't be read; the message names the file.
    """
    return Document(path, _read(path, _parsed, "arguments", LARGEST_YAML))


def parse_yaml(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Return the plain data that a text of YAML stands for.

    Args:
        text: what to read.
        loader: a safe one, or one that refuses more.

    Raises:
        ValueError: it can't be read, or nests too deeply.
    """
    _check_depth(text)
    try:
        return yaml.load(text, loader)  # a safe one
    # A tag that does not fit its value raises whatever its constructor does.
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError) as error:
        raise ValueError(f"a value in it does not fit its tag ({error})") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def _check_depth(text: str) -> None:
    if max(text.count("["), text.count("{")) > DEEPEST and _depth(text) > DEEPEST:
        raise ValueError("it nests too deeply")


def _depth(text: str) -> int:
    depth = most = 0
    for sign in text:
        depth += (sign in "[{") - (sign in "]}")
        most = max(most, depth)
    return most


def _parsed(text: str) -> Any:
    """Return what a run's own file of YAML says, which has neither tags nor huge numbers."""
    if _MANY_PARTS.search(text):
        raise ValueError("a number in it has too many parts")
    return parse_yaml(text, _Tagless)


class _Tagless(yaml.SafeLoader):
    """Refuses a tag where it stands: nothing is made of a document before all of it is read."""

    def fetch_tag(self) -> None:
        raise ValueError("it has a tag, which lowerbound never writes")


def need(document: Mapping[str, Any], path: Path, **kinds: type | tuple[type, ...]) -> None:
    """Check the types of what a document has of these names; a boolean is no number.

    Raises:
        ValueError: one is of another type, or a number that is too large to count with.
    """
    for name, kind in kinds.items():
        if name not in document:
            continue
        value = document[name]
        huge = isinstance(value, int) and abs(value) > 2**63
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool) or huge:
            shown = repr(value) if not huge else "a huge number"
            raise ValueError(
                f"{path}: {name} is {shown[:80]}, which lowerbound never writes there."
            )


def need_words(document: Mapping[str, Any], path: Path, *names: str) -> None:
    """Check that texts, where they are there, are such as can be printed and drawn.

    Raises:
        ValueError: one is not.
    """
    need(document, path, **dict.fromkeys(names, str))
    for name in names:
        text = document.get(name, "")
        if not text.isprintable() or len(text) > LONGEST:
            raise ValueError(f"{path}: data.{name} is no text that lowerbound writes there.")


def renewed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments, perhaps those that an older version wrote, as they are written today."""
    data, source = config.get("data"), asdict(Source())
    usual = {**source, "split": list(source["split"])}
    if isinstance(data, dict):
        return {**config, "data": {**usual, **data}}
    if not isinstance(data, str):
        return dict(config)
    return {**config, "data": {**usual, "source": data}, "view": None}


def read_json(path: Path) -> dict[str, Any]:
    """Return a file of JSON, as `read_yaml` does one of YAML."""
    return _documents(_read(path, json.loads, "values"), path)


def _read(
    path: Path, parse: Callable[[str], Any], what: str, largest: int = LARGEST
) -> dict[str, Any]:
    if (size := regular(path).stat().st_size) > largest:
        raise ValueError(f"{path} can't be what lowerbound wrote: it has {size:,} bytes.")
    try:
        found = parse(path.read_text())
        too_large = _size(found, {}) > MOST
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # also of bytes that are no text
        said = " ".join(str(error).split())
        raise ValueError(f"{path} can't be read: {said}") from error
    if too_large:
        raise ValueError(f"{path} holds more than {MOST:,} values, or contains itself.")
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no mapping of {what}.")
    return found


def _documents(values: dict[str, Any], path: Path, place: str = "") -> Document:
    """Return a mapping of mappings whose missing keys are all named."""
    inside = {
        key: _documents(value, path, f"{place}{key}.") if isinstance(value, dict) else value
        for key, value in values.items()
    }
    return Document(path, inside, place)


def _size(value: Any, known: dict[int, float]) -> float:
    """Return how many values there are, each alias counted as what it stands for."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in known:
        known[id(value)] = math.inf  # until it is counted: it contains itself
        inside = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(each, known) for each in inside)
    return known[id(value)]

"""The configurations of a sweep: a grid, a list, or a sample of a grid, each a few words."""

import itertools
import json
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from inference.runs.documents import parse_yaml

Configuration = dict[str, Any]
"""Values of the arguments of lowerbound train that a sweep varies, by name."""

KEPT = {"seed": "--seeds N", "run": "the name of the sweep", "resume": "--resume"} | dict.fromkeys(
    ("config", "list", "print_config", "help", "version", "dry_run", "trust"), ""
)
"""Arguments of lowerbound train that a sweep gives itself, and what to give in their place."""

MOST = 10_000
"""Configurations that a sweep has at most."""


def values_of(text: str) -> tuple[str, list[Any]]:
    """Return the name and the values of ``KEY: VALUE, VALUE``; values are YAML.

    >>> values_of("latent_dim: 8, 32")
    ('latent_dim', [8, 32])
    >>> values_of("prior: StandardNormal, {class_path: Vamp, init_args: {count: 50}}")[1][1]
    {'class_path': 'Vamp', 'init_args': {'count': 50}}

    Raises:
        ValueError: it is no such text.
    """
    name, colon, rest = text.partition(":")
    try:
        values = parse_yaml(f"[{rest}]")
    except ValueError:
        values = None
    if not colon or not values:
        raise ValueError(f"--vary {text!r}: expected 'KEY: VALUE, VALUE', as 'latent_dim: 8, 32'.")
    return name.strip().lstrip("-"), values


def configurations(
    vary: Mapping[str, Sequence[Any]] | Sequence[Configuration],
    sample: int | None = None,
    seed: int = 0,
) -> list[Configuration]:
    """Return each combination of values, or each of a list; or some of them, drawn at random.

    Args:
        vary: values by name, of which all combinations are taken, the last name's first; or a list
            of configurations.
        sample: how many to draw, without repetition and in the order of the whole; None takes all.
        seed: of the drawing.

    Raises:
        ValueError: a name is one that the sweep gives itself, a name has no values, or two
            configurations are the same.
    """
    _need_plain(vary)
    if isinstance(vary, Mapping):
        if empty := [k for k, v in vary.items() if not isinstance(v, list | tuple) or not v]:
            raise ValueError(f"vary: {empty[0]} needs a list of values, as [8, 32].")
        total = math.prod(map(len, vary.values()))
    else:
        if any(not isinstance(each, Mapping) for each in vary):
            raise ValueError("vary: a list holds configurations, as - {prior: Vamp, latent_dim: 8}")
        total = len(vary)
    count = total if sample is None else min(sample, total)
    if count > MOST:
        raise ValueError(
            f"vary: {count:,} configurations; a sweep has {MOST:,} at most. Sample some."
        )
    places = (
        range(total) if count == total else sorted(random.Random(seed).sample(range(total), count))
    )
    found = [_at(vary, place) for place in places]
    for name in dict.fromkeys(itertools.chain.from_iterable(found)):
        if name in KEPT:
            instead = f": give {KEPT[name]}" if KEPT[name] else ""
            raise ValueError(f"vary: a sweep sets {name} itself{instead}.")
    for name in ("data", "view"):
        if len({str(each.get(name)) for each in found}) > 1:
            raise ValueError(
                f"vary: runs that differ in {name} can't be compared: make two sweeps."
            )
    words = [tuple(words_of(each)) for each in found]
    if len({*words}) < len(words):
        twice = next(each for each in words if words.count(each) > 1)
        raise ValueError(f"vary: {' '.join(twice)} is there twice.")
    return found


def _at(vary: Mapping[str, Sequence[Any]] | Sequence[Configuration], place: int) -> Configuration:
    """Return one configuration of many, the last name's values turning fastest."""
    if not isinstance(vary, Mapping):
        return dict(vary[place])
    chosen: Configuration = {}
    for name, values in reversed([*vary.items()]):
        place, at = divmod(place, len(values))
        chosen[name] = values[at]
    return dict(reversed([*chosen.items()]))


def _need_plain(value: Any) -> None:
    """Refuse what a command line can't hold.

    Raises:
        ValueError: a value is a date, or bytes.
    """
    if isinstance(value, Mapping | list | tuple):
        inside = value.values() if isinstance(value, Mapping) else value
        for each in inside:
            _need_plain(each)
    elif not isinstance(value, str | int | float | None):
        raise ValueError(f"vary: {value!r} is a {type(value).__name__}: put it in quotes.")


def words_of(configuration: Mapping[str, Any]) -> list[str]:
    """Return a configuration as words of a command line."""
    return [
        word
        for name, value in configuration.items()
        for word in (f"--{name}", value if isinstance(value, str) else json.dumps(value))
    ]


def few(found: Sequence[Configuration]) -> Iterator[Configuration]:
    """Return so many of them that each value of each name occurs; as many as a sum, no product."""
    seen: set[tuple[str, str]] = set()
    for each in found:
        values = {(name, json.dumps(value)) for name, value in each.items()}
        if values - seen or not each:
            seen |= values
            yield each


def folders(found: Sequence[Configuration]) -> list[str]:
    """Return a name for each that a folder can have: ``prior-Vamp_latent_dim-8``."""
    names = []
    for place, each in enumerate(found):
        name = "_".join(
            re.sub(r"[^\w.+]+", "-", f"{k}-{_short(v)}").strip("-") for k, v in each.items()
        )
        name = (name or "all")[:100].lstrip(".")
        names.append(f"{name}_{place}" if name in names else name)
    return names


def _short(value: Any) -> str:
    if isinstance(value, Mapping) and "class_path" in value:
        inside = value.get("init_args") or {}
        words = [str(value["class_path"]).rsplit(".", 1)[-1]]
        return "-".join([*words, *(f"{k}-{v}" for k, v in inside.items())])
    return str(value)

"""Choosing among runs by their arguments, and ordering configurations by a column."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..nearest import did_you_mean
from .comparison import IGNORED, Group, flat
from .run import Run
from .tables import group_numbers

BEST_FIRST = ("best_elbo", "final_elbo", "area", "elbo", "log_px")
"""Columns of which more is better; the others are ordered upwards."""


def arguments_of(run: Run) -> dict[str, str]:
    """Return the arguments that make a run another one, its seed among them."""
    return flat({k: v for k, v in run.config.items() if k not in {*IGNORED} - {"seed"}})


def matching(runs: Sequence[Run], wanted: Mapping[str, object]) -> list[Run]:
    """Return the runs that have all of some arguments.

    Args:
        runs: to choose from.
        wanted: values by name, as ``{"prior": "Vamp", "prior.components": 50}``.

    Raises:
        ValueError: no run has such an argument, or none has all these values.
    """
    arguments = [arguments_of(run) for run in runs]
    need_known(wanted, arguments, "filter")
    texts = {name: str(value) for name, value in wanted.items()}
    found = [
        run
        for run, own in zip(runs, arguments, strict=True)
        if all(own.get(name) == text for name, text in texts.items())
    ]
    if runs and not found:
        raise ValueError(f"No run has {_why_none(texts, arguments)}")
    return found


def need_known(names: Iterable[str], arguments: Sequence[Mapping[str, str]], asked: str) -> None:
    """Check that runs have arguments of these names.

    Raises:
        ValueError: one is the argument of none; the message has the nearest name that is.
    """
    known = dict.fromkeys(name for own in arguments for name in own)
    for name in names if known else ():
        if name not in known:
            raise ValueError(f"--{asked} {name}: {did_you_mean(name, sorted(known))}")


def ordered(groups: Sequence[Group], column: str) -> list[Group]:
    """Return configurations ordered by a column of ``groups.csv``, or by an argument.

    ELBOs and log p(x) come with the best first, all else upwards, numbers before words; those
    without a value are last.

    Raises:
        ValueError: there is no such column, and no run has such an argument.
    """
    numbers = [group_numbers(group) for group in groups]
    arguments = [arguments_of(group.runs[0]) for group in groups]
    if column in numbers[0]:
        values: list[Any] = [line[column] for line in numbers]
    else:
        names = [*numbers[0], *sorted({name for own in arguments for name in own})]
        if column not in names:
            raise ValueError(f"--sort {column}: {did_you_mean(column, names)}")
        values = [own.get(column) for own in arguments]
    sign = -1.0 if column in BEST_FIRST else 1.0
    places = sorted(range(len(groups)), key=lambda place: _rank(values[place], sign))
    return [groups[place] for place in places]


def otherwise(groups: Sequence[Group]) -> str:
    """Return in which arguments runs of one group differ, other than the seed; empty if in none."""
    found: dict[str, set[str]] = {}
    for group in groups:
        members = [arguments_of(run) for run in group.runs]
        for name in dict.fromkeys(name for own in members for name in own):
            values = {own.get(name, "none") for own in members}
            if len(values) > 1 and name != "seed":
                found.setdefault(name, set()).update(values)
    return "; ".join(f"{name} ({_some(values)})" for name, values in sorted(found.items()))


def _rank(value: Any, sign: float) -> tuple[int, float, str]:
    try:
        number = sign * float(value)
    except (TypeError, ValueError):
        return (2, 0.0, "") if value is None else (1, 0.0, str(value))
    return (0, number, "") if number == number else (2, 0.0, "")


def _why_none(texts: Mapping[str, str], arguments: Sequence[Mapping[str, str]]) -> str:
    for name, text in texts.items():
        values = {own[name] for own in arguments if name in own}
        if text not in values:
            return f"{name}={text}: {did_you_mean(text, sorted(values))}"
    return f"all of {', '.join(f'{name}={text}' for name, text in texts.items())}."


def _some(values: Iterable[str], most: int = 4) -> str:
    every = sorted(values, key=lambda text: _rank(text, 1.0))
    more = f", and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(each[:40] for each in every[:most]) + more

"""A group of runs as every figure of a comparison shows it."""

from dataclasses import dataclass
from typing import Any

from .comparison import Group
from .styles import Style

PLAIN = Style()


@dataclass(frozen=True)
class Shown:
    """A group and its looks.

    Args:
        name: in the legend.
        look: colour, dash and marker.
        group: the runs.
    """

    name: str
    look: dict[str, Any]
    group: Group


def counted(group: Group) -> str:
    """Return the number of a group's runs, and of those that diverged, for a legend."""
    diverged = sum(run.diverged is not None for run in group.runs)
    seeds = f"{len(group.runs)} seeds" if len(group.runs) > 1 else ""
    marks = ", ".join(filter(None, (seeds, f"{diverged} diverged" if diverged else "")))
    return f" ({marks})" if marks else ""

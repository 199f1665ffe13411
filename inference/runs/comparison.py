"""Comparing runs: seeds of one configuration grouped, with mean and spread."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .run import Run

IGNORED = (
    "run", "seed", "data_root", "device", "log_every", "checkpoint_every", "compile", "watch",
    "tensorboard",
)  # fmt: skip
"""Arguments that do not make another configuration."""

ADDED = {"schedules": None}
"""Arguments that older runs lack, with the values that those ran with."""

LONGEST = 200
"""Characters of a value that a label shows: some are texts."""

COLUMNS = (
    "configuration", "seeds", "final valid ELBO", "best valid ELBO", "test log p(x) >=", "K",
    "seconds", "parameters",
)  # fmt: skip


@dataclass(frozen=True)
class Group:
    """Runs that differ by their seed alone.

    Args:
        label: the arguments that set it apart from the other groups.
        runs: its members.
    """

    label: str
    runs: tuple[Run, ...]

    def cells(self) -> list[str]:
        """Return the group's line of the table: mean +- standard deviation over seeds."""
        evaluations = [run.evaluation for run in self.runs]
        done = [e for e in evaluations if e is not None]
        kinds = sorted({f"{e['particles']} ({e['split']})" for e in done})
        # Means over different bounds, or over some of the seeds, mean nothing.
        whole = len(done) == len(self.runs) and len(kinds) == 1
        best = [b.elbo for run in self.runs if (b := run.trace.best()) is not None]
        final = [rows[-1].elbo for run in self.runs if (rows := run.trace.split("valid"))]
        diverged = sum(run.diverged is not None for run in self.runs)
        unfinished = sum(not run.finished and run.diverged is None for run in self.runs)
        ends = {"diverged": diverged, "unfinished": unfinished}
        marks = ", ".join(f"{count} {word}" for word, count in ends.items() if count)
        return [
            self.label,
            f"{len(self.runs)} ({marks})" if marks else str(len(self.runs)),
            spread(final),
            spread(best),
            spread([e["log_px"] for e in done]) if whole else "-",
            ", ".join(kinds) or "-",
            spread([run.trace.rows[-1].seconds for run in self.runs if run.trace.rows], digits=1),
            f"{self.runs[0].environment['parameters']:,}",
        ]


def compare(runs: Sequence[Run], by: Sequence[str] = ()) -> list[Group]:
    """Group runs by configuration.

    Args:
        runs: two runs or more on the same data in the same unit; one is a group of its own.
        by: names of arguments, as ``prior`` or ``objective.beta``, that alone make a group; by
            default all do but the seed and what changes no number.

    Raises:
        ValueError: there is no run, one is named twice, or two differ in data or unit; the message
            names both.
    """
    if not runs:
        raise ValueError("Expected at least one run to compare.")
    first = runs[0]
    named: dict[Path, Path] = {}
    for run in runs:
        if (place := run.path.resolve()) in named:
            raise ValueError(f"{named[place]} and {run.path} are one run: name each run once.")
        named[place] = run.path
    for other in runs[1:]:
        for what in ("hash", "unit"):
            mine, theirs = (run.environment["data"][what] for run in (first, other))
            if mine != theirs:
                raise ValueError(
                    f"{first.path} and {other.path} can't be compared: they differ in "
                    f"{what}, {mine!r} ({first.environment['data']['name']}) against {theirs!r} "
                    f"({other.environment['data']['name']})."
                )
    members: dict[frozenset[tuple[str, str]], list[Run]] = {}
    for run in runs:
        own = {k: flat(run.config).get(k, "none") for k in by} or _configuration(run)
        members.setdefault(frozenset(own.items()), []).append(run)
    names = labels([dict(key) for key in members])
    if by:
        names = [", ".join(f"{k}={dict(key)[k]}" for k in by) for key in members]
    return [
        Group(label, tuple(group)) for label, group in zip(names, members.values(), strict=True)
    ]


def _configuration(run: Run) -> dict[str, str]:
    """Return what makes a run another one than a seed of the same."""
    arguments = {k: v for k, v in (ADDED | run.config).items() if k not in IGNORED}
    if segments := run.environment.get("segments"):
        arguments["segments"] = segments  # no seed of a run that had the last ones throughout
    return flat(arguments)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return mean +- standard deviation, the latter where there are two values or more."""
    if not values:
        return "-"
    with np.errstate(invalid="ignore"):  # of an infinite bound
        mean, error = np.mean(values), np.std(values, ddof=1) if len(values) > 1 else 0.0
    shown = f"{mean:.{digits}f}"
    return shown if len(values) == 1 else f"{shown} +- {error:.{digits}f}"


def flat(arguments: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested arguments as ``part: Class`` and ``part.argument: value``."""
    found: dict[str, str] = {}
    for key, value in arguments.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and "class_path" in value:
            found[name] = str(value["class_path"]).rsplit(".", 1)[-1]
            inside = value.get("init_args")
            found.update(flat(inside if isinstance(inside, dict) else {}, f"{name}."))
        elif isinstance(value, dict):
            found.update(flat(value, f"{name}."))
        else:
            shown = "".join(c if c.isprintable() else " " for c in str(value)[:LONGEST])
            found[name] = shown
    return found


def labels(configurations: Sequence[dict[str, str]]) -> list[str]:
    """Name each configuration by the arguments in which it differs from another one."""
    if len(configurations) == 1:
        return ["all runs"]
    values: dict[str, set[str]] = {}
    for configuration in configurations:
        for key, value in configuration.items():
            values.setdefault(key, set()).add(value)
    differing = sorted(key for key in values if len(values[key]) > 1)
    lone = sorted(
        k for k in values if k not in differing and any(k not in c for c in configurations)
    )

    def name(configuration: dict[str, str], keys: Sequence[str]) -> str:
        return ", ".join(f"{k}={configuration[k]}" for k in keys if k in configuration)

    short = [name(c, differing) for c in configurations]
    # What one has and another lacks follows as a rule from the part; where it does not, it counts.
    return [
        name(c, differing + lone) if short.count(label) > 1 else label
        for c, label in zip(configurations, short, strict=True)
    ]

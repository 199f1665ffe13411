"""Comparing runs: seeds of one configuration grouped, mean and spread, one table, one figure."""

import csv
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import atomic
from .figures import save_comparison, save_plane
from .run import Run

IGNORED = (
    "run", "seed", "data_root", "device", "log_every", "checkpoint_every", "compile", "watch",
)  # fmt: skip
"""Arguments that do not make another configuration."""

ADDED = {"schedules": None}
"""Arguments that older runs lack, with the values that those ran with."""

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
        return [
            self.label,
            str(len(self.runs)),
            spread(final),
            spread(best),
            spread([e["log_px"] for e in done]) if whole else "-",
            ", ".join(kinds) or "-",
            spread([run.trace.rows[-1].seconds for run in self.runs if run.trace.rows], digits=1),
            f"{self.runs[0].environment['parameters']:,}",
        ]


def compare(runs: Sequence[Run]) -> list[Group]:
    """Group runs by configuration.

    Args:
        runs: two runs or more on the same data in the same unit; one is a group of its own.

    Raises:
        ValueError: there is no run, or two differ in data or unit; the message names both.
    """
    if not runs:
        raise ValueError("Expected at least one run to compare.")
    first = runs[0]
    for other in runs[1:]:
        for what in ("hash", "unit"):
            mine, theirs = (run.environment["data"][what] for run in (first, other))
            if mine != theirs:
                raise ValueError(
                    f"{first.path} and {other.path} can't be compared: their data differ in "
                    f"{what}, {mine!r} ({first.environment['data']['name']}) against {theirs!r} "
                    f"({other.environment['data']['name']})."
                )
    members: dict[frozenset[tuple[str, str]], list[Run]] = {}
    for run in runs:
        arguments = {k: v for k, v in (ADDED | run.config).items() if k not in IGNORED}
        members.setdefault(frozenset(_flat(arguments).items()), []).append(run)
    labels = _labels([dict(key) for key in members])
    return [
        Group(label, tuple(group)) for label, group in zip(labels, members.values(), strict=True)
    ]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay text out in columns, the first to the left and the others to the right."""
    lines = [list(columns), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in lines
    )


def write(groups: Sequence[Group], folder: Path, over: str = "step") -> list[Path]:
    """Write ``comparison.csv``, ``traces.png`` and, if all were evaluated, ``rate-distortion.png``.

    Args:
        groups: what `compare` returned.
        folder: where to; made if it is not there.
        over: ``step``, ``epoch`` or ``seconds``, the figure's horizontal axis.

    Returns:
        The paths of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "comparison.csv", folder / "traces.png"]
    with atomic(paths[0]) as partial, partial.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *(group.cells() for group in groups)])
    traces = {group.label: [run.trace.rows for run in group.runs] for group in groups}
    unit = groups[0].runs[0].environment["data"]["unit"]
    save_comparison(traces, over, paths[1], unit)
    if all(run.evaluation and "rate" in run.evaluation for group in groups for run in group.runs):
        points = {
            group.label: [
                (e["rate"], e["distortion"]) for run in group.runs if (e := run.evaluation)
            ]
            for group in groups
        }
        paths.append(folder / "rate-distortion.png")
        save_plane(points, paths[-1], unit)
    return paths


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return mean +- standard deviation, the latter where there are two values or more."""
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} +- {statistics.stdev(values):.{digits}f}"


def _flat(arguments: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested arguments as ``part=Class`` and ``part.argument=value``."""
    flat: dict[str, str] = {}
    for key, value in arguments.items():
        name = prefix + key
        if isinstance(value, dict) and "class_path" in value:
            flat[name] = value["class_path"].rsplit(".", 1)[-1]
            flat.update(_flat(value.get("init_args") or {}, f"{name}."))
        elif isinstance(value, dict):
            flat.update(_flat(value, f"{name}."))
        else:
            flat[name] = str(value)
    return flat


def _labels(configurations: Sequence[dict[str, str]]) -> list[str]:
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

    labels = [name(c, differing) for c in configurations]
    # What one has and another lacks follows as a rule from the part; where it does not, it counts.
    return [
        name(c, differing + lone) if labels.count(label) > 1 else label
        for c, label in zip(configurations, labels, strict=True)
    ]

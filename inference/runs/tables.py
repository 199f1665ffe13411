"""Tables of a comparison: as text, and for a paper."""

import math
import statistics
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from ..training.trace import Row
from .comparison import Group
from .differences import Difference, digits_of
from .run import Run

DIFFERENCES = ("b", "less a", "difference", "se data", "se seeds", "p", "new seed wins")
"""Columns of a table of differences; the verdicts come below it."""


def printable(text: str) -> str:
    """Return a text without the signs that move a terminal's cursor or colour it."""
    return "".join(each if each.isprintable() else "?" for each in text)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay text out in columns, the first to the left and the others to the right."""
    lines = [[*map(printable, line)] for line in (columns, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in lines
    )


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay text out as a table in Markdown."""
    marks = ["---", *["--:"] * (len(columns) - 1)]
    lines = [columns, marks, *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def latex(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""Lay text out as a table in LaTeX, with the rules of the package booktabs."""
    head, *body = [" & ".join(map(_latex, line)) + r" \\" for line in (columns, *rows)]
    begin = rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}"
    return "\n".join(
        [begin, r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    )


def difference_cells(found: Difference) -> list[str]:
    """Return a difference's line of the table."""
    digits = digits_of(found.se)

    def shown(value: float, digits: int = digits) -> str:
        return "-" if math.isnan(value) else f"{value:.{digits}f}"

    return [
        found.b,
        found.a,
        "-" if math.isnan(found.difference) else f"{found.difference:+.{digits}f}",
        shown(found.se_data),
        shown(found.se_seeds),
        "-" if math.isnan(found.p_value) else f"{found.p_value:.2g}",
        shown(found.wins, 2),
    ]


def group_numbers(group: Group) -> dict[str, Any]:
    """Return what is known of a configuration, as numbers by name; None where it is not known.

    Means over seeds, each with its standard deviation under ``_sd`` where there are two or more.
    ``log_px_se`` is the standard error over the data, the mean of the seeds'.
    """
    runs = [run_numbers(run) for run in group.runs]
    numbers: dict[str, Any] = {
        "label": group.label,
        "seeds": [run.config["seed"] for run in group.runs],
        "parameters": group.runs[0].environment["parameters"],
    }
    for name in MEASURED:
        values = [run[name] for run in runs]
        known = None not in values
        numbers[name] = statistics.fmean(values) if known else None
        numbers[f"{name}_sd"] = statistics.stdev(values) if known and len(values) > 1 else None
    return numbers


MEASURED = (
    "best_elbo", "final_elbo", "area", "steps", "seconds", "seconds_per_step", "elbo", "log_px",
    "log_px_se",
)  # fmt: skip
"""What `run_numbers` measures and `group_numbers` takes means of."""


def run_numbers(run: Run) -> dict[str, Any]:
    """Return what is known of a run, as numbers by name; None where it is not known.

    ``area`` is the mean validation ELBO over the steps, by the trapezoid rule, nats per datum: of
    two runs that end alike, the one that came there sooner has the larger.
    """
    valid, best, found = run.trace.split("valid"), run.trace.best(), run.evaluation or {}
    last = run.trace.rows[-1] if run.trace.rows else None
    return {
        "run": str(run.path),
        "seed": run.config["seed"],
        "finished": run.finished,
        "diverged": run.diverged is not None,
        "best_elbo": best.elbo if best else None,
        "final_elbo": valid[-1].elbo if valid else None,
        "area": _area(valid),
        "steps": last.step if last else None,
        "seconds": last.seconds if last else None,
        "seconds_per_step": last.seconds / last.step if last and last.step else None,
        "parameters": run.environment["parameters"],
        **{name: found.get(name) for name in ("elbo", "log_px", "log_px_se", "particles", "split")},
    }


def reached(run: Run, elbo: float) -> Row | None:
    """Return the first validation row with that ELBO or more, or None if there is none."""
    return next((row for row in run.trace.split("valid") if row.elbo >= elbo), None)


def _area(rows: Sequence[Row]) -> float | None:
    if len(rows) < 2 or rows[-1].step == rows[0].step:
        return None
    areas = [(b.step - a.step) * (a.elbo + b.elbo) / 2 for a, b in pairwise(rows)]
    return sum(areas) / (rows[-1].step - rows[0].step)


def _latex(text: str) -> str:
    names = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special = {mark: rf"\{mark}" for mark in "&%$#_{}"} | {">=": r"$\geq$", "+-": r"$\pm$"}
    marks = names | special
    found, rest = "", text
    while rest:
        mark = next((m for m in marks if rest.startswith(m)), rest[0])
        found, rest = found + marks.get(mark, mark), rest[len(mark) :]
    return found

"""Frames of a comparison: its numbers as tables of pandas, and as files."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import atomic
from ..training.trace import FIELDS
from .choosing import arguments_of, matching, need_known
from .comparison import Group, compare, flat
from .differences import Difference
from .found import find_runs
from .run import Run
from .tables import group_numbers, run_numbers
from .verdicts import Quantity, verdicts

if TYPE_CHECKING:  # the import takes half a second, and training needs none of it
    from pandas import DataFrame

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""How a cell begins that a spreadsheet takes for a formula; the last four are of full width."""

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
"""A number, which may begin with a sign and is no formula."""


class Comparison:
    """Runs side by side, as frames; `load_runs` returns one.

    Each method returns a new frame with the columns of the file of its name that ``lowerbound
    compare`` writes. Values are in nats per datum unless a name says otherwise; what is not known
    is missing (NaN).

    Args:
        configurations: what `compare` returned.
    """

    def __init__(self, configurations: Sequence[Group]) -> None:
        self.configurations = list(configurations)

    def __repr__(self) -> str:
        runs = sum(len(group.runs) for group in self.configurations)
        return f"Comparison({runs} runs, {len(self.configurations)} configurations)"

    def groups(self) -> "DataFrame":
        """Return a row for each configuration: means over its seeds, with standard deviations."""
        return groups_frame(self.configurations)

    def differences(
        self, baseline: str | None = None, quantity: Quantity = "log_px"
    ) -> "DataFrame":
        """Return a row for each two configurations, paired by datum; see `verdicts`.

        Args:
            baseline: label of the one to compare each other with, or a part of it; None compares
                each two.
            quantity: ``log_px``, the K-sample bound on log p(x), or ``elbo``.

        Raises:
            ValueError: no label, or more than one, has the baseline in it.
        """
        return differences_frame(verdicts(self.configurations, quantity, baseline))

    def traces(self) -> "DataFrame":
        """Return a row for each row of each run's trace."""
        return traces_frame(self.configurations)

    def runs(self) -> "DataFrame":
        """Return a row for each run: what it reached, and its arguments, a column each."""
        return runs_frame(self.configurations)


def load_runs(
    where: str | Path | Iterable[str | Path],
    *,
    filter: Mapping[str, object] | None = None,  # noqa: A002  (the command line's word)
    group: Sequence[str] = (),
) -> Comparison:
    """Read runs, to be compared as frames of pandas.

    >>> import inference
    >>> runs = inference.load_runs("runs/*")  # doctest: +SKIP
    >>> runs.groups()[["label", "log_px", "log_px_sd"]]  # doctest: +SKIP

    Args:
        where: a glob as ``"runs/*"``, a folder of runs, a run, or several of these.
        filter: take only runs with these arguments, as ``{"prior": "Vamp"}``.
        group: names of the arguments that alone make a group; by default all but the seed do.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: two differ in data or unit, one is named twice, or one can't be read; or no run
            has an argument of that name.
    """
    return Comparison(grouped(find_runs(where), filter or {}, group))


def grouped(
    runs: Sequence[Run], wanted: Mapping[str, object], by: Sequence[str] = ()
) -> list[Group]:
    """Return those of some runs that have the arguments that are wanted, in groups.

    Raises:
        ValueError: as `load_runs` does.
    """
    chosen = matching(runs, wanted)
    need_known(by, [arguments_of(run) for run in chosen], "group")
    return compare(chosen, by)


def groups_frame(groups: Sequence[Group]) -> "DataFrame":
    """Return what ``groups.csv`` holds; see `group_numbers`."""
    return _frame([group_numbers(group) for group in groups])


def differences_frame(found: Sequence[Difference]) -> "DataFrame":
    """Return what ``differences.csv`` holds; see `Difference`."""
    names = [*(each.name for each in fields(Difference)), "verdict"]
    return _frame([{**asdict(each), "verdict": each.verdict} for each in found], names)


def traces_frame(groups: Sequence[Group]) -> "DataFrame":
    """Return what ``traces.csv`` holds; see `Row`."""
    rows = [
        {"label": group.label, "run": str(run.path), "seed": run.config["seed"]}
        | {name: getattr(row, name) for name in FIELDS}
        | dict(row.extra)
        for group in groups
        for run in group.runs
        for row in run.trace.rows
    ]
    return _frame(rows, ["label", "run", "seed", *FIELDS])


def runs_frame(groups: Sequence[Group]) -> "DataFrame":
    """Return what ``runs.csv`` holds: what each run reached (`run_numbers`), and its arguments.

    Arguments have the types that they show. What is measured keeps its name before an argument's.
    """
    members = [(group.label, run) for group in groups for run in group.runs]
    numbers = [{"label": label} | run_numbers(run) for label, run in members]
    arguments = [flat(run.config) for _, run in members]
    names = dict.fromkeys(name for own in arguments for name in own if name not in numbers[0])
    typed = {name: _typed([own.get(name) for own in arguments]) for name in names}
    return _frame(
        [
            line | {name: values[place] for name, values in typed.items()}
            for place, line in enumerate(numbers)
        ]
    )


def write_numbers(groups: Sequence[Group], found: Sequence[Difference], folder: Path) -> list[Path]:
    """Write ``comparison.json``, ``groups.csv``, ``differences.csv``, ``runs.csv``, ``traces.csv``.

    Args:
        groups: what `compare` returned.
        found: the differences between them.
        folder: where to; made if it is not there.

    Returns:
        The paths of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    differences = [{**asdict(each), "verdict": each.verdict} for each in found]
    whole = folder / "comparison.json"
    with atomic(whole) as partial:
        both = _finite({"groups": list(map(group_numbers, groups)), "differences": differences})
        partial.write_text(json.dumps(both, indent=2) + "\n")
    frames = {
        "groups": groups_frame(groups),
        "differences": differences_frame(found),
        "runs": runs_frame(groups),
        "traces": traces_frame(groups),
    }
    return [whole, *(write_csv(frame, folder / f"{name}.csv") for name, frame in frames.items())]


def write_csv(frame: "DataFrame", path: Path) -> Path:
    """Write a frame as CSV; text that a spreadsheet would take for a formula gets a quote."""
    shown = frame.copy()
    for name in shown.select_dtypes(["object", "string"]):
        shown[name] = shown[name].map(_no_formula)
    shown.columns = [*map(_no_formula, shown.columns)]  # names of a run's arguments too
    with atomic(path) as partial:
        shown.to_csv(partial, index=False)
    return path


def _frame(rows: Sequence[Mapping[str, Any]], names: Sequence[str] = ()) -> "DataFrame":
    """Return rows as a frame: whole numbers stay whole beside missing ones."""
    import pandas as pd

    every = list(dict.fromkeys([*names, *(name for row in rows for name in row)]))
    columns = {}
    for name in every:
        values = [_cell(row.get(name)) for row in rows]
        whole = all(value is None or type(value) is int for value in values)
        some = None in values and any(value is not None for value in values)
        columns[name] = pd.Series(values, dtype="Int64" if whole and some else None)
    return pd.DataFrame(columns)


def _cell(value: Any) -> Any:
    """Return what a cell holds: a list as its elements with spaces between them."""
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _typed(texts: Sequence[str | None]) -> Sequence[Any]:
    """Return texts as numbers or truths, where those would be written just so."""
    for kind in (int, float, {"True": True, "False": False}.__getitem__):
        try:
            values = [None if text is None else kind(text) for text in texts]
        except (KeyError, ValueError):
            continue
        if all(text is None or str(v) == text for v, text in zip(values, texts, strict=True)):
            return values
    return texts


def _no_formula(value: Any) -> Any:
    risky = isinstance(value, str) and value.startswith(FORMULA) and not NUMBER.fullmatch(value)
    return f"'{value}" if risky else value


def _finite(value: Any) -> Any:
    """Return the same with None in the place of nan, which is no JSON."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

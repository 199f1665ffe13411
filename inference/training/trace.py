"""ELBO traces: rows of a CSV file, appended as training goes."""

import csv
import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from torch import Tensor

from ..files import atomic, regular


class Row(NamedTuple):
    """One line of a trace. A field is a column of the file; a new one is a line here.

    Args:
        step: number of optimiser steps taken.
        epoch: passes over the training data, fractions counted.
        seconds: training time since the start, resumed sittings added up.
        split: ``train`` (the mean over the steps since the last such row) or ``valid``.
        elbo: the objective's bound in nats per datum, on valid always the ELBO; goes up.
        reconstruction: E_q log p(x | z), nats per datum.
        kl: KL(q(z | x) || p(z)), nats per datum, unweighted.
        active_units: on valid, how many units of the code vary with x (see ``Validation``).
        collapsed: on valid, share of the code's dimensions that have collapsed to the prior.
        objective: on valid, what is optimised, where the weights are chosen by it.
        relaxed: on valid, the bound of the relaxed pair where that is optimised (`GumbelSoftmax`),
            which is none of this one.
        extra: value in the last step of each number that a schedule moves, a column by its name.
    """

    step: int
    epoch: float
    seconds: float
    split: str
    elbo: float
    reconstruction: float
    kl: float
    active_units: int | None = None
    collapsed: float | None = None
    objective: float | None = None
    relaxed: float | None = None
    extra: Mapping[str, float] = {}


FIELDS = Row._fields[:-1]
"""Columns that every trace of this version has, in their order; those of ``extra`` follow."""

REQUIRED = tuple(name for name in FIELDS if name not in Row._field_defaults)
"""Columns that a trace of any version has."""


class Trace:
    """The rows of a run, in memory and, if it has a path, on disk as they come.

    A file's columns are known by its header: their order is free, those of other versions read.

    Args:
        path: CSV file to continue; None keeps the trace in memory only.

    Attributes:
        rows: in their order.
        weights: those that `fit` chose, for ``svi.load_weights``; empty where they are the last.

    Raises:
        ValueError: the file is no trace; the message names the column or the line.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.rows: list[Row] = []
        self.weights: dict[str, Tensor] = {}
        self._columns: tuple[str, ...] = ()  # of the file
        self._hash, self._hashed = hashlib.sha256(), 0  # of so many rows
        if path is not None and path.exists():
            self._columns, self.rows = _read(path)

    def __len__(self) -> int:
        return len(self.rows)

    def append(self, row: Row) -> None:
        """Add a row; it is in the file when this returns.

        Raises:
            OSError: it can't be written; the rows before it are safe.
        """
        if self.path is not None:
            if not self.path.exists() or not {*FIELDS, *row.extra} <= set(self._columns):
                self._write([*self.rows, row])
            else:
                with self.path.open("a", newline="") as file:
                    csv.writer(file).writerow(_cells(row, self._columns))
        self.rows.append(row)

    def keep(self, count: int) -> None:
        """Forget all rows after the first ``count``, in the file too.

        Raises:
            ValueError: there are fewer rows than that.
        """
        self._refuse_fewer(count)
        del self.rows[count:]
        if self.path is not None and self.path.exists():
            self._write(self.rows)

    def resume(self, saved: Mapping[str, Any] | None) -> None:
        """Go on from a checkpoint: forget the rows that came after it.

        Args:
            saved: the checkpoint, or None where there is none.

        Raises:
            ValueError: the rows are others than it knew, or there are rows and no checkpoint.
        """
        if saved is None and self.rows:
            raise ValueError(
                f"{self.path} has {len(self)} rows and no checkpoint is left to go on from. Train "
                "again as another run; the trace stays as it is."
            )
        self.refuse_other(saved)
        self.keep(saved["progress"]["rows"] if saved else 0)

    def refuse_other(self, saved: Mapping[str, Any] | None) -> None:
        """Check that the rows are those that a checkpoint was saved with.

        Raises:
            ValueError: they are others, or fewer.
        """
        count = saved["progress"]["rows"] if saved else 0
        known = (saved or {}).get("trace")  # version 0.1 saved none
        if known is not None and count <= len(self) and known != self.digest(count):
            raise ValueError(
                f"{self.path} is not the trace that the checkpoint was saved with: another run's, "
                "or changed since. Put the run's own back, or train again as another run."
            )
        self._refuse_fewer(count)

    def _refuse_fewer(self, count: int) -> None:
        if count > len(self.rows):
            raise ValueError(
                f"{self.path} has {len(self.rows)} rows where the checkpoint counts {count}: the "
                "file was changed after it was written."
            )

    def digest(self, count: int) -> str:
        """Return a hash of the first ``count`` rows, the same in memory and read from the file."""
        if count < self._hashed:
            self._hash, self._hashed = hashlib.sha256(), 0
        for row in self.rows[self._hashed : count]:
            numbers = [v if v is None or isinstance(v, str) else float(v) for v in row[:-1]]
            extra = sorted((name, float(value)) for name, value in row.extra.items())
            self._hash.update(repr((numbers, extra)).encode())
        self._hashed = max(self._hashed, count)
        return self._hash.hexdigest()

    def split(self, name: str) -> list[Row]:
        """Return the rows of one split, in order."""
        return [row for row in self.rows if row.split == name]

    def best(self) -> Row | None:
        """Return the validation row with the highest ELBO, or None before the first.

        Where rows have an ``objective``, that counts in the ELBO's place.
        """
        valid = self.split("valid")
        chosen = [row for row in valid if row.objective is not None]
        if chosen:
            return max(chosen, key=lambda row: row.objective or 0.0)
        return max(valid, key=lambda row: row.elbo, default=None)

    def _write(self, rows: list[Row]) -> None:
        """Write the whole file, with every column that a row has."""
        columns = tuple(dict.fromkeys([*FIELDS, *(name for row in rows for name in row.extra)]))
        assert self.path is not None
        with atomic(self.path) as partial, partial.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(_cells(row, columns) for row in rows)
        self._columns = columns


def _cells(row: Row, columns: Iterable[str]) -> list[object]:
    """Return a row's values in the order of the columns; None, an empty cell, where it has none."""
    return [getattr(row, name) if name in FIELDS else row.extra.get(name) for name in columns]


def _reader(hint: object) -> Callable[[str], int | float | str | None]:
    """Return what makes a field's value of its cell: empty is None where the field may be None."""
    for kind in (int, float):
        if hint in (kind, kind | None):
            return lambda cell: kind(cell) if cell or hint == kind else None
    return str


_READERS = {name: _reader(get_type_hints(Row)[name]) for name in FIELDS}


LARGEST = 2**28
"""Bytes of a trace that is read at all, some millions of rows."""


def _read(path: Path) -> tuple[tuple[str, ...], list[Row]]:
    """Read the whole lines; a last one without its end was cut off as it was written."""
    if (size := regular(path).stat().st_size) > LARGEST:
        raise ValueError(f"{path} is no trace: it has {size:,} bytes.")
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no trace: it is not text.") from None
    whole = text[: text.rfind("\n") + 1]
    if not whole:
        return (), []
    try:
        header, *lines = csv.reader(whole.splitlines())
    except csv.Error as error:
        raise ValueError(f"{path} is no trace: {error}.") from None
    missing = [name for name in REQUIRED if name not in header]
    twice = sorted({name for name in header if header.count(name) > 1})
    if missing or twice:
        fault = f"has no column {missing[0]!r}" if missing else f"names {twice[0]!r} twice"
        raise ValueError(
            f"{path} is no trace: its header {','.join(header)!r} {fault}. Expected each of "
            f"{','.join(REQUIRED)} once, in any order."
        )
    rows = [_row(f"{path}, line {n}", header, cells) for n, cells in enumerate(lines, start=2)]
    return tuple(header) if whole == text else (), rows  # no columns: the next row mends the file


def _row(place: str, header: list[str], cells: list[str]) -> Row:
    try:
        pairs = dict(zip(header, cells, strict=True))
        known = {name: _READERS[name](pairs[name]) for name in FIELDS if name in pairs}
        extra = {k: float(v) for k, v in pairs.items() if k not in FIELDS and v}
        if not isinstance(step := known["step"], int) or not 0 <= step < 2**63:
            raise ValueError("no step of a fit")
        return Row(**known, extra=extra)  # type: ignore[arg-type]
    except ValueError:
        raise ValueError(
            f"{place}: expected {','.join(header)}; got {','.join(cells)!r}."
        ) from None

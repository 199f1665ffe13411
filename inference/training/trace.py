"""ELBO traces: rows of a CSV file, appended as training goes."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..files import atomic


class Row(NamedTuple):
    """One line of a trace.

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


class Trace:
    """The rows of a run, in memory and, if it has a path, on disk as they come.

    Args:
        path: CSV file to continue; None keeps the trace in memory only.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.rows: list[Row] = list(_read(path)) if path is not None and path.exists() else []

    def __len__(self) -> int:
        return len(self.rows)

    def append(self, row: Row) -> None:
        """Add a row; it is in the file when this returns.

        Raises:
            OSError: it can't be written; the rows before it are safe.
        """
        if self.path is not None:
            header = not self.path.exists()
            with self.path.open("a", newline="") as file:
                writer = csv.writer(file)
                if header:
                    writer.writerow(Row._fields)
                writer.writerow(row)
        self.rows.append(row)

    def keep(self, count: int) -> None:
        """Forget all rows after the first ``count``, in the file too.

        Raises:
            ValueError: there are fewer rows than that.
        """
        if count > len(self.rows):
            raise ValueError(
                f"{self.path} has {len(self.rows)} rows where the checkpoint counts {count}: the "
                "file was changed after it was written."
            )
        del self.rows[count:]
        if self.path is not None and self.path.exists():
            with atomic(self.path) as partial, partial.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(Row._fields)
                writer.writerows(self.rows)

    def split(self, name: str) -> list[Row]:
        """Return the rows of one split, in order."""
        return [row for row in self.rows if row.split == name]

    def best(self) -> Row | None:
        """Return the validation row with the highest ELBO, or None before the first."""
        return max(self.split("valid"), key=lambda row: row.elbo, default=None)


def _read(path: Path) -> Iterator[Row]:
    """Read the whole lines; a last one without its end was cut off as it was written."""
    text = path.read_bytes().decode()
    lines = text[: text.rfind("\n") + 1].splitlines()
    for number, cells in enumerate(csv.reader(lines[1:]), start=2):
        try:
            step, epoch, seconds, split, elbo, reconstruction, kl, *code = cells
            units, collapsed = code or ("", "")  # a trace may be older than these two
            yield Row(
                int(step),
                float(epoch),
                float(seconds),
                split,
                float(elbo),
                float(reconstruction),
                float(kl),
                int(units) if units else None,
                float(collapsed) if collapsed else None,
            )
        except (ValueError, TypeError):
            raise ValueError(
                f"{path}, line {number}: expected {','.join(Row._fields)}; got {','.join(cells)!r}."
            ) from None

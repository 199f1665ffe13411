"""Sparse rows: kept compressed in memory, dense by the batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .rows import Rows


class SparseRows(Rows):
    """A matrix (N, D) as compressed sparse rows; what is taken from it is a dense tensor.

    Args:
        indptr: where each row begins among the values, (N + 1,).
        indices: column of each value.
        values: the numbers that are not 0.
        columns: number D of columns.

    Raises:
        ValueError: they are no compressed sparse rows of that many columns.
    """

    def __init__(self, indptr: Any, indices: Any, values: Any, columns: int) -> None:
        self.indptr, self.indices = (
            torch.as_tensor(np.asarray(a)).long() for a in (indptr, indices)
        )
        self.values = values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
        self.shape = torch.Size((len(self.indptr) - 1, columns))
        self.dtype, self.device = self.values.dtype, self.values.device
        counts = self.indptr.diff()
        inside = bool(((self.indices >= 0) & (self.indices < columns)).all())
        if (
            not len(self.indptr)
            or self.indptr[0] != 0
            or (counts < 0).any()
            or len(self.indices) != len(self.values)
            or self.indptr[-1] != len(self.values)
            or not inside
        ):
            raise ValueError(
                f"Expected compressed sparse rows of {columns:,} columns: indptr (N + 1,) rising "
                "from 0 to the number of values, and a column for each value."
            )

    def to(self, device: torch.device | str) -> "SparseRows":
        """Return the same rows on another device."""
        moved = SparseRows.__new__(SparseRows)
        moved.shape = self.shape
        for name in ("indptr", "indices", "values"):
            setattr(moved, name, getattr(self, name).to(device))
        moved.dtype, moved.device = moved.values.dtype, moved.values.device
        return moved

    def __getitem__(self, rows: Tensor | slice | Sequence[int]) -> Tensor:
        """Return rows as a dense tensor (B, D), in the order in which they are named."""
        places = torch.arange(len(self), device=self.device)[rows]
        begins, counts = self.indptr[places], self.indptr[places + 1] - self.indptr[places]
        row = torch.arange(len(places), device=self.device).repeat_interleave(counts)
        within = torch.arange(len(row), device=self.device)
        within -= (counts.cumsum(0) - counts).repeat_interleave(counts)
        at = begins.repeat_interleave(counts) + within
        dense = self.values.new_zeros(len(places), self.shape[1])
        return dense.index_put_((row, self.indices[at]), self.values[at], accumulate=True)

    def take(self, rows: Tensor) -> "SparseRows":
        """Return some rows, sparse as they are."""
        begins, counts = self.indptr[rows], self.indptr[rows + 1] - self.indptr[rows]
        ends = counts.cumsum(0)
        within = torch.arange(int(counts.sum())) - (ends - counts).repeat_interleave(counts)
        at = begins.repeat_interleave(counts) + within
        indptr = torch.cat([ends.new_zeros(1), ends])
        return SparseRows(indptr, self.indices[at], self.values[at], self.shape[1])

"""Rows that are no tensor: what a split needs of them, and those of an array that stays on disk."""

import mmap
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .looking import as_values

ON_DISK = 2**30
"""Bytes above which an array file stays on disk unless it is said otherwise."""


HELD = 2**26
"""Bytes of its pages that a process may hold before it gives them back."""

AROUND = 2**20
"""Bytes that the system may map around a row that is read: its cache has large pages."""


class Rows(ABC):
    """Values (N, *event_shape) in the place of a tensor; what is taken from them is one.

    Attributes:
        shape: (N, *event_shape).
        dtype: of what is taken.
        device: where that is put.
    """

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    on_disk = False
    """Whether a thread of its own should gather them, ahead of the step that takes them."""

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def __getitem__(self, rows: Any) -> Tensor:
        """Return rows, a slice of them or those at places, as a dense tensor."""

    @abstractmethod
    def take(self, rows: Tensor) -> "Rows":
        """Return some rows, held as these are."""

    @abstractmethod
    def to(self, device: torch.device | str) -> "Rows":
        """Return the same rows, whose tensors are on another device."""


class MappedRows(Rows):
    """An array on disk, of which a row is read when it is asked for.

    Pages that were read are given back soon: the system may keep them, the process does not.

    Args:
        array: memory-mapped, (N, *event_shape), as ``numpy.load(FILE, mmap_mode="r")``.
        places: which of its rows these are, ascending; None for all.
        device: where rows that are taken go.

    Attributes:
        looked: what was found wrong with the values, by the view that they were looked at for.

    Raises:
        TypeError: it holds no numbers.
        ValueError: it is one number.
    """

    on_disk = True

    def __init__(
        self,
        array: np.memmap,
        places: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        first = _as_tensor(np.array(array[:1]))
        self._array, self._places = array, places
        self.device, self.dtype = torch.device(device), first.dtype
        self._touched = 0
        self.looked: dict[str, str | None] = {}
        self.shape = torch.Size((len(array) if places is None else len(places), *first.shape[1:]))

    def __repr__(self) -> str:
        return f"MappedRows({self.file}, {tuple(self.shape)}, {self.dtype})"

    @property
    def file(self) -> Path:
        """Where the array is."""
        return Path(str(self._array.filename))

    def __getitem__(self, rows: Any) -> Tensor:
        """Return rows, in the order in which they are named.

        Raises:
            OSError: the file has become shorter.
        """
        found = self.read(rows)
        if self.device.type == "cuda":
            return found.pin_memory().to(self.device, non_blocking=True)
        return found.to(self.device)

    def read(self, rows: Any) -> Tensor:
        """Return rows on the CPU, whatever the device.

        Raises:
            OSError: the file has become shorter.
        """
        needed = self._array.offset + self._array.nbytes
        if self.file.stat().st_size < needed:  # reading beyond its end kills a process
            raise OSError(f"{self.file} has become shorter since it was opened.")
        if isinstance(rows, slice) and self._places is None:
            found = np.array(self._array[rows])
            self._touched += found.nbytes
        else:
            places = self._places if self._places is not None else torch.arange(len(self))
            at = places[rows.cpu() if isinstance(rows, Tensor) else rows].numpy()
            found = np.take(self._array, at, axis=0)
            self._touched += max(found.nbytes, len(at) * AROUND)
        if self._touched > HELD:
            self._touched = 0
            with suppress(AttributeError, OSError, ValueError):  # elsewhere than on Linux
                self._array._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]  # noqa: SLF001
        return _as_tensor(found)

    def take(self, rows: Tensor) -> "MappedRows":
        """Return some rows, which stay on disk, in the order of the file."""
        places = rows if self._places is None else self._places[rows]
        return MappedRows(self._array, places.sort().values, self.device)

    def to(self, device: torch.device | str) -> "MappedRows":
        """Return the same rows, which go to another device as they are taken."""
        moved = MappedRows(self._array, self._places, device)
        moved.looked = self.looked
        return moved


def _as_tensor(values: np.ndarray) -> Tensor:
    found = as_values(values, "the array")
    return found.to(torch.uint8) if found.dtype == torch.bool else found

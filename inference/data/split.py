"""A split: values as they are stored, how they become x, and what comes with them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..programs import Batch
from .looking import BLOCK, as_values, first_wrong, not_allowed
from .rows import MappedRows, Rows
from .views import AsIs, View

ALL = slice(None)


@dataclass(frozen=True)
class Split:
    """One part of a data set, whole on one device.

    Args:
        stored: values (N, *event_shape), as compact as their file; `SparseRows` in the place of a
            tensor too, or a ``numpy.memmap``, which stays on disk (`MappedRows`).
        view: how they become x.
        labels: class of each datum (N,), or None; a pair never sees them.
        given: what a batch carries besides x, each (N, ...): labels, lengths of sequences. With
            one or more of them a batch is a tuple, and the pair is called as ``model(*batch)``.
        mask: True where x is observed, (N, *event_shape); None where nothing is missing. A batch
            then is (x, mask, *given), x with zeros where it is missing, whatever is stored there.
    """

    stored: Tensor
    view: View = AsIs()  # noqa: RUF009  (frozen)
    labels: Tensor | None = None
    given: tuple[Tensor, ...] = ()
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if isinstance(self.stored, np.memmap):
            object.__setattr__(self, "stored", MappedRows(self.stored))
        if not isinstance(self.stored, Rows):
            object.__setattr__(self, "stored", as_values(self.stored, "stored values"))
        if not isinstance(self.given, tuple):
            raise TypeError(f"Expected given as a tuple; got {type(self.given).__name__}.")
        given = tuple(as_values(each, f"given[{n}]") for n, each in enumerate(self.given))
        object.__setattr__(self, "given", given)
        beside = {f"given[{n}]": each for n, each in enumerate(given)}
        if self.labels is not None:
            object.__setattr__(self, "labels", as_values(self.labels, "labels"))
            beside["labels"] = self.labels
        if self.mask is not None:
            object.__setattr__(self, "mask", as_values(self.mask, "mask").bool())
            if self.mask.shape != self.stored.shape:
                raise ValueError(
                    f"Expected a mask of the shape of x, {tuple(self.stored.shape)}; got "
                    f"{tuple(self.mask.shape)}."
                )
        for name, each in beside.items():
            if len(each) != len(self.stored):
                raise ValueError(
                    f"There are {len(self.stored):,} data and {len(each):,} rows of {name}: "
                    "expected one for each datum, in the same order."
                )

    def __len__(self) -> int:
        return len(self.stored)

    def wrong(self, name: str) -> str | None:
        """Return the first value that is not finite, or not one that the view is for, in words.

        Args:
            name: of the split, as ``train``.
        """
        if found := self._wrong_value():
            return f"{name}{found}"
        found = (
            first_wrong(each, ~each.isfinite(), f"{name}.given[{n}]")
            for n, each in enumerate(self.given)
        )
        return next(filter(None, found), None)

    def _wrong_value(self) -> str | None:
        looked = self.stored.looked if isinstance(self.stored, MappedRows) else {}
        if (known := repr(self.view)) not in looked:  # 4 GB are not looked at twice
            looked[known] = not_allowed(self.view, self._known, len(self))
        return looked[known]

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one datum."""
        return tuple(self.stored.shape[1:])

    @property
    def unit(self) -> str:
        """What one datum's log p(x) is the logarithm of."""
        return self.view.unit + ("" if self.mask is None else " of the observed entries")

    @property
    def device(self) -> torch.device:
        """Where the data live."""
        return self.stored.device

    @property
    def on_disk(self) -> bool:
        """Whether the values stay on disk, so that a row is read when it is asked for."""
        return isinstance(self.stored, Rows) and self.stored.on_disk

    def at(self, indices: Tensor | slice) -> "Split":
        """Return the data at these places as a split of its own."""
        labels = None if self.labels is None else _rows(self.labels, indices)
        given = tuple(_rows(each, indices) for each in self.given)
        mask = None if self.mask is None else _rows(self.mask, indices)
        stored = _rows(self.stored, indices)
        return replace(self, stored=stored, labels=labels, given=given, mask=mask)

    def x(self, indices: Tensor | slice) -> Tensor:
        """Return x (B, *event_shape) of the data at these places, drawn now if the view draws."""
        return self._x(_rows(self.stored, indices), indices)

    def batch(self, indices: Tensor | slice) -> Batch:
        """Return the arguments of the pair: x, or with more given a tuple that starts with x."""
        return self.batch_of(_rows(self.stored, indices), indices)

    def batch_of(self, stored: Tensor, indices: Tensor | slice) -> Batch:
        """Return the same where the values at these places have been read, (B, *event_shape)."""
        x = self._x(stored, indices)
        more = self.given if self.mask is None else (self.mask, *self.given)
        return (x, *(_rows(each, indices) for each in more)) if more else x

    def batches(self, size: int) -> Iterator[Batch]:
        """Return all data in their order, in batches of that size; the last may be smaller."""
        for start in range(0, len(self), size):
            yield self.batch(slice(start, start + size))

    def _x(self, stored: Tensor, indices: Tensor | slice) -> Tensor:
        x = self.view(self._without_missing(stored, indices))
        return x if self.mask is None else x * _rows(self.mask, indices)

    def _without_missing(self, stored: Tensor, indices: Tensor | slice) -> Tensor:
        """Return stored values, zeros where they are missing."""
        if self.mask is None:
            return stored
        return stored.where(_rows(self.mask, indices), torch.zeros((), dtype=stored.dtype))

    def _known(self, indices: Tensor | slice) -> Tensor:
        return self._without_missing(_rows(self.stored, indices), indices)

    def log_det(self, indices: Tensor | slice = ALL) -> Tensor | None:
        """Return log abs det dx / dv of these data, (B,), nats; None where x is no scaled v.

        What is added to log p(x) for the density of the values v as they are stored.
        """
        if self.on_disk and isinstance(indices, slice):  # not all of them at once
            places = torch.arange(len(self))[indices]
            parts = [self.log_det(some) for some in places.split(BLOCK)]
            return None if parts[0] is None else torch.cat([p for p in parts if p is not None])
        mask = None if self.mask is None else _rows(self.mask, indices)
        return self.view.log_det(_rows(self.stored, indices), mask)

    @cached_property
    def mean_log_det(self) -> float:
        """The mean of `log_det`, or 0."""
        found = self.log_det()
        return 0.0 if found is None else found.mean().item()

    def sample(self, size: int) -> Batch:
        """Return a batch of so many data drawn without replacement, or of all."""
        return self.batch(torch.randperm(len(self), device=self.device)[:size])

    def to(self, device: torch.device | str) -> "Split":
        """Return the same split on another device."""
        labels = None if self.labels is None else self.labels.to(device)
        given = tuple(each.to(device) for each in self.given)
        mask = None if self.mask is None else self.mask.to(device)
        stored = self.stored.to(device)
        return replace(self, stored=stored, labels=labels, given=given, mask=mask)


def _rows(values: Tensor | Rows, indices: Tensor | slice) -> Tensor:
    if isinstance(indices, slice) or isinstance(values, Rows):
        return values[indices]
    return values.index_select(0, indices)

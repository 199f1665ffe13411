"""Data as records: tensors on a device, split in three, with a content hash."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..programs import Batch
from .looking import as_values, first_wrong
from .sparse import SparseRows
from .views import AsIs, View

ALL = slice(None)

BLOCK = 4096
"""Data that are looked at, or hashed, at a time."""


@dataclass(frozen=True)
class Split:
    """One part of a data set, whole on one device.

    Args:
        stored: values (N, *event_shape), as compact as their file; `SparseRows` in the place of a
            tensor too.
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
        if not isinstance(self.stored, SparseRows):
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
        for start in range(0, len(self), BLOCK):
            some = self._known(slice(start, start + BLOCK))
            if found := first_wrong(some, ~self.view.allows(some), name, start):
                return f"{found}, and {self.view} takes {self.view.takes}"
        found = (
            first_wrong(each, ~each.isfinite(), f"{name}.given[{n}]")
            for n, each in enumerate(self.given)
        )
        return next(filter(None, found), None)

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

    def at(self, indices: Tensor | slice) -> "Split":
        """Return the data at these places as a split of its own."""
        labels = None if self.labels is None else _rows(self.labels, indices)
        given = tuple(_rows(each, indices) for each in self.given)
        mask = None if self.mask is None else _rows(self.mask, indices)
        stored = _rows(self.stored, indices)
        return replace(self, stored=stored, labels=labels, given=given, mask=mask)

    def x(self, indices: Tensor | slice) -> Tensor:
        """Return x (B, *event_shape) of the data at these places, drawn now if the view draws."""
        x = self.view(self._known(indices))
        return x if self.mask is None else x * _rows(self.mask, indices)

    def batch(self, indices: Tensor | slice) -> Batch:
        """Return the arguments of the pair: x, or with more given a tuple that starts with x."""
        x = self.x(indices)
        more = self.given if self.mask is None else (self.mask, *self.given)
        return (x, *(_rows(each, indices) for each in more)) if more else x

    def _known(self, indices: Tensor | slice) -> Tensor:
        """Return stored values, zeros where they are missing."""
        stored = _rows(self.stored, indices)
        if self.mask is None:
            return stored
        return stored.where(_rows(self.mask, indices), torch.zeros((), dtype=stored.dtype))

    def log_det(self, indices: Tensor | slice = ALL) -> Tensor | None:
        """Return log abs det dx / dv of these data, (B,), nats; None where x is no scaled v.

        What is added to log p(x) for the density of the values v as they are stored.
        """
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


@dataclass(frozen=True)
class Dataset:
    """Three splits of the same kind of data; model choice sees valid, only the end sees test.

    >>> import torch
    >>> from inference.data import Binary, Dataset, Split
    >>> bits = torch.bernoulli(torch.full((60, 1, 8, 8), 0.3))
    >>> train, valid, test = (Split(part, Binary()) for part in bits.split([40, 10, 10]))
    >>> data = Dataset("mine", train, valid, test)
    >>> data.unit
    'nats of P(x), x in {0, 1}'

    Args:
        name: what a user calls it.
        train: what the parameters learn from.
        valid: what models are chosen on.
        test: what is reported.
        protocol: how the splits were made, in words.

    Raises:
        ValueError: the splits differ in shape or type, or hold a value that is not finite or not
            one that their view is for; the message names split, index and value.
    """

    name: str
    train: Split
    valid: Split
    test: Split
    protocol: str = ""

    def __post_init__(self) -> None:
        for name in ("train", "valid", "test"):
            split = getattr(self, name)
            if not isinstance(split, Split):
                raise TypeError(
                    f"Expected {name} as a Split, as Split(values, Binary()); got "
                    f"{type(split).__name__}."
                )
            for what, first, other in (
                ("shape", self.train.event_shape, split.event_shape),
                ("type", self.train.stored.dtype, split.stored.dtype),
            ):
                if first != other:
                    raise ValueError(
                        f"{self.name}: the {what} of a datum is {first} in train and {other} in "
                        f"{name}; expected the same in every split."
                    )
            if found := split.wrong(name):
                raise ValueError(
                    f"{self.name}: {found}. Mend it or leave it out, or give the split another "
                    "view of its values."
                )

    @classmethod
    def from_arrays(
        cls,
        x: Any,
        *,
        y: Any = None,
        given: Mapping[str, Any] | None = None,
        view: View | None = None,
        split: Sequence[float] = (0.8, 0.1, 0.1),
        seed: int = 0,
        name: str = "data",
    ) -> "Dataset":
        """Make a data set of arrays, tensors or frames.

        >>> import torch
        >>> from inference.data import Dataset
        >>> data = Dataset.from_arrays(torch.randn(100, 5))
        >>> len(data.train), len(data.valid), len(data.test), data.train.view.takes
        (80, 10, 10, 'finite numbers')

        Args:
            x: values (N, *event_shape), to be split; or those of ``train``, ``valid`` and ``test``
                by these names, which are taken as they are. Without ``valid`` it is split off.
            y: label of each datum, (N,), given in a batch after x; in splits where x is.
            given: what else a batch carries, (N, ...) each, by name, in their order; a ``mask`` is
                True where x is observed, as x is where it is no NaN.
            view: how values become x; None takes what `default_view` says.
            split: shares of train, valid and test.
            seed: of the permutation before the split.
            name: what a user calls the data.

        Raises:
            TypeError: something is no array of numbers.
            ValueError: lengths, shapes or shares don't fit, or a value is not one for the view.
        """
        from .arrays import from_arrays  # it makes data sets

        return from_arrays(x, y, given or {}, view, split, seed, name)

    def of_x_alone(self) -> "Dataset":
        """Return the same data with nothing given beside x."""
        train, valid, test = (replace(s, given=()) for s in (self.train, self.valid, self.test))
        return replace(self, train=train, valid=valid, test=test)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one datum."""
        return self.train.event_shape

    @property
    def unit(self) -> str:
        """What one datum's log p(x) is the logarithm of."""
        return self.train.unit

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the three splits' values, labels given, and views: 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for split in (self.train, self.valid, self.test):
            mask = () if split.mask is None else (split.mask,)
            for values in (split.stored, *mask, *split.given):
                digest.update(f"{split.view!r} {values.dtype} {tuple(values.shape)}".encode())
                for start in range(0, len(values), BLOCK):
                    some = _rows(values, slice(start, start + BLOCK)).cpu().contiguous()
                    digest.update(some.numpy().tobytes())
        return digest.hexdigest()[:16]

    def split(self, name: str) -> Split:
        """Return the split of that name.

        Raises:
            ValueError: the name is not train, valid or test.
        """
        if name not in ("train", "valid", "test"):
            raise ValueError(f"Expected split train, valid or test; got {name!r}.")
        return getattr(self, name)

    def to(self, device: torch.device | str) -> "Dataset":
        """Return the same data on another device."""
        return replace(
            self,
            train=self.train.to(device),
            valid=self.valid.to(device),
            test=self.test.to(device),
        )


def _rows(values: Tensor | SparseRows, indices: Tensor | slice) -> Tensor:
    if isinstance(indices, slice) or isinstance(values, SparseRows):
        return values[indices]
    return values.index_select(0, indices)

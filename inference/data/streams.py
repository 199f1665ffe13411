"""Batches that come from elsewhere: an iterable with a length in the place of a data set."""

from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ..programs import Batch, as_tuple
from .split import Split
from .views import AsIs


@dataclass(frozen=True)
class Stream:
    """An iterable of batches with a length, as a torch ``DataLoader``.

    Args:
        source: gives an epoch's batches each time that it is iterated over: each a tensor x
            (B, *event_shape), or a tuple or list that starts with x.
        size: number N of data; None takes that of ``source.dataset``.
        device: where batches go.

    Raises:
        TypeError: it has no length, or can be iterated over only once.
        ValueError: it has no batches, or the number of data is not known.
    """

    source: Any
    size: int | None = None
    device: torch.device = torch.device("cpu")  # noqa: RUF009  (immutable)

    def __post_init__(self) -> None:
        if not isinstance(self.source, Iterable) or isinstance(self.source, Iterator):
            raise TypeError(
                f"Expected batches that can be gone through in each epoch, as a DataLoader or a "
                f"list; got {type(self.source).__name__}."
            )
        dataset = getattr(self.source, "dataset", None)
        endless = isinstance(dataset, IterableDataset) and not isinstance(dataset, Sized)
        if endless or not isinstance(self.source, Sized):
            raise TypeError(
                f"{type(self.source).__name__} has no length, and schedules and progress count in "
                "epochs: give it __len__, the number of its batches."
            )
        if not len(self.source):
            raise ValueError(f"{type(self.source).__name__} has no batches.")
        if self.size is None and isinstance(dataset, Sized):
            object.__setattr__(self, "size", len(dataset))
        if self.size is None:
            raise ValueError(
                f"{type(self.source).__name__} doesn't say how many data it has, which sites "
                "outside the data plate need: Stream(batches, size=N)."
            )

    def __len__(self) -> int:
        return self.size or 0

    @property
    def steps(self) -> int:
        """Number of batches of an epoch."""
        return len(self.source)

    @property
    def mean_log_det(self) -> float:
        """No view of the project made x: 0."""
        return 0.0

    @property
    def again(self) -> bool:
        """Whether the same random states give the same batches again."""
        data = getattr(self.source, "dataset", None)
        return isinstance(self.source, DataLoader) and not isinstance(data, IterableDataset)

    def batches(self, size: int | None = None) -> Iterator[Batch]:  # noqa: ARG002  (a split's own)
        """Return an epoch's batches on the device, tuples where more than x is in them."""
        for batch in self.source:
            parts = batch if isinstance(batch, tuple | list) else (batch,)
            if wrong := [each for each in parts if not isinstance(each, Tensor)]:
                raise TypeError(f"A batch holds a {type(wrong[0]).__name__}: expected tensors.")
            first, *more = (each.to(self.device, non_blocking=True) for each in parts)
            yield (first, *more) if more else first

    def to(self, device: torch.device | str) -> "Stream":
        """Return the same batches on another device."""
        return replace(self, device=torch.device(device))


@dataclass(frozen=True)
class Streams:
    """Training data that come in batches, and what models are chosen on, in a data set's place.

    Args:
        train: iterable of batches with a length, or a `Stream`.
        valid: the same, or a `Split`.
        name: what a user calls them. It stands for their content, of which there is no hash.
        unit: what one datum's log p(x) is the logarithm of.
    """

    train: Stream
    valid: Stream | Split
    name: str = "stream"
    unit: str = AsIs().unit

    parts = ("train", "valid")
    protocol = "batches in an order of their own"

    def __post_init__(self) -> None:
        for name in ("train", "valid"):
            if not isinstance(given := getattr(self, name), Stream | Split):
                object.__setattr__(self, name, Stream(given))
        if isinstance(self.train, Split):
            raise TypeError("Expected train in batches; three splits make a Dataset.")

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one datum."""
        return tuple(as_tuple(next(self.train.batches()))[0].shape[1:])

    @property
    def content_hash(self) -> str:
        """Their name: what passes by is not hashed."""
        return f"stream {self.name}"

    def split(self, name: str) -> Stream | Split:
        """Return one part by its name, train or valid."""
        return self.train if name == "train" else self.valid

    def to(self, device: torch.device | str) -> "Streams":
        """Return the same on another device."""
        return replace(self, train=self.train.to(device), valid=self.valid.to(device))

"""Data as records: tensors on a device, split in three, with a content hash."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ..programs import Batch
from .views import AsIs, View


@dataclass(frozen=True)
class Split:
    """One part of a data set, whole on one device.

    Args:
        stored: values (N, *event_shape), as compact as their file.
        view: how they become x.
        labels: class of each datum (N,), or None; a pair never sees them.
        given: what a batch carries besides x, each (N, ...): labels, lengths of sequences. With
            one or more of them a batch is a tuple, and the pair is called as ``model(*batch)``.
    """

    stored: Tensor
    view: View = AsIs()  # noqa: RUF009  (frozen)
    labels: Tensor | None = None
    given: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one datum."""
        return tuple(self.stored.shape[1:])

    @property
    def device(self) -> torch.device:
        """Where the data live."""
        return self.stored.device

    def x(self, indices: Tensor | slice) -> Tensor:
        """Return x (B, *event_shape) of the data at these places, drawn now if the view draws."""
        return self.view(_rows(self.stored, indices))

    def batch(self, indices: Tensor | slice) -> Batch:
        """Return the arguments of the pair: x, or with more given a tuple that starts with x."""
        x = self.x(indices)
        return (x, *(_rows(each, indices) for each in self.given)) if self.given else x

    def sample(self, size: int) -> Batch:
        """Return a batch of so many data drawn without replacement, or of all."""
        return self.batch(torch.randperm(len(self), device=self.device)[:size])

    def to(self, device: torch.device | str) -> "Split":
        """Return the same split on another device."""
        labels = None if self.labels is None else self.labels.to(device)
        given = tuple(each.to(device) for each in self.given)
        return replace(self, stored=self.stored.to(device), labels=labels, given=given)


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
    """

    name: str
    train: Split
    valid: Split
    test: Split
    protocol: str = ""

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one datum."""
        return self.train.event_shape

    @property
    def unit(self) -> str:
        """What one datum's log p(x) is the logarithm of."""
        return self.train.view.unit

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the three splits' values, labels given, and views: 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for split in (self.train, self.valid, self.test):
            for values in (split.stored, *split.given):
                stored = values.cpu().contiguous()
                digest.update(f"{split.view} {stored.dtype} {tuple(stored.shape)}".encode())
                digest.update(stored.numpy().tobytes())
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


def _rows(values: Tensor, indices: Tensor | slice) -> Tensor:
    return values[indices] if isinstance(indices, slice) else values.index_select(0, indices)

"""Data as records: tensors on a device, how the stored values become x, a content hash."""

import hashlib
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from .programs import Batch


class View(ABC):
    """How stored values become x, on the device of the batch."""

    is_mass: bool | None = None
    """Whether log p(x) is that of a probability; False of a density, None where it is not known."""

    @property
    @abstractmethod
    def unit(self) -> str:
        """What one datum's log p(x) is the logarithm of; runs of two units never compare."""

    @abstractmethod
    def __call__(self, stored: Tensor) -> Tensor:
        """Turn stored values (B, *event_shape) into x, float, of the same shape."""

    def field_units(self, stored: Tensor, log_px: Tensor) -> dict[str, float]:  # noqa: ARG002
        """Return what the field calls log p(x) in, by name; nothing where nats are its unit.

        Args:
            stored: values (N, *event_shape).
            log_px: log p(x) of each datum, nats, (N,).
        """
        return {}


@dataclass(frozen=True)
class AsIs(View):
    """x is the stored value."""

    @property
    def unit(self) -> str:
        """Nothing is known of the values."""
        return "nats of x as given"

    def __call__(self, stored: Tensor) -> Tensor:
        """Return the values as floats."""
        return stored.to(torch.get_default_dtype())


@dataclass(frozen=True)
class Binarised(View):
    """x is drawn anew at each access: 1 with probability v / levels, to 2^-17; 0 and 1 exactly.

    Four pixels share 64 random bits: they are most of the cost, a tenth of a training step.

    Args:
        levels: the stored value of full ink.
    """

    levels: int
    is_mass = True

    @property
    def unit(self) -> str:
        """The probability of bits."""
        return "nats of P(x), x in {0, 1}"

    def __call__(self, stored: Tensor) -> Tensor:
        """Draw the pixels on the stored tensor's device."""
        size, wide = stored.numel(), torch.iinfo(torch.int64)
        words = torch.randint(wide.min, wide.max, ((size + 3) // 4,), device=stored.device)
        uniform = words.view(torch.int16)[:size].view(stored.shape)  # -2^15, ..., 2^15 - 1
        below = stored.to(torch.float32).mul_(2**16 / self.levels).sub_(2**15 + 0.5)
        return uniform.lt(below).to(torch.get_default_dtype())


@dataclass(frozen=True)
class Binary(View):
    """x is the stored 0 or 1."""

    is_mass = True

    @property
    def unit(self) -> str:
        """The probability of bits."""
        return "nats of P(x), x in {0, 1}"

    def __call__(self, stored: Tensor) -> Tensor:
        """Return the bits as floats."""
        return stored.to(torch.get_default_dtype())


@dataclass(frozen=True)
class Counts(View):
    """x is the stored count 0, ..., levels.

    Args:
        levels: the largest count.
    """

    levels: int
    is_mass = True

    def field_units(self, stored: Tensor, log_px: Tensor) -> dict[str, float]:
        """Return bits per dimension."""
        return {"bits_per_dim": bits_per_dim(stored, log_px)}

    @property
    def unit(self) -> str:
        """The probability of whole counts."""
        return f"nats of P(x), x in {{0, ..., {self.levels}}}"

    def __call__(self, stored: Tensor) -> Tensor:
        """Return the counts as floats."""
        return stored.to(torch.get_default_dtype())


@dataclass(frozen=True)
class Grey(View):
    """x = v / levels in [0, 1], for continuous likelihoods.

    Args:
        levels: the stored value of full ink.
    """

    levels: int
    is_mass = False

    @property
    def unit(self) -> str:
        """A density, so that another scale of x shifts it."""
        return "nats of a density on x in [0, 1]"

    def __call__(self, stored: Tensor) -> Tensor:
        """Return the grey values as floats."""
        return stored.to(torch.get_default_dtype()) / self.levels


@dataclass(frozen=True)
class Split:
    """One part of a data set, whole on one device.

    Args:
        stored: values (N, *event_shape), as compact as their file.
        view: how they become x.
        labels: class of each datum (N,), or None; a pair never sees them.
        given: what a batch carries beside x, each (N, ...): labels, lengths of sequences. With
            one or more of them a batch is a tuple, and the pair is called as ``model(*batch)``.
    """

    stored: Tensor
    view: View = AsIs()
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
        """Return what the pair is called with: x, or where more is given a tuple with x first."""
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

    Args:
        name: how a user asks for it.
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
            ValueError: the name is none of train, valid and test.
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


def bits_per_dim(stored: Tensor, log_px: Tensor) -> float:
    """Return -log2 p(x) per element of x, from nats per datum."""
    return -log_px.mean().item() / (math.prod(stored.shape[1:]) * math.log(2))

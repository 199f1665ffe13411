"""Data as records: three splits, with a content hash."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from .looking import digest
from .split import ALL, Split
from .views import View

__all__ = ["ALL", "Dataset", "Split"]


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

    parts = ("train", "valid", "test")

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
        return digest(getattr(self, name) for name in ("train", "valid", "test"))

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

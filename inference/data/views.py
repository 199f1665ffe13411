"""Views: how stored values become x, the unit of log p(x), and the field's own units for it."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .looking import BLOCK, whole


class View(ABC):
    """How stored values become x, on the device of the batch."""

    is_mass: bool | None = None
    """Whether log p(x) is that of a probability; False for a density, None if that is not known."""

    @property
    @abstractmethod
    def unit(self) -> str:
        """What one datum's log p(x) is the logarithm of; runs of two units don't compare."""

    @abstractmethod
    def __call__(self, stored: Tensor) -> Tensor:
        """Turn stored values (B, *event_shape) into x, float, of the same shape."""

    takes: str = "finite numbers"
    """What stored values may be, in words."""

    def allows(self, stored: Tensor) -> Tensor:
        """Return for each stored value whether it is one that this view takes."""
        return stored.isfinite()

    def fitted(self, stored: Tensor) -> "View":  # noqa: ARG002
        """Return the view with what it takes from the training values (N, *event_shape)."""
        return self

    def log_det(
        self,
        stored: Tensor,  # noqa: ARG002
        mask: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor | None:
        """Return what to add to log p(x) for the density of the stored values, (B,); None if 0.

        Args:
            stored: values (B, *event_shape).
            mask: True where they are observed; None if all are.
        """
        return None

    def undo(self, x: Tensor) -> Tensor:
        """Return x, or a mean of it, in the units of stored values, float."""
        return x

    def field_units(self, stored: Tensor, log_px: Tensor) -> dict[str, float]:  # noqa: ARG002
        """Return log p(x) in the field's own units, by name; empty if nats are its unit.

        Args:
            stored: values (N, *event_shape).
            log_px: log p(x) of each datum, nats, (N,).
        """
        return {}


@dataclass(frozen=True)
class Levelled(View):
    """A view of values from 0 to a largest one.

    Args:
        levels: that one, as of full ink; 0 takes it from the training values in `fitted`: 255 of
            bytes, 1 of fractions, else the largest.
    """

    levels: int = 0

    def fitted(self, stored: Tensor) -> "Levelled":
        """Return the view with its levels."""
        if self.levels or not len(stored):
            return self
        if stored.dtype == torch.uint8:
            return replace(self, levels=255)
        blocks = (stored[start : start + BLOCK] for start in range(0, len(stored), BLOCK))
        most = max(math.ceil(block.nan_to_num(0).max().item()) for block in blocks)
        return replace(self, levels=max(1, most))


@dataclass(frozen=True)
class AsIs(View):
    """x is the stored value.

    Args:
        keep_dtype: leave numbers of the type that they have, as whole ones for an embedding, or 64
            bits for networks of 64 bits; else they are floats of torch's default type.
    """

    keep_dtype: bool = False

    @property
    def unit(self) -> str:
        """Nothing is known of the values."""
        return "nats of x as given"

    def __call__(self, stored: Tensor) -> Tensor:
        """Return the values, as floats unless it is to keep their type."""
        return stored if self.keep_dtype else stored.to(torch.get_default_dtype())


@dataclass(frozen=True)
class Binarised(Levelled):
    """x is drawn again at each access: 1 with probability v / levels, to 2^-17; 0 and 1 exactly.

    Four pixels share 64 random bits: they are most of the cost, a tenth of a training step.

    Args:
        levels: the stored value of full ink.
    """

    is_mass = True
    takes = "numbers from 0 to its levels"

    def allows(self, stored: Tensor) -> Tensor:
        """Return for each stored value whether it is one of these."""
        return (stored >= 0) & (stored <= self.levels)

    @property
    def unit(self) -> str:
        """The probability of bits."""
        return "nats of P(x), x in {0, 1}"

    def undo(self, x: Tensor) -> Tensor:
        """Return x in the units of stored values."""
        return x * self.levels

    def __call__(self, stored: Tensor) -> Tensor:
        """Draw the pixels on the stored tensor's device."""
        size, wide = stored.numel(), torch.iinfo(torch.int64)
        words = torch.randint(wide.min, wide.max, ((size + 3) // 4,), device=stored.device)
        uniform = words.view(torch.int16)[:size].view(stored.shape)  # -2^15, ..., 2^15 - 1
        below = stored.to(torch.float32, copy=True).mul_(2**16 / self.levels).sub_(2**15 + 0.5)
        return uniform.lt(below).to(torch.get_default_dtype())


@dataclass(frozen=True)
class Binary(View):
    """x is the stored 0 or 1."""

    is_mass = True
    takes = "0 and 1"

    def allows(self, stored: Tensor) -> Tensor:
        """Return for each stored value whether it is one of these."""
        return (stored == 0) | (stored == 1)

    @property
    def unit(self) -> str:
        """The probability of bits."""
        return "nats of P(x), x in {0, 1}"

    def __call__(self, stored: Tensor) -> Tensor:
        """Return the bits as floats."""
        return stored.to(torch.get_default_dtype())


@dataclass(frozen=True)
class AnyCounts(View):
    """x is the stored count, without a largest one."""

    is_mass = True
    takes = "whole numbers from 0 on"

    def allows(self, stored: Tensor) -> Tensor:
        """Return for each stored value whether it is one of these."""
        return whole(stored)

    @property
    def unit(self) -> str:
        """The probability of all counts of a datum, their total too."""
        return "nats of P(x), x whole counts"

    def __call__(self, stored: Tensor) -> Tensor:
        """Return the counts as floats."""
        return stored.to(torch.get_default_dtype())


@dataclass(frozen=True)
class Words(View):
    """x is the stored count of each word of a vocabulary; a document's length is taken as given."""

    is_mass = True
    takes = "whole numbers from 0 on"

    def allows(self, stored: Tensor) -> Tensor:
        """Return for each stored value whether it is one of these."""
        return whole(stored)

    @property
    def unit(self) -> str:
        """The probability of a bag of words among those of its length."""
        return "nats of P(x given its total), x counts of words"

    def __call__(self, stored: Tensor) -> Tensor:
        """Return the counts as floats."""
        return stored.to(torch.get_default_dtype())

    def field_units(self, stored: Tensor, log_px: Tensor) -> dict[str, float]:
        r"""Return the perplexity per word, :math:`\exp(-\frac1N\sum_n \frac1{l_n}\log p(w_n))`.

        log p(w) is that of the words in their order, log p(x) less the logarithm of the number of
        orders; documents count alike, whatever their length l; empty ones are left out. Source:
        Miao et al. 2016, arXiv 1511.06038.
        """
        words, lengths = torch.empty_like(log_px), torch.empty_like(log_px)
        for places in torch.arange(len(stored)).split(1000):
            x = stored[places.to(stored.device)].flatten(1).double()
            orders = torch.lgamma(x.sum(1) + 1) - torch.lgamma(x + 1).sum(1)
            words[places] = log_px[places] - orders.to(log_px)
            lengths[places] = x.sum(1).to(log_px)
        some = lengths > 0
        return {"perplexity": (-words[some] / lengths[some]).mean().exp().item()}

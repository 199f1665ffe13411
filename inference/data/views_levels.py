"""Views of stored levels 0, ..., n: as counts, as grey values, or spread over their steps."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .looking import whole
from .views import Levelled


@dataclass(frozen=True)
class Counts(Levelled):
    """x is the stored count 0, ..., levels.

    Args:
        levels: the largest count.
    """

    is_mass = True
    takes = "whole numbers from 0 to its levels"

    def allows(self, stored: Tensor) -> Tensor:
        """Return for each stored value whether it is one of these."""
        return whole(stored, self.levels)

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
class Grey(Levelled):
    """x = v / levels in [0, 1], for continuous likelihoods.

    Args:
        levels: the stored value of full ink.
    """

    is_mass = False
    takes = "numbers from 0 to its levels"

    def allows(self, stored: Tensor) -> Tensor:
        """Return for each stored value whether it is one of these."""
        return (stored >= 0) & (stored <= self.levels)

    @property
    def unit(self) -> str:
        """A density, so that another scale of x shifts it."""
        return "nats of a density on x in [0, 1]"

    def undo(self, x: Tensor) -> Tensor:
        """Return x in the units of stored values."""
        return x * self.levels

    def __call__(self, stored: Tensor) -> Tensor:
        """Return the grey values as floats."""
        return stored.to(torch.get_default_dtype()) / self.levels


@dataclass(frozen=True)
class Levels(Levelled):
    """x = v / levels on its grid in [0, 1], for masses of whole levels, scaled for an encoder.

    Args:
        levels: the stored value of full ink.
    """

    is_mass = True
    takes = "whole numbers from 0 to its levels"

    def allows(self, stored: Tensor) -> Tensor:
        """Return for each stored value whether it is one of these."""
        return whole(stored, self.levels)

    @property
    def unit(self) -> str:
        """The probability of whole levels, however they are scaled."""
        return f"nats of P(x), x one of {self.levels + 1} levels"

    def undo(self, x: Tensor) -> Tensor:
        """Return x in the units of stored values."""
        return x * self.levels

    def __call__(self, stored: Tensor) -> Tensor:
        """Return the levels as floats in [0, 1]."""
        return stored.to(torch.get_default_dtype()) / self.levels

    def field_units(self, stored: Tensor, log_px: Tensor) -> dict[str, float]:
        """Return bits per dimension."""
        return {"bits_per_dim": bits_per_dim(stored, log_px)}


@dataclass(frozen=True)
class Dequantised(Levelled):
    r"""x = (v + u) / (levels + 1) in (0, 1), u uniform and drawn again at each access.

    A density of it is a probability of levels: with D elements and levels 0, ..., n,
    :math:`\log P(v) \ge \mathbb E_u \log p(x) - D \log(n + 1)`. Theis et al. 2016,
    arXiv 1511.01844.

    Args:
        levels: the stored value of full ink.
    """

    is_mass = False
    takes = "whole numbers from 0 to its levels"

    def allows(self, stored: Tensor) -> Tensor:
        """Return for each stored value whether it is one of these."""
        return whole(stored, self.levels)

    @property
    def unit(self) -> str:
        """A density, of levels that noise has spread."""
        return "nats of a density on dequantised x in (0, 1)"

    def __call__(self, stored: Tensor) -> Tensor:
        """Draw the noise on the stored tensor's device."""
        dtype = torch.get_default_dtype()
        noise = torch.empty(stored.shape, device=stored.device, dtype=dtype).uniform_(0, 1)
        least = torch.finfo(dtype).eps / 2  # rounding may not reach the ends
        return noise.add_(stored).div_(self.levels + 1).clamp_(least, 1 - least)

    def undo(self, x: Tensor) -> Tensor:
        """Return x in the units of stored values, less the mean of the noise."""
        return x * (self.levels + 1) - 0.5

    def field_units(self, stored: Tensor, log_px: Tensor) -> dict[str, float]:
        """Return bits per dimension of the levels, an upper bound."""
        shift = math.log2(self.levels + 1)
        return {"bits_per_dim": bits_per_dim(stored, log_px) + shift}


def bits_per_dim(stored: Tensor, log_px: Tensor) -> float:
    """Return -log2 p(x) per element of x, from nats per datum."""
    return -log_px.mean().item() / (math.prod(stored.shape[1:]) * math.log(2))

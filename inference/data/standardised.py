"""A view of reals: less the mean, by the standard deviation, in a density that stays that of v."""

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .views import View

ROWS = 4096
"""Data whose moments are taken at a time."""


@dataclass(frozen=True)
class Standardised(View):
    r"""x = (v - mean) / scale, with the mean and standard deviation of each element over train.

    NaN is left out. Numbers are those of the density of v:
    :math:`\log p(v) = \log p(x) - \sum_d \log s_d`.

    Args:
        mean: of each element, flattened; empty until `fitted`.
        scale: the standard deviation of each; 1 where an element is constant.
    """

    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    _known: dict[torch.device, tuple[Tensor, Tensor]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    is_mass = False

    def __str__(self) -> str:
        return f"Standardised({len(self.mean):,} elements)"

    @property
    def unit(self) -> str:
        """A density, of the values as they were given."""
        return "nats of a density on x as given"

    def fitted(self, stored: Tensor) -> "Standardised":
        """Return the view with the moments of training values (N, *event_shape), NaN left out."""
        if self.mean:
            return self
        total = square = count = torch.zeros(())
        for start in range(0, len(stored), ROWS):
            some = stored[start : start + ROWS].double()
            some = some.reshape(len(some), -1)
            count = count + some.isfinite().sum(0)
            total = total + some.nan_to_num(0).sum(0)
        if len(empty := (count == 0).nonzero().flatten()):
            raise ValueError(
                f"Entry {empty[0].item()} of x has no value in any training datum: leave it out."
            )
        mean = total / count
        for start in range(0, len(stored), ROWS):
            some = stored[start : start + ROWS].double()
            some = some.reshape(len(some), -1)
            square = square + (some - mean).square().nan_to_num(0).sum(0)
        scale = (square / count).sqrt()
        # What rounding leaves of a constant is no scale.
        scale = scale.where(scale > 1e-12 * mean.abs().clamp(min=1e-290), 1.0)
        return replace(self, mean=tuple(mean.tolist()), scale=tuple(scale.tolist()))

    def __call__(self, stored: Tensor) -> Tensor:
        """Standardise values, in 64 bits until the end."""
        mean, scale = self._moments(stored)
        return ((stored - mean) / scale).to(torch.get_default_dtype())

    def undo(self, x: Tensor) -> Tensor:
        """Return x in the units of stored values."""
        mean, scale = self._moments(x)
        return (x * scale + mean).to(x.dtype)

    def log_det(self, stored: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return log abs det dx / dv of each datum's observed entries, (B,), nats."""
        logs = -self._moments(stored)[1].log()
        if mask is None:
            return logs.sum().expand(len(stored))
        return (logs * mask).reshape(len(stored), math.prod(stored.shape[1:])).sum(1)

    def _moments(self, stored: Tensor) -> tuple[Tensor, Tensor]:
        if not self.mean:
            raise ValueError(
                "Standardised() has no moments yet: take view.fitted(training values)."
            )
        if stored.device not in self._known:
            both = torch.tensor([self.mean, self.scale], dtype=torch.float64, device=stored.device)
            self._known[stored.device] = both[0], both[1]
        mean, scale = self._known[stored.device]
        if len(self.mean) == 1:
            return mean.squeeze(), scale.squeeze()
        dims = next(
            n for n in range(1, stored.dim() + 1) if math.prod(stored.shape[-n:]) == len(mean)
        )
        return mean.reshape(stored.shape[-dims:]), scale.reshape(stored.shape[-dims:])

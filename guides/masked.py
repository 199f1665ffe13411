"""Amortized inference where entries of x are missing."""

from typing import Any

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from .amortized import Amortized


class MaskedAmortized(Amortized):
    r"""q(z | x_o) = family(encoder(x, mask)): the encoder sees zeros in missing places, and where.

    The encoder takes x and the mask side by side in the first dimension of a datum,
    (B, 2 D) for vectors and (B, 2 C, H, W) for images; `sees` says so.

    Source: Nazabal et al. 2020, arXiv 1807.03653 (zeros); Mattei and Frellsen 2019,
    arXiv 1812.02633.

    Args:
        encoder: network from both to the family's parameters (B, P).
        family: from parameters (B, P) to a distribution with batch_shape (B,), event_shape (Z,).
    """

    @staticmethod
    def sees(event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape that the encoder is made for, from that of a datum."""
        if not event_shape:
            raise ValueError("Expected data with entries, (N, D): a number alone has no mask.")
        return (2 * event_shape[0], *event_shape[1:])

    def posterior(self, x: Tensor, mask: Tensor | None = None) -> TorchDistributionMixin:
        """Return q(z | x_o), batch_shape (B,) and event_shape (Z,); without a mask all is seen."""
        seen = torch.ones_like(x) if mask is None else mask.to(x.dtype)
        return self.family(self.encoder(torch.cat([x * seen, seen], 1)))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Any:
        """Run the program on x (B, *event_shape), mask the same; return z (..., B, Z)."""
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.posterior(x, mask))

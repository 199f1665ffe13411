"""The amortized guide: one network gives every datum its own posterior."""

from collections.abc import Callable
from typing import Any

import pyro
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.nn import PyroModule
from torch import Tensor, nn

from .families import Family


class Amortized(PyroModule):
    r"""One latent vector per datum: :math:`z_n \sim q(z \mid \mathrm{encoder}(x_n))`.

    The latent site is called ``z`` and sits in the plate ``data``.

    Source: Kingma and Welling 2014, arXiv 1312.6114.

    >>> import torch
    >>> from guides import MLP, Amortized, DiagonalNormal
    >>> family = DiagonalNormal(2)
    >>> guide = Amortized(MLP((8,), family.parameter_dim), family)
    >>> guide(torch.rand(5, 8)).shape  # a draw z ~ q(z | x) of each datum
    torch.Size([5, 2])

    Args:
        encoder: network from x (B, *event_shape) to the family's parameters (B, P).
        family: from parameters (B, P) to a distribution with batch_shape (B,), event_shape (Z,).
    """

    encoder: nn.Module
    family: Family

    def __init__(self, encoder: nn.Module, family: Family) -> None:
        super().__init__()
        self.encoder = encoder
        self.family = family

    def given(self, model: Callable[[Tensor], Any]) -> None:
        """Give the guide the model; this one does not need it.

        Args:
            model: p(z) p(x|z), conditioned on x (B, *event_shape).
        """

    def posterior(self, x: Tensor) -> TorchDistributionMixin:
        """Return q(z|x), batch_shape (B,) and event_shape (Z,)."""
        return self.family(self.encoder(x))

    def forward(self, x: Tensor) -> Tensor:
        """Run the program on a batch x (B, *event_shape); return the latent vectors (..., B, Z)."""
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.posterior(x))

"""Priors p(z): modules that return a distribution with batch_shape () and event_shape (Z,)."""

from abc import ABC, abstractmethod

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn


class Prior(nn.Module, ABC):
    """A distribution over one datum's latent vector; ``prior()`` returns it."""

    @abstractmethod
    def forward(self) -> TorchDistributionMixin:
        """Return p(z), batch_shape () and event_shape (Z,)."""


class StandardNormal(Prior):
    r"""The standard normal prior: :math:`z \sim \mathcal N(0, I)`."""

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int) -> None:
        """Keep the two constants as buffers, so that they follow the module's device and dtype.

        Args:
            latent_dim: number Z of latent coordinates.
        """
        super().__init__()
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> TorchDistributionMixin:
        """Return N(0, I), event_shape (Z,)."""
        return dist.Normal(self.loc, self.scale).to_event(1)

"""Posterior families q(z | parameters): modules from encoder output to a distribution."""

from abc import ABC, abstractmethod

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn


class Family(nn.Module, ABC):
    """A family of distributions over a latent vector.

    Attributes:
        numbers: how many numbers of a draw stand for one of the Z coordinates; where they are C,
            as in one-hot vectors, draws are (..., Z, C) and the decoder sees them side by side.

    Args:
        latent_dim: number Z of latent coordinates.
    """

    numbers: int = 1

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim

    @property
    @abstractmethod
    def parameter_dim(self) -> int:
        """How many numbers P the encoder must put out for each datum."""

    @abstractmethod
    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return q for parameters (B, P): batch_shape (B,), event_shape (Z,)."""


class DiagonalNormal(Family):
    r"""Independent normals: :math:`q(z) = \mathcal N(\mu, \mathrm{diag}(\sigma^2))`.

    The encoder puts out :math:`\mu` and :math:`\log\sigma`, so no constraint is needed. It is
    the mean-field family: where the posterior's coordinates are correlated it is too narrow.

    >>> import torch
    >>> from guides import DiagonalNormal
    >>> family = DiagonalNormal(3)
    >>> family.parameter_dim  # locations, log scales
    6
    >>> family(torch.zeros(5, 6)).event_shape
    torch.Size([3])
    """

    @property
    def parameter_dim(self) -> int:
        """Twice the latent dimension: locations, then log scales."""
        return 2 * self.latent_dim

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return N(loc, exp(log_scale)^2) for parameters = (loc, log_scale) along the last axis."""
        loc, log_scale = parameters.chunk(2, dim=-1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)

"""Priors p(z): modules that return a distribution with batch_shape () and event_shape (Z,)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn


class Prior(nn.Module, ABC):
    """A distribution over one datum's latent vector; ``prior()`` returns it.

    Attributes:
        numbers: how many numbers of a draw stand for one of the Z coordinates, C where each is a
            one-hot vector; None where they are as many as the guide's.
    """

    numbers: int | None = 1

    def given(
        self,
        posterior: Callable[[Tensor], Any],
        examples: Callable[[int], Tensor],
    ) -> None:
        """Give the prior what it needs of the guide and of the data; most priors need nothing.

        Args:
            posterior: from x (C, *event_shape) to q(z | x), batch_shape (C,), event_shape (Z,).
            examples: returns that many data (C, *event_shape).
        """

    @abstractmethod
    def forward(self) -> TorchDistributionMixin:
        """Return p(z), batch_shape () and event_shape (Z,), or (Z, C) for Z choices of C."""


class StandardNormal(Prior):
    r"""The standard normal prior: :math:`z \sim \mathcal N(0, I)`.

    >>> from models import StandardNormal
    >>> prior = StandardNormal(3)()
    >>> prior.batch_shape, prior.event_shape
    (torch.Size([]), torch.Size([3]))

    Args:
        latent_dim: number Z of latent coordinates.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int) -> None:
        # Keep the two constants as buffers, so that they follow the module's device and dtype.
        super().__init__()
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> TorchDistributionMixin:
        """Return N(0, I), event_shape (Z,)."""
        return dist.Normal(self.loc, self.scale).to_event(1)


class LearnedNormal(Prior):
    r"""A normal with learned moments: :math:`z \sim \mathcal N(\mu, \mathrm{diag}(\sigma^2))`.

    A linear first layer of the decoder can take its place; it matters where the decoder or the
    guide's family can't shift and scale by itself.

    Args:
        latent_dim: number Z of latent coordinates.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(latent_dim))

    def forward(self) -> TorchDistributionMixin:
        """Return N(loc, exp(log_scale)^2), event_shape (Z,)."""
        return dist.Normal(self.loc, self.log_scale.exp()).to_event(1)


class StandardLaplace(Prior):
    r"""Independent double exponentials of unit variance: :math:`p(z_j) \propto e^{-\sqrt2 |z_j|}`.

    Its peak and its tails make for sparse codes: most coordinates near 0, a few far from it.

    Args:
        latent_dim: number Z of latent coordinates.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        scale = torch.full((latent_dim,), math.sqrt(0.5))
        self.register_buffer("scale", scale, persistent=False)

    def forward(self) -> TorchDistributionMixin:
        """Return the product of Laplace distributions, event_shape (Z,)."""
        return dist.Laplace(self.loc, self.scale).to_event(1)


class StandardStudentT(Prior):
    r"""Independent Student-t coordinates: :math:`z_j \sim t_\nu`, location 0 and scale 1.

    Heavy tails let single data lie far out without dragging the others along.

    Source: Mathieu et al. 2019, arXiv 1812.02833 (as a prior of disentangled codes).

    Args:
        latent_dim: number Z of latent coordinates.
        df: degrees of freedom nu, the same for all; the variance is infinite up to 2.
    """

    df: Tensor

    def __init__(self, latent_dim: int, df: float = 5.0) -> None:
        super().__init__()
        if not df > 0:
            raise ValueError(f"Expected degrees of freedom above 0; got {df}.")
        self.register_buffer("df", torch.full((latent_dim,), float(df)), persistent=False)

    def forward(self) -> TorchDistributionMixin:
        """Return the product of t distributions, event_shape (Z,)."""
        return dist.StudentT(self.df).to_event(1)

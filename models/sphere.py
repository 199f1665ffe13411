"""The prior on the unit sphere."""

import math
from typing import Any

import torch
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from .priors import Prior


class UniformSphere(Prior):
    r"""Uniform on the unit sphere: :math:`p(z) = \Gamma(Z/2) / (2 \pi^{Z/2})`, :math:`|z| = 1`.

    For codes of which only the direction counts. Nothing pulls them to a centre: a constant
    concentration of q costs the same everywhere. The density is with respect to the surface's
    measure, so the guide's family must be one on the sphere too.

    Source: Davidson et al. 2018, arXiv 1804.00891.

    Args:
        latent_dim: number Z of coordinates, at least 2; the sphere has Z - 1 dimensions.
    """

    centre: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        if latent_dim < 2:
            raise ValueError(
                f"Expected at least 2 coordinates; got latent_dim={latent_dim}. A sphere of one "
                "coordinate is two points: take 2 for a circle."
            )
        self.register_buffer("centre", torch.zeros(latent_dim), persistent=False)

    def forward(self) -> TorchDistribution:
        """Return the uniform distribution, event_shape (Z,)."""
        return _UniformSphere(self.centre)


class _UniformSphere(TorchDistribution):
    """Uniform on the unit sphere around ``centre`` (..., Z), which is 0."""

    arg_constraints: Any = {}  # type: ignore[misc]  # noqa: RUF012  (every centre is 0)
    support: Any = constraints.sphere  # type: ignore[misc]
    has_rsample = True

    def __init__(self, centre: Tensor, validate_args: bool | None = None) -> None:
        self.centre = centre
        super().__init__(centre.shape[:-1], centre.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "_UniformSphere":
        """Return the distribution with another batch shape."""
        centre = self.centre.expand(*batch_shape, *self.event_shape)
        return _UniformSphere(centre, self.__dict__.get("_validate_args"))

    @property
    def mean(self) -> Tensor:
        """The expectation in space, (..., Z): 0."""
        return self.centre

    @property
    def variance(self) -> Tensor:
        """The variance of each coordinate, (..., Z): 1 / Z."""
        return torch.full_like(self.centre, 1 / self.event_shape[0])

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw a standard normal's direction, (*sample_shape, ..., Z)."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return torch.nn.functional.normalize(
            torch.randn(shape, dtype=self.centre.dtype, device=self.centre.device), dim=-1
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the constant, of the batch's shape."""
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        return self.centre.new_full(shape, -self._log_area)

    def entropy(self) -> Tensor:
        """Return the logarithm of the sphere's area, nats."""
        return torch.full_like(self.centre[..., 0], self._log_area)

    @property
    def _log_area(self) -> float:
        half = self.event_shape[0] / 2
        return math.log(2) + half * math.log(math.pi) - math.lgamma(half)

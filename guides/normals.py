"""Normal posterior families with correlations."""

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from .families import Family


class FullNormal(Family):
    r"""A normal with any covariance: :math:`q(z) = \mathcal N(\mu, L L^\top)`, L triangular.

    The encoder puts out :math:`\mu`, the logarithm of L's diagonal and the Z (Z - 1) / 2 numbers
    below it. It is the exact posterior of a linear-Gaussian model.

    Source: Kingma and Welling 2019, arXiv 1906.02691, section 2.5.1.

    >>> import torch
    >>> from guides import FullNormal
    >>> family = FullNormal(3)
    >>> family(torch.zeros(5, family.parameter_dim)).event_shape
    torch.Size([3])
    """

    @property
    def parameter_dim(self) -> int:
        """Locations, log diagonal, and what is below it."""
        return 2 * self.latent_dim + self.latent_dim * (self.latent_dim - 1) // 2

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return N(loc, L L') for parameters = (loc, log diagonal, rows below it)."""
        size = self.latent_dim
        loc, log_diagonal, below = parameters.split([size, size, size * (size - 1) // 2], -1)
        row, column = torch.tril_indices(size, size, -1, device=parameters.device)
        scale_tril = log_diagonal.exp().diag_embed()
        scale_tril[..., row, column] = below
        return dist.MultivariateNormal(loc, scale_tril=scale_tril)


class LowRankNormal(Family):
    r"""A diagonal plus a few directions: :math:`q(z) = \mathcal N(\mu, W W^\top + \mathrm{diag}(\sigma^2))`.

    W is (Z, rank). For latent dimensions where the whole covariance is too much for the encoder's
    last layer: (2 + rank) Z numbers, not Z^2 / 2.

    Source: Ong, Nott and Smith 2018, arXiv 1701.03208.

    Args:
        latent_dim: number Z of latent coordinates.
        rank: number of columns of W.
    """  # noqa: E501

    def __init__(self, latent_dim: int, rank: int = 4) -> None:
        super().__init__(latent_dim)
        if rank < 1:
            raise ValueError(f"Expected a rank of at least 1; got {rank}. Or take DiagonalNormal.")
        self.rank = rank

    @property
    def parameter_dim(self) -> int:
        """Locations, log scales, and the columns of W."""
        return (2 + self.rank) * self.latent_dim

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return N(loc, W W' + diag(exp(2 log_scale))) for parameters = (loc, log_scale, W)."""
        size = self.latent_dim
        loc, log_scale, factor = parameters.split([size, size, size * self.rank], -1)
        factor = factor.unflatten(-1, (size, self.rank))
        return dist.LowRankMultivariateNormal(loc, factor, (2 * log_scale).exp())

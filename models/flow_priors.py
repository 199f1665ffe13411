"""Normalising-flow priors: a standard normal, bent by learned invertible maps."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import transforms
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from .priors import Prior


class _Flow(Prior):
    r"""z = f(e), e ~ N(0, I): :math:`\log p(z) = \log \mathcal N(f^{-1}(z)) - \log|\det f'|`."""

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int, steps: int, hidden: Sequence[int]) -> None:
        super().__init__()
        if steps < 1 or latent_dim < 2:
            raise ValueError(
                f"Expected at least 1 step over at least 2 coordinates; got steps={steps}, "
                f"latent_dim={latent_dim}. For one coordinate take MixtureOfNormals."
            )
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)
        self.maps = nn.ModuleList(self.make(latent_dim, list(hidden)) for _ in range(steps))

    @abstractmethod
    def make(self, latent_dim: int, hidden: list[int]) -> Any:
        """Return one map, a Pyro transform that is a module."""

    def path(self) -> list[Any]:
        """Return the maps from noise to z; the order of coordinates is reversed between them."""
        order = torch.arange(len(self.loc) - 1, -1, -1, device=self.loc.device)
        turned = transforms.Permute(order)
        parts: list[Any] = [part for each in self.maps for part in (each, turned)]
        return parts[:-1]

    def forward(self) -> TorchDistributionMixin:
        """Return the flow's distribution, event_shape (Z,)."""
        base = dist.Normal(self.loc, self.scale).to_event(1)
        return dist.TransformedDistribution(base, self.path())


class CouplingFlow(_Flow):
    r"""Affine coupling layers (RealNVP): half of the coordinates shift and scale the other half.

    Density and draws both cost one pass.

    Source: Dinh, Sohl-Dickstein and Bengio 2017, arXiv 1605.08803; as a prior, Huang et al. 2017.

    Args:
        latent_dim: number Z of latent coordinates, at least 2.
        steps: number of layers.
        hidden: widths of each layer's hidden layers.
    """

    def __init__(self, latent_dim: int, steps: int = 4, hidden: Sequence[int] = (64,)) -> None:
        super().__init__(latent_dim, steps, hidden)

    def make(self, latent_dim: int, hidden: list[int]) -> Any:
        """Return one coupling layer."""
        return transforms.affine_coupling(latent_dim, hidden_dims=hidden)


class SplineFlow(_Flow):
    r"""Coupling layers of monotonic rational splines, which bend each coordinate freely.

    Source: Durkan et al. 2019, arXiv 1906.04032.

    Args:
        latent_dim: number Z of latent coordinates, at least 2.
        steps: number of layers.
        hidden: widths of each layer's hidden layers.
    """

    def __init__(self, latent_dim: int, steps: int = 2, hidden: Sequence[int] = (64,)) -> None:
        super().__init__(latent_dim, steps, hidden)

    def make(self, latent_dim: int, hidden: list[int]) -> Any:
        """Return one coupling layer."""
        return transforms.spline_coupling(latent_dim, hidden_dims=hidden)


class AutoregressiveFlow(_Flow):
    r"""Masked autoregressive flow: each coordinate is shifted and scaled by those before it.

    The density costs one pass, a draw one for every coordinate.

    Source: Papamakarios, Pavlakou and Murray 2017, arXiv 1705.07057.

    Args:
        latent_dim: number Z of latent coordinates, at least 2.
        steps: number of layers.
        hidden: widths of each layer's hidden layers.
    """

    def __init__(self, latent_dim: int, steps: int = 2, hidden: Sequence[int] = (64,)) -> None:
        super().__init__(latent_dim, steps, hidden)

    def make(self, latent_dim: int, hidden: list[int]) -> Any:
        """Return one autoregressive layer."""
        return transforms.affine_autoregressive(latent_dim, hidden_dims=hidden, stable=True)

    def path(self) -> list[Any]:
        """Return the layers in the direction in which the density is cheap."""
        return [
            getattr(part, "inv", part) if isinstance(part, nn.Module) else part
            for part in super().path()
        ]

"""A posterior family with several modes."""

from typing import Any

import torch
from pyro.distributions.diag_normal_mixture import MixtureOfDiagNormals, _MixDiagNormalSample
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from .families import Family


class MixtureOfNormals(Family):
    r"""Several diagonal normals: :math:`q(z) = \sum_c \pi_c \, \mathcal N(z; \mu_c, \mathrm{diag}(\sigma_c^2))`.

    Draws carry pathwise gradients to the weights too: those of the optimal transport between
    neighbouring mixtures, from Pyro.

    Source: Jankowiak and Karaletsos 2019, arXiv 1806.01856.

    Args:
        latent_dim: number Z of latent coordinates, at least 2.
        components: number C of normals.
    """  # noqa: E501

    start: Tensor

    def __init__(self, latent_dim: int, components: int = 3) -> None:
        super().__init__(latent_dim)
        if components < 1 or latent_dim < 2:
            raise ValueError(
                "Expected at least 1 component and 2 latent coordinates; got "
                f"components={components}, latent_dim={latent_dim}. Or take Planar."
            )
        self.components = components
        # Components that start at one place have no directions between them.
        self.register_buffer("start", 0.1 * torch.randn(components, latent_dim))

    @property
    def parameter_dim(self) -> int:
        """Locations, log scales and a logit for each component."""
        return self.components * (2 * self.latent_dim + 1)

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return the mixture for parameters = (locs, log_scales, logits)."""
        size = self.components * self.latent_dim
        loc, log_scale, logits = parameters.split([size, size, self.components], -1)
        shape = self.components, self.latent_dim
        loc = self.start + loc.unflatten(-1, shape)
        return _Mixture(loc, log_scale.unflatten(-1, shape).exp(), logits)


class _Mixture(MixtureOfDiagNormals):
    """Pyro's, with a choice of component that reads no value back, for any sample shape."""

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        new = self._get_checked_instance(_Mixture, _instance)
        return super().expand(batch_shape, _instance=new)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        if shape != self.batch_shape:
            return self.expand(shape).rsample()
        logits = self.categorical.logits
        noise = -torch.empty_like(logits).exponential_().log()  # Gumbel's
        which = (logits + noise).argmax(-1)
        path: Any = _MixDiagNormalSample.apply
        shape = self.locs[..., 0, :].shape
        return path(self.locs, self.coord_scale, self.component_logits, self.probs, which, shape)

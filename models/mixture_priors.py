"""Mixture priors: of learned normals, and of the guide's posteriors."""

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from .priors import Prior


class MixtureOfNormals(Prior):
    r"""Learned components: :math:`\sum_c \pi_c \, \mathcal N(z; \mu_c, \mathrm{diag}(\sigma_c^2))`.

    For data that fall into groups; `responsibilities` says which component a code belongs to.

    Source: Dilokthanakul et al. 2016, arXiv 1611.02648.

    Args:
        latent_dim: number Z of latent coordinates.
        components: number C.
    """

    def __init__(self, latent_dim: int, components: int = 10) -> None:
        super().__init__()
        _need_components(components)
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(components, latent_dim))

    def forward(self) -> TorchDistributionMixin:
        """Return the mixture, event_shape (Z,)."""
        normals = dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), normals)

    def responsibilities(self, z: Tensor) -> Tensor:
        """Return p(component | z) (..., C) of codes z (..., Z)."""
        normals = dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
        joint = normals.log_prob(z.unsqueeze(-2)) + self.logits.log_softmax(-1)
        return joint.softmax(-1)


class Vamp(Prior):
    r"""The variational mixture of posteriors: :math:`p(z) = \frac1C \sum_c q(z \mid u_c)`.

    The prior that maximises the ELBO is the aggregate posterior; this is its cheap stand-in, with
    pseudo-inputs u in place of the data. It shares the guide, whose parameters learn from both
    sides. With ``learn=False`` the pseudo-inputs stay data: the prior is the aggregate
    posterior of C of them.

    Source: Tomczak and Welling 2018, arXiv 1705.07120.

    >>> import torch
    >>> from guides import MLP, Amortized, DiagonalNormal
    >>> from models import Vamp
    >>> guide = Amortized(MLP((8,), 4), DiagonalNormal(2))
    >>> prior = Vamp(2, components=10)
    >>> prior.given(guide.posterior, lambda count: torch.rand(count, 8))
    >>> prior().event_shape
    torch.Size([2])

    Args:
        latent_dim: number Z of latent coordinates.
        components: number C of pseudo-inputs.
        learn: whether they are learned; they stay data otherwise.
    """

    numbers = None
    pseudo_inputs: Tensor
    lowest: Tensor
    highest: Tensor

    def __init__(self, latent_dim: int, components: int = 500, learn: bool = True) -> None:
        super().__init__()
        _need_components(components)
        self.latent_dim, self.components, self.learn = latent_dim, components, learn
        self._posterior: Callable[[Tensor], Any] | None = None

    def given(self, posterior: Callable[[Tensor], Any], examples: Callable[[int], Tensor]) -> None:
        """Take the guide's posterior, and data to start the pseudo-inputs from.

        Learned pseudo-inputs stay within the range of these data.
        """
        self._posterior = posterior
        x = examples(self.components)
        if len(x) < self.components:
            x = x[torch.arange(self.components, device=x.device) % len(x)]
        self.register_buffer("lowest", x.amin(0))
        self.register_buffer("highest", x.amax(0))
        if self.learn:
            # Move copies of a datum apart, and bits away from 0 and 1.
            middle = (self.lowest + self.highest) / 2
            self.pseudo_inputs = nn.Parameter(0.9 * x + 0.1 * middle + 0.01 * torch.randn_like(x))
        else:
            self.register_buffer("pseudo_inputs", x.clone())

    def forward(self) -> TorchDistributionMixin:
        """Return the mixture of posteriors, event_shape (Z,).

        Raises:
            RuntimeError: the guide's posterior is not known.
        """
        if self._posterior is None:
            raise RuntimeError(
                "A Vamp prior needs the guide: call prior.given(guide.posterior, examples) first."
            )
        u = torch.maximum(torch.minimum(self.pseudo_inputs, self.highest), self.lowest)
        weights = dist.Categorical(logits=u.new_zeros(self.components))
        return dist.MixtureSameFamily(weights, self._posterior(u))


def _need_components(components: int) -> None:
    if components < 1:
        raise ValueError(f"Expected at least 1 component; got {components}.")

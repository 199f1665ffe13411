"""Posterior families of discrete codes: bits, and choices among a few values."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from .families import Family


class Bernoulli(Family):
    r"""Independent bits: :math:`q(z_j = 1) = \sigma(l_j)`.

    For a prior over bits, as `models.StandardBernoulli`. The draws have no reparametrised sampler:
    take an estimator for discrete sites, as `inference.Vimco` for Iwae or `inference.DisArm` for
    Elbo.

    Source: Mnih and Gregor 2014, arXiv 1402.0030.

    >>> import torch
    >>> from guides import Bernoulli
    >>> Bernoulli(3)(torch.zeros(5, 3)).event_shape
    torch.Size([3])
    """

    @property
    def parameter_dim(self) -> int:
        """The log odds of each bit."""
        return self.latent_dim

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return the product of coins for log odds (B, Z)."""
        return Bits(logits=parameters).to_event(1)


class Categorical(Family):
    r"""Independent choices among C values, one-hot: :math:`q(z_j = e_c) = \mathrm{softmax}(l_j)_c`.

    For a prior over such codes, as `models.StandardCategorical` with as many values. The draws have
    no reparametrised sampler: take an estimator for discrete sites.

    Source: Jang, Gu and Poole 2017, arXiv 1611.01144.

    >>> import torch
    >>> from guides import Categorical
    >>> family = Categorical(3, values=4)
    >>> family(torch.zeros(5, family.parameter_dim)).event_shape
    torch.Size([3, 4])

    Args:
        latent_dim: number Z of codes.
        values: number C of values of each code, at least 2; the prior's.
    """

    def __init__(self, latent_dim: int, values: int = 10) -> None:
        super().__init__(latent_dim)
        if values < 2:
            raise ValueError(f"Expected at least 2 values of each code; got {values}.")
        self.numbers = values

    @property
    def parameter_dim(self) -> int:
        """The logits of every value of every code."""
        return self.latent_dim * self.numbers

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return the product of dice for logits (B, Z C): event_shape (Z, C)."""
        logits = parameters.unflatten(-1, (self.latent_dim, self.numbers))
        return self.law(logits).to_event(1)

    def law(self, logits: Tensor) -> dist.TorchDistribution:
        """Return the law of one-hot vectors for logits (..., C); a subclass may have another."""
        return OneHot(logits=logits)


class Bits(dist.Bernoulli):
    """Coins that draw zeros where a diverged network says nan; torch's own raise in the midst."""

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw bits (*sample_shape, *batch_shape)."""
        shape = self._extended_shape(torch.Size(sample_shape))
        chance = self.probs.detach()
        uniform = torch.rand(shape, dtype=chance.dtype, device=chance.device)
        return (uniform < chance).to(chance.dtype)


class OneHot(dist.OneHotCategorical):
    r"""A one-hot categorical whose draws are captured: :math:`\arg\max_c (l_c + g_c)`.

    Source: Maddison, Mnih and Teh 2017, arXiv 1611.00712.
    """

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw indicators (*sample_shape, *batch_shape, C)."""
        noise = torch.empty(
            self._extended_shape(torch.Size(sample_shape)),
            dtype=self.logits.dtype,
            device=self.logits.device,
        )
        place = (self.logits - noise.exponential_().log()).argmax(-1, keepdim=True)
        return torch.zeros_like(noise).scatter_(-1, place, 1.0)

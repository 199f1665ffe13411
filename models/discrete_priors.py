"""Priors of discrete codes: bits, and choices among a few values."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from .priors import Prior


class StandardBernoulli(Prior):
    r"""Fair coins: :math:`z_j \in \{0, 1\}`, each with probability 1/2.

    Its draws are not reparametrised: see the gradient estimators for discrete sites, as
    `inference.Vimco`.

    >>> from models import StandardBernoulli
    >>> prior = StandardBernoulli(3)()
    >>> prior.batch_shape, prior.event_shape
    (torch.Size([]), torch.Size([3]))

    Args:
        latent_dim: number Z of bits.
    """

    logits: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("logits", torch.zeros(latent_dim), persistent=False)

    def forward(self) -> TorchDistributionMixin:
        """Return the product of fair coins, event_shape (Z,)."""
        return dist.Bernoulli(logits=self.logits).to_event(1)


class LearnedBernoulli(Prior):
    r"""Coins with learned biases: :math:`p(z_j = 1) = \sigma(l_j)`, fair at the start.

    Source: Mnih and Gregor 2014, arXiv 1402.0030 (the top layer of a sigmoid belief net).

    Args:
        latent_dim: number Z of bits.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(latent_dim))

    def forward(self) -> TorchDistributionMixin:
        """Return the product of coins, event_shape (Z,)."""
        return dist.Bernoulli(logits=self.logits).to_event(1)


class StandardCategorical(Prior):
    r"""Fair dice: each of Z codes is one of C values with probability 1/C, as a one-hot vector.

    Its family of posteriors is `guides.Categorical` with as many values. The decoder sees the Z C
    numbers side by side.

    >>> from models import StandardCategorical
    >>> StandardCategorical(3, values=4)().event_shape
    torch.Size([3, 4])

    Args:
        latent_dim: number Z of codes.
        values: number C of values of each code, at least 2.
    """

    logits: Tensor

    def __init__(self, latent_dim: int, values: int = 10) -> None:
        super().__init__()
        refuse_one_value(values)
        self.numbers = values
        self.register_buffer("logits", torch.zeros(latent_dim, values), persistent=False)

    def forward(self) -> TorchDistributionMixin:
        """Return the product of fair dice, event_shape (Z, C)."""
        return OneHot(logits=self.logits).to_event(1)


class LearnedCategorical(Prior):
    r"""Dice with learned biases: :math:`p(z_j = e_c) = \mathrm{softmax}(l_j)_c`, fair at first.

    Its family of posteriors is `guides.Categorical` with as many values. The decoder sees the Z C
    numbers side by side.

    Args:
        latent_dim: number Z of codes.
        values: number C of values of each code, at least 2.
    """

    def __init__(self, latent_dim: int, values: int = 10) -> None:
        super().__init__()
        refuse_one_value(values)
        self.numbers = values
        self.logits = nn.Parameter(torch.zeros(latent_dim, values))

    def forward(self) -> TorchDistributionMixin:
        """Return the product of dice, event_shape (Z, C)."""
        return self.law(self.logits).to_event(1)

    def law(self, logits: Tensor) -> dist.TorchDistribution:
        """Return the law of one-hot vectors for logits (Z, C); a subclass may have `PerturbMax`."""
        return OneHot(logits=logits)


class OneHot(dist.OneHotCategorical):
    """A one-hot categorical whose draws are captured: torch's own sampler reads values back."""

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw indicators (*sample_shape, *batch_shape, C) by the largest of Gumbel's sums."""
        noise = torch.empty(
            self._extended_shape(torch.Size(sample_shape)),
            dtype=self.logits.dtype,
            device=self.logits.device,
        )
        place = (self.logits - noise.exponential_().log()).argmax(-1, keepdim=True)
        return torch.zeros_like(noise).scatter_(-1, place, 1.0)


def refuse_one_value(values: int) -> None:
    """Check that a code has a choice."""
    if values < 2:
        raise ValueError(f"Expected at least 2 values of each code; got {values}.")

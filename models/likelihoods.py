"""Likelihoods p(x | parameters): modules from decoder output to a distribution over one datum."""

from abc import ABC, abstractmethod

import pyro.distributions as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn


class Likelihood(nn.Module, ABC):
    """A distribution over one datum, given the decoder's output.

    Where an element of x takes P numbers, they come in a dimension of their own before the event,
    ``parameter_shape`` (P, *event_shape): a convolutional decoder for images (C, H, W) puts out
    P * C channels and splits them.

    Args:
        event_shape: shape of one datum.
    """

    def __init__(self, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """Shape of the decoder's output for one datum: by default one number an element."""
        return self.event_shape

    @abstractmethod
    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return p(x | parameters) for parameters (..., *parameter_shape), batch_shape (...)."""


class Bernoulli(Likelihood):
    r"""Binary elements: :math:`x_d \sim \mathrm{Bernoulli}(\sigma(l_d))`, for x in {0, 1}.

    Its negative log density is the cross-entropy between x and :math:`\sigma(l)`, in nats. On
    grey values in [0, 1] that sum is not a likelihood: re-binarise the data, or take another one.

    >>> import torch
    >>> from models import Bernoulli
    >>> p_x = Bernoulli((1, 8, 8))(torch.zeros(5, 1, 8, 8))
    >>> p_x.log_prob(torch.ones(5, 1, 8, 8))[0] / 64  # log 0.5 an element
    tensor(-0.6931)
    """

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return the product of Bernoulli distributions with these logits."""
        return dist.Bernoulli(logits=parameters).to_event(len(self.event_shape))


class Binomial(Likelihood):
    r"""Counts: :math:`x_d \sim \mathrm{Binomial}(n, \sigma(l_d))`, for x in {0, ..., n}.

    It is the probability of the whole grey value, where the Bernoulli sees one coin of it: don't
    compare its nats with those of re-binarised data.

    Args:
        event_shape: shape of one datum.
        total_count: number n of trials; 16 is the number of ink levels of ``digits-counts``.
    """

    def __init__(self, event_shape: tuple[int, ...], total_count: int = 16) -> None:
        super().__init__(event_shape)
        if total_count < 1:
            raise ValueError(f"Expected total_count of at least 1; got {total_count}.")
        self.total_count = total_count

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return the product of binomial distributions with these logits."""
        per_element = dist.Binomial(total_count=self.total_count, logits=parameters)
        return per_element.to_event(len(self.event_shape))

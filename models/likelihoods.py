"""Likelihoods p(x | parameters): modules from decoder output to a distribution over one datum."""

import math
from abc import ABC, abstractmethod

import pyro.distributions as dist
import torch
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
        """What the decoder must put out for each datum: by default one number an element."""
        return self.event_shape

    @abstractmethod
    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return p(x | parameters) for parameters (..., *parameter_shape), batch_shape (...)."""


class Bernoulli(Likelihood):
    r"""Binary elements: :math:`x_d \sim \mathrm{Bernoulli}(\sigma(l_d))`, for x in {0, 1}.

    Its negative log density is the cross-entropy between x and :math:`\sigma(l)`, in nats. On
    grey values in [0, 1] that sum is no likelihood: re-binarise the data, or take another one.
    """

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return the product of Bernoulli distributions with these logits."""
        return dist.Bernoulli(logits=parameters).to_event(len(self.event_shape))


class Binomial(Likelihood):
    r"""Counts: :math:`x_d \sim \mathrm{Binomial}(n, \sigma(l_d))`, for x in {0, ..., n}.

    It is the probability of the whole grey value where the Bernoulli sees one coin of it; its
    nats are therefore not comparable with those of re-binarised data.
    """

    def __init__(self, event_shape: tuple[int, ...], total_count: int = 16) -> None:
        """Keep the number of trials.

        Args:
            event_shape: shape of one datum.
            total_count: number n of trials; 16 is the number of ink levels of ``digits-counts``.
        """
        super().__init__(event_shape)
        if total_count < 1:
            raise ValueError(f"Expected total_count of at least 1; got {total_count}.")
        self.total_count = total_count

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return the product of binomial distributions with these logits."""
        per_element = dist.Binomial(total_count=self.total_count, logits=parameters)
        return per_element.to_event(len(self.event_shape))


class LocationScale(Likelihood):
    """A location for each element from the decoder, and one scale for all of them.

    Args:
        event_shape: shape of one datum.
        scale: scale in units of x; where learning starts, if it is learned.
        learn_scale: whether the scale is a parameter; fixed otherwise.
    """

    log_scale: Tensor

    def __init__(
        self, event_shape: tuple[int, ...], scale: float = 1.0, learn_scale: bool = True
    ) -> None:
        super().__init__(event_shape)
        if not scale > 0:
            raise ValueError(f"Expected a scale above 0; got {scale}.")
        log_scale = torch.tensor(math.log(scale))
        if learn_scale:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)


class Normal(LocationScale):
    r"""Real elements: :math:`x_d \sim \mathcal N(l_d, \sigma^2)` with one :math:`\sigma` for all.

    With a fixed scale the negative log density is the squared error, weighted:
    :math:`\|x - l\|^2 / 2\sigma^2` plus a constant; so the choice of :math:`\sigma` is the choice
    of the KL term's weight. A learned scale settles that weight by maximum likelihood (the
    sigma-VAE; Rybkin et al. 2021, arXiv 2006.13202), and ends at the root mean square error of the
    data, which `OptimalNormal` goes to at once. Its nats depend on the unit of x.

    Args:
        event_shape: shape of one datum.
        scale: standard deviation sigma in units of x; where learning starts, if it is learned.
        learn_scale: whether sigma is a parameter; fixed otherwise.
    """

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return N(parameters, sigma^2) over the whole datum."""
        return dist.Normal(parameters, self.log_scale.exp()).to_event(len(self.event_shape))

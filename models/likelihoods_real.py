"""Likelihoods of real numbers: one scale for all, one for each element, or heavy tails."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.nn import functional as F

from .likelihoods import Likelihood


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

    >>> import torch
    >>> from models import Normal
    >>> p_x = Normal((8,), scale=0.3, learn_scale=False)(torch.zeros(5, 8))
    >>> p_x.batch_shape, p_x.event_shape
    (torch.Size([5]), torch.Size([8]))

    Args:
        event_shape: shape of one datum.
        scale: standard deviation sigma in units of x; where learning starts, if it is learned.
        learn_scale: whether sigma is a parameter; fixed otherwise.
    """

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return N(parameters, sigma^2) over the whole datum."""
        return dist.Normal(parameters, self.log_scale.exp()).to_event(len(self.event_shape))


class HeteroscedasticNormal(Likelihood):
    r"""Real elements, each with a scale: :math:`\mathcal N(l_d, (m + \log(1 + e^{s_d}))^2)`.

    For data whose noise differs from place to place. Without the least scale m its likelihood has
    no maximum: a pixel that never changes would drive its scale to 0 and the density to infinity
    (Mattei and Frellsen 2018, arXiv 1802.04826); m is in the result, so state it. Its nats depend
    on the unit of x. The decoder puts out l and s, shape (2, *event_shape).

    Args:
        event_shape: shape of one datum.
        least_scale: smallest standard deviation m in units of x.
    """

    def __init__(self, event_shape: tuple[int, ...], least_scale: float = 0.01) -> None:
        super().__init__(event_shape)
        if not least_scale > 0:
            raise ValueError(f"Expected a least_scale above 0; got {least_scale}.")
        self.least_scale = least_scale

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """Location and scale of each element."""
        return (2, *self.event_shape)

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return the product of normal distributions."""
        dims = len(self.event_shape)
        loc, scale = parameters.unbind(-1 - dims)
        return dist.Normal(loc, self.least_scale + F.softplus(scale)).to_event(dims)


class Laplace(LocationScale):
    r"""Real elements: :math:`p(x_d) = \exp(-|x_d - l_d| / b) / 2b` with one b for all.

    With a fixed scale the negative log density is the absolute error, weighted: it forgives
    outliers more than `Normal` does, and its reconstructions are medians. Its nats depend on the
    unit of x.

    Args:
        event_shape: shape of one datum.
        scale: b in units of x; where learning starts, if it is learned.
        learn_scale: whether b is a parameter; fixed otherwise.
    """

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return the product of Laplace distributions around the parameters."""
        return dist.Laplace(parameters, self.log_scale.exp()).to_event(len(self.event_shape))


class StudentT(LocationScale):
    r"""Real elements: :math:`(x_d - l_d) / s \sim t_\nu`, one s and one :math:`\nu` for all.

    For data with outliers: the error counts as its logarithm where it is large. The fewer degrees
    of freedom, the heavier the tails; as :math:`\nu \to \infty` it is `Normal`. Its nats depend on
    the unit of x.

    Args:
        event_shape: shape of one datum.
        df: degrees of freedom nu, above 1 so that there is a mean to show.
        scale: s in units of x; where learning starts, if it is learned.
        learn_scale: whether s is a parameter; fixed otherwise.
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        df: float = 4.0,
        scale: float = 1.0,
        learn_scale: bool = True,
    ) -> None:
        super().__init__(event_shape, scale, learn_scale)
        if not df > 1:
            raise ValueError(f"Expected more than 1 degree of freedom; got df={df}.")
        self.df = df

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return the product of Student's distributions around the parameters."""
        per_element = dist.StudentT(self.df, parameters, self.log_scale.exp())
        return per_element.to_event(len(self.event_shape))


class OptimalNormal(Likelihood):
    r"""Real elements with the best :math:`\sigma` for what the decoder says.

    .. math:: \mathcal N(l_d, \sigma^2), \qquad
              \sigma^2 \leftarrow (1 - r) \sigma^2 + r \, \overline{(x - l)^2}

    The maximum likelihood scale is the root mean square error. Its square is followed as a moving
    average over the steps' batches, as batch normalisation follows its moments, and stays fixed in
    evaluation: so the density of a datum never depends on the rest of the batch, as it does with
    each batch's own optimum. Its nats depend on the unit of x.

    Source: Rybkin, Daniilidis and Levine 2021, arXiv 2006.13202 (optimal sigma-VAE).

    Args:
        event_shape: shape of one datum.
        scale: sigma at the start, in units of x.
        rate: weight r of the newest batch, above 0 and at most 1.
    """

    mean_square: Tensor

    def __init__(
        self, event_shape: tuple[int, ...], scale: float = 1.0, rate: float = 0.05
    ) -> None:
        super().__init__(event_shape)
        if not scale > 0 or not 0 < rate <= 1:
            raise ValueError(
                "Expected a scale above 0 and a rate above 0 and at most 1; got "
                f"scale={scale}, rate={rate}."
            )
        self.rate = rate
        self.register_buffer("mean_square", torch.tensor(float(scale) ** 2))

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return N(parameters, sigma^2) over the whole datum."""
        return _Followed(self, parameters).to_event(len(self.event_shape))

    def follow(self, square: Tensor) -> None:
        """Update the scale by a step's mean square error (), if this is a step of training."""
        if self.training and torch.is_grad_enabled():
            self.mean_square.lerp_(square.detach(), self.rate)


class _Followed(dist.Normal):
    """A normal that passes each mean square error on to its likelihood."""

    def __init__(self, likelihood: OptimalNormal, loc: Tensor) -> None:
        self.likelihood = likelihood
        super().__init__(loc, likelihood.mean_square.sqrt().clone(), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        return _Followed(self.likelihood, self.loc.expand(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        self.likelihood.follow((value - self.loc).square().mean())
        return super().log_prob(value)

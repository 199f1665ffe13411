"""Likelihoods of images of whole grey levels v, given as x = v / levels: a mass for each level."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional as F

from .likelihoods import Likelihood

LEAST_LOG_SCALE = -7.0
"""Of the logistic on [-1, 1], as in PixelCNN++: there the mass lies within one level of 256."""


class Levels(Likelihood):
    """A mass for each of the values 0, 1/levels, ..., 1 of an element.

    Args:
        event_shape: shape of one datum.
        levels: the largest level; 255 for 8-bit images, 16 for the digits.
    """

    def __init__(self, event_shape: tuple[int, ...], levels: int = 255) -> None:
        super().__init__(event_shape)
        if levels < 1:
            raise ValueError(f"Expected levels of at least 1; got {levels}.")
        self.levels = levels


class DiscretisedLogistic(Levels):
    r"""Grey levels: a logistic on [-1, 1], integrated over the bin of each level.

    .. math:: P(v) = \sigma\Big(\frac{y_v + h - m}{s}\Big) - \sigma\Big(\frac{y_v - h - m}{s}\Big),
              \qquad y_v = 2v/n - 1,\ h = 1/n,

    where n is the number of levels and the first and the last bin take the tails. For natural
    images, whose neighbouring levels are alike; bits per dimension compare with other models of the
    same levels. The decoder puts out m and log s, shape (2, *event_shape); log s is bent to stay
    above -7. Kingma et al. 2016, arXiv 1606.04934.

    Args:
        event_shape: shape of one datum.
        levels: the largest level n; 255 for 8-bit images, 16 for the digits.
    """

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """Location and log scale of each element."""
        return (2, *self.event_shape)

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return the product of discretised logistics."""
        dims = len(self.event_shape)
        loc, log_scale = parameters.unsqueeze(-1).unbind(-2 - dims)
        return _DiscretisedLogistic(
            torch.zeros_like(loc), loc, log_scale, levels=self.levels
        ).to_event(dims)


class MixtureOfDiscretisedLogistics(Levels):
    r"""Grey levels: :math:`P(v) = \sum_k \pi_k P_k(v)`, each as in `DiscretisedLogistic`.

    For levels with several modes, black paper or white ink for one. Elements are independent given
    z, channels too. The decoder puts out logits of pi, m and log s, shape (3 * components,
    *event_shape); at 0 the locations lie evenly over the levels. Salimans et al. 2017,
    arXiv 1701.05517.

    Args:
        event_shape: shape of one datum.
        components: logistics for each element.
        levels: the largest level; 255 for 8-bit images, 16 for the digits.
    """

    def __init__(
        self, event_shape: tuple[int, ...], components: int = 5, levels: int = 255
    ) -> None:
        super().__init__(event_shape, levels)
        if components < 1:
            raise ValueError(f"Expected at least 1 component; got {components}.")
        self.components = components

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """Weight, location and log scale of each component of each element."""
        return (3 * self.components, *self.event_shape)

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return the product of mixtures."""
        dims = len(self.event_shape)
        parts = parameters.unflatten(-1 - dims, (3, self.components)).movedim(-1 - dims, -1)
        logits, loc, log_scale = parts.unbind(-2 - dims)
        k = torch.arange(self.components, dtype=loc.dtype, device=loc.device)
        loc = loc + (2 * k + 1) / self.components - 1
        return _DiscretisedLogistic(logits, loc, log_scale, levels=self.levels).to_event(dims)


class Categorical(Levels):
    r"""Grey levels: :math:`P(v) = \mathrm{softmax}(l)_v`, a free probability for each level.

    It knows no order of the levels and needs many data; the decoder puts out levels + 1
    numbers an element, shape (levels + 1, *event_shape). van den Oord et al. 2016,
    arXiv 1601.06759.

    Args:
        event_shape: shape of one datum.
        levels: the largest level; 255 for 8-bit images, 16 for the digits.
    """

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """A logit for each level of each element."""
        return (self.levels + 1, *self.event_shape)

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return the product of categorical distributions."""
        dims = len(self.event_shape)
        return _Categorical(logits=parameters.movedim(-1 - dims, -1)).to_event(dims)


class _Grid(constraints.Constraint):
    """The values 0, 1/levels, ..., 1."""

    is_discrete = True

    def __init__(self, levels: int) -> None:
        self.levels = levels

    def check(self, value: Tensor) -> Tensor:
        on_grid = (value * self.levels - (value * self.levels).round()).abs() < 1e-3
        return (value >= 0) & (value <= 1) & on_grid

    def __repr__(self) -> str:
        return f"x in {{0, 1/{self.levels}, ..., 1}}"


class _DiscretisedLogistic(TorchDistribution):
    """A mixture of discretised logistics over the last dimension of its arguments."""

    arg_constraints: Any = {}  # type: ignore[misc]  # noqa: RUF012  (every real number will do)

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        log_scale: Tensor,
        levels: int,
        validate_args: bool | None = None,
    ) -> None:
        self.log_weights = logits.log_softmax(-1)
        self.loc = loc
        self.scale = (LEAST_LOG_SCALE + F.softplus(log_scale - LEAST_LOG_SCALE)).exp()
        self.levels = levels
        super().__init__(loc.shape[:-1], validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        return _Grid(self.levels)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "_DiscretisedLogistic":
        new: Any = self._get_checked_instance(_DiscretisedLogistic, _instance)
        shape = torch.Size(batch_shape)
        for name in ("log_weights", "loc", "scale"):
            value = getattr(self, name)
            setattr(new, name, value.expand(*shape, value.shape[-1]))
        new.levels = self.levels
        TorchDistribution.__init__(new, shape, validate_args=False)
        new._validate_args = self._validate_args  # noqa: SLF001
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Return a difference of sigmoids as log s(b) + log s(-a) + log(1 - exp(a - b)).

        No term cancels: b - a is the width of a bin, whatever x and the location are.
        """
        if self._validate_args:
            self._validate_sample(value)
        x = value.unsqueeze(-1)
        y = 2 * x - 1 - self.loc
        above = F.logsigmoid((y + 1 / self.levels) / self.scale)
        below = F.logsigmoid((1 / self.levels - y) / self.scale)
        bin_ = torch.log(-torch.expm1(-2 / self.levels / self.scale))
        first, last = x < 0.5 / self.levels, x > 1 - 0.5 / self.levels
        mass = torch.where(last, 0.0, above) + torch.where(first, 0.0, below)
        mass = mass + torch.where(first | last, 0.0, bin_)
        return (self.log_weights + mass).logsumexp(-1)

    @property
    def mean(self) -> Tensor:
        """The sum over v of P(x >= v / levels), over levels."""
        weights, total = self.log_weights.exp(), torch.zeros_like(self.loc)
        for v in range(1, self.levels + 1):
            total = total + torch.sigmoid((self.loc - (2 * v - 1) / self.levels + 1) / self.scale)
        return (weights * total).sum(-1) / self.levels

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw a component and a logistic, and round to the next level."""
        with torch.no_grad():
            shape = self._extended_shape(sample_shape)
            which = dist.Categorical(logits=self.log_weights).sample(sample_shape).unsqueeze(-1)
            loc, scale = (
                t.expand(*shape, t.shape[-1]).gather(-1, which).squeeze(-1)
                for t in (self.loc, self.scale)
            )
            u = torch.rand_like(loc).clamp(1e-7, 1 - 1e-7)
            y = loc + scale * torch.logit(u)
            return ((y + 1) / 2 * self.levels).round().clamp(0, self.levels) / self.levels


class _Categorical(dist.Categorical):
    """Over the values 0, 1/levels, ..., 1, and with a mean."""

    @property
    def levels(self) -> int:
        return self.logits.shape[-1] - 1

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        return _Grid(self.levels)

    @property
    def mean(self) -> Tensor:
        values = torch.arange(self.levels + 1, dtype=self.probs.dtype, device=self.probs.device)
        return (self.probs * values).sum(-1) / self.levels

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        places = (value * self.levels).round().long().unsqueeze(-1)
        shape = torch.broadcast_shapes(places.shape[:-1], self.batch_shape)
        logits = self.logits.expand(*shape, self.levels + 1)
        return logits.gather(-1, places.expand(*shape, 1)).squeeze(-1)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return super().sample(sample_shape).to(self.logits.dtype) / self.levels

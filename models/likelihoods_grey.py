"""Likelihoods of grey values in [0, 1] taken as real numbers."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional as F

from .likelihoods import Likelihood


class ContinuousBernoulli(Likelihood):
    r"""Grey values: :math:`p(x_d) = e^{l_d x_d}\, l_d / (e^{l_d} - 1)` on [0, 1].

    It is :math:`\sigma(l)^x (1 - \sigma(l))^{1 - x}`, the cross-entropy of grey values, made a
    density by the normaliser that many programs leave out. For images that are nearly black and
    white, as MNIST. The density of an element that is 0 in all data grows with -l without end, if
    slowly: state how long you trained, or dequantise. Loaiza-Ganem and Cunningham 2019,
    arXiv 1907.06845.
    """

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return the product of continuous Bernoulli distributions with these logits."""
        return _ContinuousBernoulli(logits=parameters).to_event(len(self.event_shape))


class Beta(Likelihood):
    r"""Grey values inside (0, 1): :math:`x_d \sim \mathrm{Beta}(\alpha_d, \beta_d)`.

    The decoder puts out two numbers an element, shape (2, *event_shape), and alpha and beta are
    0.001 + softplus of them. At 0 and 1 the density is 0 or infinite: dequantise 8-bit
    images (`inference.data.Dequantised`); values at the ends lie outside the support.
    """

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """Alpha and beta of each element, before softplus."""
        return (2, *self.event_shape)

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return the product of Beta distributions."""
        dims = len(self.event_shape)
        alpha, beta = (0.001 + F.softplus(parameters)).unbind(-1 - dims)
        return _Beta(alpha, beta).to_event(dims)


class _ContinuousBernoulli(dist.ContinuousBernoulli):
    """torch's own, computed from the logits: there the normaliser stops at logits of +-16."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return l (x - 1/2) - log(sinh(l / 2) / (l / 2)), the latter an even function of l."""
        large, near = self._sizes()
        far = large / 2 + torch.log(-torch.expm1(-large)) - large.log()
        series = near.square() / 24 * (1 - near.square() / 120)
        return self.logits * (value - 0.5) - torch.where(self._is_near(), series, far)

    @property
    def mean(self) -> Tensor:
        """1 / (1 - exp(-l)) - 1 / l."""
        large, near = self._sizes()
        far = (1 / torch.tanh(large / 2) / 2 - 1 / large) * self.logits.sign()
        return 0.5 + torch.where(self._is_near(), near / 12 * (1 - near.square() / 60), far)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        r"""Invert the distribution function.

        .. math:: x = \log(1 - u + u e^l) / l

        Of a negative logit this is mirrored, so that nothing overflows. Near 0 it is the series of
        Bernoulli(u)'s cumulants, :math:`u + v l / 2 + v (1 - 2 u) l^2 / 6 + \dots` with
        :math:`v = u (1 - u)`, whose gradient keeps its digits.
        """
        shape = self._extended_shape(sample_shape)
        u = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        large, near = self._sizes()
        far = 1 + torch.log(u + (1 - u) * torch.exp(-large)) / large
        far = torch.where(self.logits > 0, far, 1 - far)
        u = torch.where(self.logits > 0, u, 1 - u)
        v, skew = u * (1 - u), 1 - 2 * u
        higher = (1 - 6 * v) / 24 + near * skew * (1 - 12 * v) / 120
        series = u + v * near * (0.5 + near * (skew / 6 + near * higher))
        return torch.where(self._is_near(), series, far).clamp(0, 1)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw without gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def _is_near(self) -> Tensor:
        return self.logits.abs() < 0.1  # the next terms of the series are below 1e-9 there

    def _sizes(self) -> tuple[Tensor, Tensor]:
        """Return |l| held away from 0, and l held near it, each safe in its own formula."""
        near = self._is_near()
        size = self.logits.abs()
        return torch.where(near, torch.ones_like(size), size), torch.where(near, self.logits, 0.0)


class _OpenUnitInterval(constraints.Constraint):
    def check(self, value: Tensor) -> Tensor:
        return (value > 0) & (value < 1)

    def __repr__(self) -> str:
        return "0 < x < 1, the ends excluded: dequantise 8-bit images"


class _Beta(dist.Beta):
    """torch's own, but without the ends."""

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        return _OpenUnitInterval()

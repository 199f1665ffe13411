"""Likelihoods of counts: of cells' transcripts, of documents' words.

An encoder wants log(1 + x), not x (`guides.LogMLP`): counts span orders of magnitude.
"""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional as F

from .likelihoods import Likelihood

SPAN = (-40.0, 12.0)
"""Range of the decoder's output h: beyond it means vanish in float32, or swamp the loss."""


class Rates(Likelihood):
    r"""Counts whose means come from the decoder's output h: :math:`\mu_d = (L/D)\, e^{h_d}`.

    Its softmax is what single-cell models call the proportions, and the sum of all means the
    library size, so the depth of a cell is a function of z like everything else. The library
    that scVI reads off the datum, the sum of x itself, is left out: a mass whose mean depends on x
    does not sum to 1 over x. Outputs below -40 count as -40, those above 12 as 12.
    To take the total as given, use `Multinomial`.

    Args:
        event_shape: shape of one datum.
        library: total L of a typical datum, for a start near the data; None is one an element.
    """

    def __init__(self, event_shape: tuple[int, ...], library: float | None = None) -> None:
        super().__init__(event_shape)
        if library is not None and not library > 0:
            raise ValueError(f"Expected a library above 0; got {library}.")
        self.shift = math.log(library / math.prod(self.event_shape)) if library else 0.0

    def log_mean(self, h: Tensor) -> Tensor:
        """Return the logarithm of the means for the decoder's output."""
        return h.clamp(*SPAN) + self.shift


class Poisson(Rates):
    r"""Counts: :math:`x_d \sim \mathrm{Poisson}(\mu_d)`, :math:`\mu_d = (L/D)\, e^{h_d}`.

    For counts whose variance is their mean; where it is larger, take `NegativeBinomial`.

    Args:
        event_shape: shape of one datum.
        library: total L of a typical datum, for a start near the data; None is one an element.
    """

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return the product of Poisson distributions."""
        return _Poisson(self.log_mean(parameters).exp()).to_event(len(self.event_shape))


class NegativeBinomial(Rates):
    r"""Counts of variance :math:`\mu_d + \mu_d^2 / r_d`: a Poisson with a gamma variable as rate.

    :math:`\mu_d = (L/D)\, e^{h_d}`, and :math:`r_d` is learned, one an element for all data. For
    transcripts of single cells, whose depth is a function of z here (see `Poisson` for L, and
    `Multinomial` for totals taken as given). Lopez et al. 2018 (scVI),
    doi 10.1038/s41592-018-0229-2.

    Args:
        event_shape: shape of one datum.
        library: total L of a typical datum, for a start near the data; None is one an element.
    """

    def __init__(self, event_shape: tuple[int, ...], library: float | None = None) -> None:
        super().__init__(event_shape, library)
        self.log_r = nn.Parameter(torch.zeros(self.event_shape))

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return the product of negative binomial distributions."""
        return self.with_means(parameters).to_event(len(self.event_shape))

    def with_means(self, parameters: Tensor) -> "_NegativeBinomial":
        """Return the distributions of the single elements."""
        odds = self.log_mean(parameters) - self.log_r
        return _NegativeBinomial(self.log_r.exp(), logits=odds)


class ZeroInflatedNegativeBinomial(NegativeBinomial):
    r"""Counts that are 0 with probability :math:`\sigma(g_d)`, else as in `NegativeBinomial`.

    For assays that lose whole transcripts; with molecule counts (UMI) the plain one is often
    enough. The decoder puts out h and g, shape (2, *event_shape). Lopez et al. 2018 (scVI),
    doi 10.1038/s41592-018-0229-2.

    Args:
        event_shape: shape of one datum.
        library: total L of a typical datum, for a start near the data; None is one an element.
    """

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """Log mean and logit of the gate of each element."""
        return (2, *self.event_shape)

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return the product of zero-inflated negative binomial distributions."""
        dims = len(self.event_shape)
        h, gate = parameters.unbind(-1 - dims)
        counts = self.with_means(h)
        return dist.ZeroInflatedDistribution(counts, gate_logits=gate).to_event(dims)


class Multinomial(Likelihood):
    r"""Counts given their total n: :math:`\log P(x \mid n) = \log\frac{n!}{\prod_d x_d!} +
    \sum_d x_d \log \mathrm{softmax}(l)_d`.

    For bags of words. The total is that of each datum and not modelled: nats of P(x given n) do not
    compare with those of `Poisson`, which models it. Perplexity leaves the first term out: it is
    that of a document's words in their order. Miao et al. 2016 (NVDM), arXiv 1511.06038.

    Args:
        event_shape: shape of one datum; the elements are the categories.
        total_count: total of what is drawn or expected; data keep their own.
    """  # noqa: D205

    def __init__(self, event_shape: tuple[int, ...], total_count: int = 100) -> None:
        super().__init__(event_shape)
        if total_count < 1:
            raise ValueError(f"Expected total_count of at least 1; got {total_count}.")
        self.total_count = total_count

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return the multinomial distribution over the whole datum."""
        return _Multinomial(parameters, len(self.event_shape), self.total_count)


class _Poisson(dist.Poisson):
    """torch's own, summed in 64 bits.

    At large counts log x! and x log mu are both about x log x: in 32 bits their difference, a few
    nats, is off by 0.06 at 100,000.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        x, rate = value.double(), self.rate.double()
        return (x.xlogy(rate) - rate - torch.lgamma(x + 1)).to(self.rate)


class _NegativeBinomial(dist.NegativeBinomial):
    """torch's own, summed in 64 bits, and exact where r is large: nearly a Poisson."""

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        x, r, logits = value.double(), self.total_count.double(), self.logits.double()
        orders = _log_rising(r, x) - torch.lgamma(x + 1)
        chances = r * F.logsigmoid(-logits) + x * F.logsigmoid(logits)
        return (orders + chances).to(self.logits)


def _log_rising(r: Tensor, x: Tensor) -> Tensor:
    """Return log(Gamma(r + x) / Gamma(r)), where r is large by Stirling's series."""
    large = r > 8
    big = torch.where(large, r, 8.0)
    ratio = torch.log1p(x / big)
    series = (big + x - 0.5) * ratio + x * (big.log() - 1) + _stirling(big + x) - _stirling(big)
    small = torch.where(large, 8.0, r)
    return torch.where(large, series, torch.lgamma(small + x) - torch.lgamma(small))


def _stirling(t: Tensor) -> Tensor:
    """Return what lgamma(t) has beyond (t - 1/2) log t - t + log(2 pi) / 2, to 1e-9 for t > 8."""
    return (1 / 12 - (1 / 360 - 1 / (1260 * t.square())) / t.square()) / t


class _Multinomial(TorchDistribution):
    """Each value has the mass that it has among the values of its own total."""

    arg_constraints: Any = {}  # type: ignore[misc]  # noqa: RUF012  (every real number will do)

    def __init__(
        self, logits: Tensor, dims: int, total_count: int, validate_args: bool | None = None
    ) -> None:
        flat = logits.flatten(-dims) if dims else logits.unsqueeze(-1)
        self.logits = flat
        self.total_count = total_count
        shape = logits.shape
        batch = len(shape) - dims
        super().__init__(shape[:batch], shape[batch:], validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        return constraints.independent(constraints.nonnegative_integer, len(self.event_shape))

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "_Multinomial":
        new: Any = self._get_checked_instance(_Multinomial, _instance)
        new.logits = self.logits.expand(*batch_shape, self.logits.shape[-1])
        new.total_count = self.total_count
        TorchDistribution.__init__(new, torch.Size(batch_shape), self.event_shape, False)
        new._validate_args = self._validate_args  # noqa: SLF001
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        dims = len(self.event_shape)
        x = (value.flatten(-dims) if dims else value.unsqueeze(-1)).double()
        orders = torch.lgamma(x.sum(-1) + 1) - torch.lgamma(x + 1).sum(-1)
        log_p = self.logits.double().log_softmax(-1)  # in 32 bits it sums to 1 to 1e-6, times x
        return (orders + (x * log_p).sum(-1)).to(self.logits)

    @property
    def mean(self) -> Tensor:
        return (self.total_count * self.logits.softmax(-1)).unflatten(-1, self.event_shape)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            shape = self._extended_shape(sample_shape)
            batch = shape[: len(shape) - len(self.event_shape)]
            flat = self.logits.softmax(-1).expand(*batch, -1).reshape(-1, self.logits.shape[-1])
            words = torch.multinomial(flat, self.total_count, replacement=True)
            ones = torch.ones(words.shape, dtype=flat.dtype, device=flat.device)
            return torch.zeros_like(flat).scatter_add_(1, words, ones).reshape(shape)

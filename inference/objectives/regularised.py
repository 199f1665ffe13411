"""Objectives that are no bounds: the ELBO with its KL taken apart, or with another divergence."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.distributions import Distribution

from ..laws import factors
from ..log_weights import LogWeights, log_weights
from ..programs import Batch, Program
from .bounds import Estimate, Objective
from .divergences import aggregate_normal, wasserstein2
from .estimators import need_reparametrised


@dataclass(frozen=True)
class BetaTc(Objective):
    r"""The KL split into mutual information, total correlation and dimension-wise KL, weighted.

    .. math:: \mathbb E_x \mathrm{KL}(q(z|x) \| p(z)) = I_q(x; z)
              + \mathrm{KL}(q(z) \| \prod_j q(z_j)) + \sum_j \mathrm{KL}(q(z_j) \| p(z_j)),

    estimated by minibatch-weighted sampling,
    :math:`\log q(z) \approx \log \frac1{NB} \sum_m q(z \mid x_m)`. The loss is **no bound**, and
    its split is biased by the batch; the bound reported is the ELBO.

    Source: Chen et al. 2018, arXiv 1802.04942.

    Args:
        size: number N of training data.
        information: weight of the mutual information.
        correlation: weight of the total correlation; the paper's beta.
        dimensions: weight of the dimension-wise KL.
    """

    size: int
    information: float = 1.0
    correlation: float = 6.0
    dimensions: float = 1.0

    def __call__(self, model: Program, guide: Program, x: Batch) -> Estimate:
        """Run the pair on x; one latent site, or several, each with factors of its own."""
        weights = log_weights(model, guide, x)
        _need_plain(self, weights)
        loss = -weights.weighted_reconstruction.mean()
        for site in weights.draws:
            q = _factors(weights, site)
            z = weights.draws[site]
            pairs = q.log_prob(z.unsqueeze(-2))  # (B, B, Z): z_n under q( . | x_m)
            total = math.log(self.size * len(z))
            joint = pairs.sum(-1).logsumexp(1) - total
            product = (pairs.logsumexp(1) - total).sum(-1)
            log_q, log_p = weights.guide[site][0], weights.prior[site][0]
            parts = (log_q - joint, joint - product, product - log_p)
            scales = (self.information, self.correlation, self.dimensions)
            for scale, part in zip(scales, parts, strict=True):
                loss = loss + weights.loss_weight(site) * scale * part.mean()
        return _elbo_beside(weights, loss)


class Discrepancy(ABC):
    """How far the aggregate posterior q(z) = E_x q(z | x) is from the prior."""

    @abstractmethod
    def __call__(self, q: Any, p: Any, draws: Tensor) -> Tensor:
        """Return the discrepancy of a batch, shape (), differentiable.

        Args:
            q: q(z | x_n) for each of the B data, batch_shape (B,).
            p: p(z), batch_shape () or (B,).
            draws: z_n ~ q(z | x_n), (B, *event_shape).
        """


@dataclass(frozen=True)
class MaximumMeanDiscrepancy(Discrepancy):
    """MMD^2 between the guide's draws and as many of the prior; see `maximum_mean_discrepancy`."""

    def __call__(self, q: Any, p: Any, draws: Tensor) -> Tensor:
        """Return MMD^2, shape ()."""
        return maximum_mean_discrepancy(draws, p.expand(q.batch_shape).sample())


@dataclass(frozen=True)
class MatchedMoments(Discrepancy):
    r"""A divergence of two normals: the one with the moments of q(z), and p(z).

    With means :math:`\mu_n` and covariances :math:`S_n` of q(z | x_n), those moments are

    .. math:: \bar\mu = \frac1B \sum_n \mu_n, \qquad \bar S = \frac1B \sum_n S_n
              + (\mu_n - \bar\mu)(\mu_n - \bar\mu)'.

    Source: Kumar, Sattigeri and Balakrishnan 2018, arXiv 1711.00848 (DIP-VAE), with a divergence in
    place of their penalty.

    Args:
        divergence: of two normals; any of ``inference.objectives.divergences``.
    """

    divergence: Callable[[Any, Any], Tensor] = wasserstein2

    def __call__(self, q: Any, p: Any, draws: Tensor) -> Tensor:  # noqa: ARG002
        """Return the divergence, shape ().

        Raises:
            TypeError: q(z | x) or p(z) is no multivariate normal.
        """
        return self.divergence(aggregate_normal(q), p).mean()


@dataclass(frozen=True)
class InfoVae(Objective):
    r"""The ELBO with part of its KL exchanged for a discrepancy of q(z) from p(z).

    .. math:: \mathbb E \log p(x \mid z) - (1 - \alpha) \, \mathrm{KL}(q(z|x) \| p(z))
              - (\alpha + \lambda - 1) \, D(q(z), p(z))

    The loss is **no bound**; the bound reported is the ELBO.

    Sources: Zhao, Song and Ermon 2019, arXiv 1706.02262; Tolstikhin et al. 2018, arXiv 1711.01558
    (alpha 1, the Wasserstein autoencoder).

    Args:
        alpha: share of the KL that is exchanged.
        weight: lambda.
        discrepancy: D.
    """

    alpha: float = 0.0
    weight: float = 10.0
    discrepancy: Discrepancy = MaximumMeanDiscrepancy()

    def __call__(self, model: Program, guide: Program, x: Batch) -> Estimate:
        """Run the pair on x."""
        weights = log_weights(model, guide, x)
        _need_plain(self, weights)
        loss = ((1 - self.alpha) * weights.weighted_kl - weights.weighted_reconstruction).mean()
        for site, draws in weights.draws.items():
            q, p = weights.distributions(site)
            loss = loss + (self.alpha + self.weight - 1) * self.discrepancy(q, p, draws)
        return _elbo_beside(weights, loss)


def maximum_mean_discrepancy(a: Tensor, b: Tensor) -> Tensor:
    r"""Return the unbiased estimate of MMD^2 between two samples (B, Z), shape ().

    Its kernel is the inverse multiquadratic, :math:`k(a, b) = C / (C + \|a - b\|^2)`, C = 2 Z.

    Sources: Gretton et al. 2012; Tolstikhin et al. 2018, arXiv 1711.01558 (kernel).

    Raises:
        ValueError: a sample is smaller than 2.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"Expected samples of 2 or more; got {len(a)} and {len(b)}.")
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    scale = 2.0 * a.shape[1]

    def kernel(left: Tensor, right: Tensor) -> Tensor:
        squares = (left.unsqueeze(1) - right.unsqueeze(0)).square().sum(-1)
        return scale / (scale + squares)

    def within(sample: Tensor) -> Tensor:
        size = len(sample)
        return (kernel(sample, sample).sum() - size) / (size * (size - 1))  # k(a, a) = 1

    return within(a) + within(b) - 2 * kernel(a, b).mean()


def _need_plain(objective: Objective, weights: LogWeights) -> None:
    """Refuse sites that are not one reparametrised draw of each datum."""
    weights.need_local()
    need_reparametrised(objective, weights)
    for name in weights.draws:
        if len(shape := weights.sites.guide[name].distribution.batch_shape) != 1:
            raise ValueError(
                f"Site {name!r} has batch shape {tuple(shape)}, and {type(objective).__name__} "
                "needs one code of each datum: make the plates beside the data's event dimensions, "
                "by .to_event()."
            )


def _factors(weights: LogWeights, site: str) -> Distribution:
    q, _ = weights.distributions(site)
    each = factors(q)
    if len(q.event_shape) != 1 or each.event_shape:
        raise ValueError(
            f"BetaTc needs a posterior with independent coordinates; site {site!r} has "
            f"{type(q).__name__}. Take a diagonal family, or another objective."
        )
    return each


def _elbo_beside(weights: LogWeights, loss: Tensor) -> Estimate:
    reconstruction = weights.reconstruction.detach().mean()
    kl = weights.kl.detach().mean()
    return Estimate(loss, reconstruction - kl, reconstruction, kl)

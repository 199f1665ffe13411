"""Objectives of several draws that bring a gradient of their own, for sites of any kind."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from pyro import poutine
from torch import Tensor

from ..data_plate import densities_by_datum
from ..log_weights import LogWeights, log_weights
from ..programs import Batch, Program, as_tuple
from ..sites import Site, select, sites_of
from ..stores import param_store
from .bounds import Estimate, Objective
from .importance import Iwae


@dataclass(frozen=True)
class Chi(Objective):
    r"""The chi upper bound, CUBO: :math:`U_n = \frac1n \log \mathbb E_q w^n \ge \log p(x)`.

    It trains the guide alone, down towards log p(x), by the self-normalised score
    :math:`\frac{1 - n}n \sum_k \tilde w_k \nabla \log q(z_k \mid x)` with
    :math:`\tilde w_k \propto w_k^n`; the pathwise gradient of so few draws would drive them away
    from the posterior. With finitely many draws the bound is underestimated (Jensen), so that the
    value reported is an upper bound in the limit only.

    Source: Dieng et al. 2017, arXiv 1611.00328.

    Args:
        particles: number K of draws for each datum.
        order: n, above 1.
    """

    particles: int = 16
    order: float = 2.0

    def __post_init__(self) -> None:
        """Check that the order is above 1."""
        if not self.order > 1:
            raise ValueError(f"Expected an order above 1; got {self.order}.")

    def value(self, model: Program, guide: Program, x: Batch) -> Tensor:
        """Return less the upper bound, which goes up as the guide learns."""
        return -self(model, guide, x).bound.detach()

    def __call__(self, model: Program, guide: Program, x: Batch) -> Estimate:
        """Run the pair on x and return the guide's loss and the upper bound."""
        weights = log_weights(model, guide, x, self.particles, detach_draws=True)
        powers = self.order * weights.total.detach()
        bound = (powers.logsumexp(0) - math.log(self.particles)) / self.order
        gain = (1 - 1 / self.order) * (powers.softmax(0) * _score(weights)).sum(0)
        return _estimate(weights, -gain.mean(), bound.mean())


@dataclass(frozen=True)
class Tvo(Objective):
    r"""The thermodynamic bound: a left Riemann sum of the integral that is log p(x).

    .. math:: \log p(x) = \int_0^1 \mathbb E_{\pi_\beta} \log w \, d\beta
              \ge \sum_i (\beta_{i+1} - \beta_i) \, \mathbb E_{\pi_{\beta_i}} \log w, \qquad
              \pi_\beta \propto q \, w^\beta.

    One partition is the ELBO. The expectations are self-normalised over K draws, which biases them;
    the gradient is the covariance estimator, so that discrete sites are as good as others.

    Source: Masrani, Le and Wood 2019, arXiv 1907.00031.

    Args:
        particles: number K of draws for each datum, at least 2.
        partitions: number of intervals.
        first: the first beta above 0; the others are spaced evenly in log beta up to 1.
    """

    particles: int = 10
    partitions: int = 5
    first: float = 0.025

    def __post_init__(self) -> None:
        """Check that there are an interval and two particles, and that first is in (0, 1)."""
        if self.particles < 2 or self.partitions < 1 or not 0 < self.first < 1:
            raise ValueError(
                "Expected at least 2 particles, at least 1 partition and a first beta between 0 "
                f"and 1; got {self.particles}, {self.partitions} and {self.first}."
            )

    def betas(self) -> list[float]:
        """Return the ends of the intervals, from 0 to 1."""
        inner = self.partitions - 1
        return [0.0, *(self.first ** (1 - i / inner) for i in range(inner)), 1.0]

    @property
    def bounds_log_px(self) -> bool:
        """Whether what is optimised is a bound on log p(x), at KL weight 1."""
        return True

    def value(self, model: Program, guide: Program, x: Batch) -> Tensor:
        """Return the bound: a surrogate's value says nothing."""
        return self(model, guide, x).bound.detach()

    def __call__(self, model: Program, guide: Program, x: Batch) -> Estimate:
        """Run the pair on x and return the loss and the left Riemann sum."""
        weights = log_weights(model, guide, x, self.particles, detach_draws=True)
        weights.need_local()
        log_w, log_q = weights.weighted, _score(weights)
        gain, bound = torch.zeros_like(log_w[0]), torch.zeros_like(log_w[0])
        betas = self.betas()
        for low, high in pairwise(betas):
            chance = (low * log_w.detach()).softmax(0)
            expected = (chance * log_w).sum(0)
            centred = (log_w - expected).detach() * self.particles / (self.particles - 1)
            covariance = (chance * centred * (log_q + low * log_w)).sum(0)
            gain = gain + (high - low) * (expected + covariance)
            plain = (chance * weights.total.detach()).sum(0)
            bound = bound + (high - low) * plain
        return _estimate(weights, -gain.mean(), bound.mean())


@dataclass(frozen=True)
class WakeSleep(Objective):
    r"""Reweighted wake-sleep: the model on weighted draws, the guide on them or on dreams.

    Wake-theta ascends :math:`\sum_k \tilde w_k \nabla \log p(x, z_k)`; wake-phi
    :math:`\sum_k \tilde w_k \nabla \log q(z_k \mid x)`; sleep-phi
    :math:`\nabla \log q(z \mid x)` at (z, x) drawn from the model. The weights are normalised for
    each datum. The bound reported is the importance-weighted one.

    Source: Bornschein and Bengio 2015, arXiv 1406.2751.

    Args:
        particles: number K of draws for each datum.
        phi: which of the two trains the guide.
    """

    particles: int = 10
    phi: Literal["wake", "sleep"] = "wake"

    @property
    def bounds_log_px(self) -> bool:
        """Whether what is optimised is a bound on log p(x), at KL weight 1."""
        return True

    def value(self, model: Program, guide: Program, x: Batch) -> Tensor:
        """Return the bound: a surrogate's value says nothing."""
        return self(model, guide, x).bound.detach()

    def __call__(self, model: Program, guide: Program, x: Batch) -> Estimate:
        """Run the pair on x and return the loss and the importance-weighted bound."""
        bound = Iwae(self.particles)
        weights = log_weights(model, guide, x, self.particles, detach_draws=True)
        weights.need_local()
        normalised = weights.weighted.detach().softmax(0)
        log_p = weights.weighted + _log_q(weights)  # what is left is log p(x, z)
        gain = (normalised * log_p).sum(0).mean()
        if self.phi == "wake":
            return bound.estimate(weights, -gain - (normalised * _log_q(weights)).sum(0).mean())
        return bound.estimate(weights, -gain - _dream(model, guide, as_tuple(x)))


def _dream(model: Program, guide: Program, batch: tuple[Tensor, ...]) -> Tensor:
    """Return the mean log q(z | x) of a batch drawn from the model."""
    with param_store(model), torch.no_grad():
        real = select(sites_of(model, batch), "observed")
        dream = sites_of(poutine.uncondition(model), batch)
    names = {i: n for n, s in real.items() for i, t in enumerate(batch) if s.value is t}
    if 0 not in names:
        raise ValueError(
            "Sleep needs to know where a drawn x goes: no observed site has the batch itself as "
            "its obs=. Pass obs=x unchanged, or take WakeSleep(phi='wake')."
        )
    dreamt = tuple(dream[names[i]].value if i in names else t for i, t in enumerate(batch))
    values = {n: s.value for n, s in select(dream, "latent").items() if n not in real}
    with param_store(model), poutine.condition(data=values):
        held = select(sites_of(guide, dreamt), "observed", "factor")
    size = len(batch[0])
    terms = densities_by_datum(held, Site.log_prob, size, (1, size), only_data=False)
    return torch.stack(list(terms.values())).sum(0).mean()


def _log_q(weights: LogWeights) -> Tensor:
    """Return log q(z | x) of all latent sites (K, B), weighed as the log weights are."""
    found = weights.guide | dict(weights.scaled.guide)
    return torch.stack([weights.kl_weight.get(n, 1.0) * found[n] for n in weights.draws]).sum(0)


def _score(weights: LogWeights) -> Tensor:
    """Return log q(z | x) of all latent sites (K, B) as they are drawn, times the KL's weight."""
    terms = (weights.kl_weight.get(n, 1.0) * weights.score(n) for n in weights.draws)
    return torch.stack(list(terms)).sum(0)


def _estimate(weights: LogWeights, loss: Tensor, bound: Tensor) -> Estimate:
    return Estimate(loss, bound, weights.reconstruction.detach().mean(), weights.kl.detach().mean())

"""Importance-weighted bounds: reductions of K log weights between the ELBO and log p(x)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..log_weights import log_weights
from ..programs import Batch, Program, frozen
from ..stores import owner
from .bounds import Bound, Estimate, Objective


@dataclass(frozen=True)
class Iwae(Bound):
    r"""The importance-weighted bound :math:`L_K = \mathbb E \log \frac1K \sum_k w_k`.

    It rises with K from the ELBO to log p(x).

    Source: Burda, Grosse and Salakhutdinov 2016, arXiv 1509.00519.

    >>> from inference import DoublyReparametrised, Iwae
    >>> Iwae(64, estimator=DoublyReparametrised()).particles
    64

    Args:
        particles: number K of draws for each datum.
        estimator: how the gradient reaches the guide; DoublyReparametrised for large K, Vimco for
            discrete sites.
    """

    particles: int = 5
    importance = True

    def reduce(self, log_w: Tensor) -> Tensor:
        """Return log mean w over particles."""
        return log_w.logsumexp(0) - math.log(len(log_w))


@dataclass(frozen=True)
class Miwae(Bound):
    r"""The mean of M importance-weighted bounds of K / M particles each.

    Between the ELBO (M = K) and the bound of all K particles (M = 1), also in the noise of the
    guide's gradient.

    Source: Rainforth et al. 2018, arXiv 1802.04537.

    Args:
        particles: number K of draws for each datum, all groups together.
        estimator: how the gradient reaches the guide.
        groups: number M, a divisor of K.
    """

    particles: int = 8
    groups: int = 2

    def __post_init__(self) -> None:
        """Check that the number of groups divides the number of particles."""
        super().__post_init__()
        if self.groups < 1 or self.particles % self.groups:
            raise ValueError(
                f"Expected a number of groups that divides {self.particles} particles; got "
                f"{self.groups}."
            )

    def reduce(self, log_w: Tensor) -> Tensor:
        """Return the mean over groups of log mean w."""
        size = len(log_w) // self.groups
        return (log_w.unflatten(0, (self.groups, size)).logsumexp(1) - math.log(size)).mean(0)


@dataclass(frozen=True)
class Ciwae(Bound):
    r"""A mixture :math:`\beta L_1 + (1 - \beta) L_K` of the ELBO and the importance-weighted bound.

    Source: Rainforth et al. 2018, arXiv 1802.04537.

    Args:
        particles: number K of draws for each datum.
        estimator: how the gradient reaches the guide.
        beta: share of the ELBO, from 0 to 1.
    """

    particles: int = 8
    beta: float = 0.5

    def __post_init__(self) -> None:
        """Check that beta lies in [0, 1]."""
        super().__post_init__()
        if not 0 <= self.beta <= 1:
            raise ValueError(f"Expected a beta from 0 to 1; got {self.beta}.")

    def reduce(self, log_w: Tensor) -> Tensor:
        """Return the mixture of the two bounds."""
        importance = log_w.logsumexp(0) - math.log(len(log_w))
        return self.beta * log_w.mean(0) + (1 - self.beta) * importance


@dataclass(frozen=True)
class Renyi(Bound):
    r"""The variational Renyi bound.

    .. math:: L_\alpha = \frac1{1 - \alpha} \log \mathbb E_q \, w^{1 - \alpha}

    falls with alpha: log p(x) at 0 (the importance-weighted bound, estimated with K draws), the
    ELBO at 1. For alpha from 0 to 1 it is a lower bound, with K draws too; an alpha below 0 is an
    upper bound in the limit of many draws only.

    Source: Li and Turner 2016, arXiv 1602.02311.

    Args:
        particles: number K of draws for each datum.
        estimator: how the gradient reaches the guide.
        alpha: order of the divergence.
    """

    particles: int = 5
    alpha: float = 0.5

    def reduce(self, log_w: Tensor) -> Tensor:
        """Return the bound of order alpha."""
        if isinstance(self.alpha, Tensor):  # scheduled: its value is not read
            one = torch.eq(self.alpha, 1.0)
            power = torch.where(one, 1.0, 1 - self.alpha)
            return torch.where(one, log_w.mean(0), _renyi(log_w, power))
        return log_w.mean(0) if self.alpha == 1.0 else _renyi(log_w, 1 - self.alpha)


@dataclass(frozen=True)
class Piwae(Objective):
    r"""The model on the importance-weighted bound, the guide on the partial one (`Miwae`).

    The bound reported is that of all K particles. Model and guide must be modules of their own.

    Source: Rainforth et al. 2018, arXiv 1802.04537.

    Args:
        particles: number K of draws for each datum.
        groups: number M of groups for the guide, a divisor of K.
    """

    particles: int = 8
    groups: int = 2

    def __post_init__(self) -> None:
        """Check that the number of groups divides the number of particles."""
        Miwae(self.particles, groups=self.groups)

    @property
    def bounds_log_px(self) -> bool:
        """Whether what is optimised is a bound on log p(x), at KL weight 1."""
        return True

    def value(self, model: Program, guide: Program, x: Batch) -> Tensor:
        """Return the bound: a surrogate's value says nothing."""
        return self(model, guide, x).bound.detach()

    def __call__(self, model: Program, guide: Program, x: Batch) -> Estimate:
        """Run the pair twice on x: once for the model, once for the guide."""
        _need_two_modules(self, model, guide)
        whole, partial = Iwae(self.particles), Miwae(self.particles, groups=self.groups)
        weights = log_weights(model, guide, x, self.particles, detach_draws=True, detach_guide=True)
        with frozen(model):
            guided = log_weights(model, guide, x, self.particles)
        gain = whole.reduce(weights.weighted) + partial.reduce(guided.weighted)
        return whole.estimate(weights, -gain.mean())


def _renyi(log_w: Tensor, power: float | Tensor) -> Tensor:
    """Return log mean w^power / power, to all digits however small the power is.

    It is r + log(1 + mean(e^(power (log w - r)) - 1)) / power for any r; this takes the largest log
    weight, or the smallest for a power below 0, so that no exponent is above 0.
    """
    fixed = log_w.detach()
    largest, smallest = fixed.amax(0), fixed.amin(0)
    if isinstance(power, Tensor):
        start = torch.where(power > 0, largest, smallest)
    else:
        start = largest if power > 0 else smallest
    start = torch.where(start.isfinite(), start, 0.0)
    return start + torch.expm1(power * (log_w - start)).mean(0).log1p() / power


def _need_two_modules(objective: Objective, model: Program, guide: Program) -> None:
    mine, theirs = owner(model), owner(guide)
    if mine is None or theirs is None or mine is theirs:
        raise ValueError(
            f"{type(objective).__name__} holds the model's parameters while the guide learns, and "
            "tells them apart by their modules: make model and guide a PyroModule each."
        )

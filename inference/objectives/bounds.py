"""Objectives: hyper-parameters and a call that reduces the log weights to a loss and a bound."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Independent, kl_divergence

from ..kl_weight import KLWeight
from ..laws import factors
from ..log_weights import LogWeights
from ..programs import Batch, Program
from .estimators import Default, Estimator, Reduction, StickingTheLanding


class Estimate(NamedTuple):
    """An objective's result on one batch: scalars, in nats per datum.

    Args:
        loss: what to differentiate; goes down. Its value may be a surrogate's.
        bound: the bound itself, never weighted and never a surrogate; goes up.
        reconstruction: E_q log p(x | z).
        kl: KL(q(z | x) || p(z)), unweighted.
    """

    loss: Tensor
    bound: Tensor
    reconstruction: Tensor
    kl: Tensor


class Objective(ABC):
    """A reduction of a pair's log weights on a batch."""

    @property
    def state(self) -> nn.Module | None:
        """What it remembers between batches, saved with a run; None for most."""
        return None

    @property
    def bounds_log_px(self) -> bool:
        """Whether what is optimised is a bound on log p(x), at KL weight 1."""
        return False

    @abstractmethod
    def __call__(self, model: Program, guide: Program, x: Batch) -> Estimate:
        """Run the pair on x and estimate the objective."""

    def value(self, model: Program, guide: Program, x: Batch) -> Tensor:
        """Return an estimate of what is optimised, weights and all; no gradient, goes up."""
        return -self(model, guide, x).loss.detach()


@dataclass(frozen=True)
class Bound(Objective, Reduction):
    """A bound on log p(x) that is a reduction of the log weights, with a choice of estimator.

    Args:
        particles: number K of draws for each datum.
        estimator: how the gradient reaches the guide through its draws.
    """

    particles: int = 1
    estimator: Estimator = Default()  # noqa: RUF009  (frozen)

    def __post_init__(self) -> None:
        """Check that there is at least 1 particle."""
        if self.particles < 1:
            raise ValueError(f"Expected at least 1 particle; got {self.particles}.")

    @property
    def state(self) -> nn.Module | None:
        """What the estimator remembers between batches."""
        return self.estimator.state

    def __call__(self, model: Program, guide: Program, x: Batch) -> Estimate:
        """Run the pair on x and return the loss, the bound and the ELBO's two parts."""
        weights, surrogate = self.estimator(self, model, guide, x)
        return self.estimate(weights, -surrogate.mean())

    @property
    def bounds_log_px(self) -> bool:
        """Whether what is optimised is a bound on log p(x), at KL weight 1."""
        return True

    def value(self, model: Program, guide: Program, x: Batch) -> Tensor:
        """Return the bound, weights and all: a surrogate's value says nothing.

        That of a relaxed pair is its own bound, which is what is optimised.
        """
        if self.estimator.relaxes:
            return -self(model, guide, x).loss.detach()
        weights = self.weights(model, guide, x)
        log_w = weights.weighted if self.additive else weights.total
        return self.reduce(log_w).mean().detach()

    def estimate(self, weights: LogWeights, loss: Tensor) -> Estimate:
        """Return a loss with the bound of these log weights."""
        return Estimate(
            loss=loss,
            bound=self.reduce(weights.total.detach()).mean(),
            reconstruction=weights.reconstruction.detach().mean(),
            kl=weights.kl.detach().mean(),
        )


def with_estimator(objective: Objective, make: Callable[[], Estimator] | None) -> Objective:
    """Return the objective with another gradient estimator; None leaves it as it is.

    Raises:
        ValueError: the objective has a gradient of its own.
    """
    if make is None:
        return objective
    if not isinstance(objective, Bound):
        raise ValueError(
            f"{type(objective).__name__} has a gradient of its own: leave the estimator out."
        )
    return replace(objective, estimator=make())


@dataclass(frozen=True)
class Elbo(Bound):
    r"""The evidence lower bound, per datum.

    .. math:: \mathrm{ELBO} = \mathbb E_{q(z \mid x)} \log p(x \mid z) + \log p(z)
              - \log q(z \mid x),

    the mean over K draws. With the default estimator, loss and gradient are those of Pyro's
    ``Trace_ELBO`` to the last bits at the same seed, and with ``analytic_kl`` those of
    ``TraceMeanField_ELBO``. Under `KLWeight`, or with a beta, the loss is weighted and the bound is
    not; so it is where a program has a ``poutine.scale``. It is the only bound that a pair with
    sites outside the data plate has, whose terms all training data share (`DataSize`).

    Sources: Kingma and Welling 2014, arXiv 1312.6114; Higgins et al. 2017 (beta).

    >>> import torch
    >>> from guides import MLP, Amortized, DiagonalNormal
    >>> from inference import Elbo
    >>> from models import MLP as Decoder, VAE, Bernoulli, StandardNormal
    >>> model = VAE(StandardNormal(2), Decoder(2, (8,)), Bernoulli((8,)))
    >>> guide = Amortized(MLP((8,), 4), DiagonalNormal(2))
    >>> estimate = Elbo(particles=3)(model, guide, torch.zeros(5, 8))
    >>> torch.isclose(estimate.bound, estimate.reconstruction - estimate.kl)
    tensor(True)

    Args:
        particles: number K of draws for each datum.
        estimator: how the gradient reaches the guide through its draws.
        beta: weight of the KL in the loss, throughout.
        analytic_kl: take each site's KL in closed form, given the sites before it.
    """

    beta: float = 1.0
    analytic_kl: bool = False
    additive = True

    def __post_init__(self) -> None:
        """Check that beta is at least 0, and that the KL is wanted in one way only."""
        super().__post_init__()
        if self.beta < 0:
            raise ValueError(f"Expected a beta of at least 0; got {self.beta}.")
        if self.analytic_kl and isinstance(self.estimator, StickingTheLanding):
            raise ValueError(
                "A KL in closed form has no draws to differentiate through: take analytic_kl, or "
                "StickingTheLanding."
            )

    def reduce(self, log_w: Tensor) -> Tensor:
        """Return the mean over particles."""
        return log_w.mean(0)

    @property
    def bounds_log_px(self) -> bool:
        """Whether beta is 1, or moves."""
        return isinstance(self.beta, Tensor) or self.beta == 1.0

    def weights(self, model: Program, guide: Program, x: Batch, **detach: bool) -> LogWeights:
        """Run the pair, its latent sites weighed with beta."""
        scheduled = isinstance(self.beta, Tensor)  # whose value is not read
        if not scheduled and self.beta == 1.0 and not self.analytic_kl:
            return super().weights(model, guide, x, **detach)
        with KLWeight(self.beta):
            weights = super().weights(model, guide, x, **detach)
        return replace(weights, analytic_kl=self.analytic_kl)

    def estimate(self, weights: LogWeights, loss: Tensor) -> Estimate:
        """Return a loss with the ELBO and its two parts."""
        reconstruction = weights.reconstruction.detach().mean()
        # With every weight and scale at 1 the loss is the bound, and the KL is what is left of it.
        plain = not weights.kl_weight and not weights.is_scaled
        known = plain and type(self) is Elbo and isinstance(self.estimator, Default)
        kl = reconstruction + loss.detach() if known else weights.kl.detach().mean()
        return Estimate(loss, reconstruction - kl, reconstruction, kl)


@dataclass(frozen=True)
class FreeBits(Elbo):
    r"""The ELBO, its loss indifferent to the first nats of KL of each latent coordinate.

    .. math:: -\mathbb E \log p(x \mid z)
              + \sum_j \max\big(\lambda, \mathbb E_x \mathrm{KL}(q(z_j \mid x) \| p(z_j))\big)

    with the batch's mean in place of :math:`\mathbb E_x`. Coordinates count one by one where
    both densities factorise (``Independent``) and the KL has a closed form; else a site counts as
    one.

    Source: Kingma et al. 2016, arXiv 1606.04934.

    Args:
        particles: number K of draws for each datum.
        estimator: the default one.
        beta: weight of the KL in the loss, throughout.
        analytic_kl: take each site's KL in closed form, given the sites before it.
        nats: how many nats lambda are free.
    """

    nats: float = 0.1

    def __post_init__(self) -> None:
        """Check that nats is at least 0, and that the estimator is the default one."""
        super().__post_init__()
        if self.nats < 0:
            raise ValueError(f"Expected at least 0 free nats; got {self.nats}.")
        if not isinstance(self.estimator, Default):
            raise ValueError(
                f"FreeBits has no loss per particle for {type(self.estimator).__name__} to work "
                "on: leave the estimator out."
            )

    @property
    def bounds_log_px(self) -> bool:
        """Whether no nats are free."""
        return not isinstance(self.nats, Tensor) and self.nats == 0 and super().bounds_log_px

    def value(self, model: Program, guide: Program, x: Batch) -> Tensor:
        """Return what is optimised."""
        return -self(model, guide, x).loss.detach()

    def __call__(self, model: Program, guide: Program, x: Batch) -> Estimate:
        """Run the pair on x and return the loss, the ELBO and its two parts."""
        weights, surrogate = self.estimator(self, model, guide, x)
        loss = -surrogate.mean()
        for site in weights.draws:
            kl = _factorised_kl(weights, site)
            if kl is None:
                if weights.analytic_kl or site in weights.scored:  # no score cancels a sample's
                    whole = weights.closed_form_kl(site)
                else:
                    whole = weights.guide[site] - weights.prior[site]
                kl = weights.share(site, whole).mean()[None]
            weight = weights.loss_weight(site)
            loss = loss + weight * (self.nats - kl).clamp(min=0).sum()
        return self.estimate(weights, loss)


def _factorised_kl(weights: LogWeights, site: str) -> Tensor | None:
    """Return the batch's mean KL of each coordinate (Z,), or None where it has no closed form."""
    q, p = weights.distributions(site)
    if site in weights.outside or not (isinstance(q, Independent) and isinstance(p, Independent)):
        return None
    if q.batch_shape.numel() != weights.guide[site].numel():
        return None  # plates to the left of the data: a datum has several of them
    try:
        # The particles' plate expands q alone, and torch's KL of bits wants equal shapes.
        same = p.batch_shape == q.batch_shape
        value = kl_divergence(factors(q), factors(p if same else p.expand(q.batch_shape)))
    except NotImplementedError:
        return None
    batch = len(q.batch_shape)  # what comes after it is one datum's
    mask = weights.sites.guide[site].mask
    if mask is not None:
        seen = torch.as_tensor(mask, device=value.device).expand(q.batch_shape)
        value = value * seen.reshape(*q.batch_shape, *[1] * (value.dim() - batch))
    return value.reshape(value.shape[:batch].numel(), -1).mean(0)

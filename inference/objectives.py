"""Objectives: hyper-parameters and a call that reduces the log weights to a loss and a bound."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from .log_weights import LogWeights, log_weights
from .programs import Batch, Program


class Estimate(NamedTuple):
    """What an objective says of one batch: scalars, in nats per datum.

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

    @abstractmethod
    def __call__(self, model: Program, guide: Program, x: Batch) -> Estimate:
        """Run the pair on x and estimate the objective."""


@dataclass(frozen=True)
class Elbo(Objective):
    r"""The evidence lower bound, as Pyro's ``Trace_ELBO`` estimates it, per datum.

    .. math:: \mathrm{ELBO} = \frac{1}{KB} \sum_{kn} \log p(x_n \mid z_{kn}) + \log p(z_{kn})
              - \log q(z_{kn} \mid x_n), \qquad z_{kn} \sim q(z \mid x_n).

    Its gradient is pathwise where a site has a reparametrised sampler and the score function's
    where it has none, the same as Pyro's to the last bits at the same seed. Under `KLWeight` the
    loss is weighted; the bound is not.

    Sources: Kingma and Welling 2014, arXiv 1312.6114; Ranganath et al. 2014, arXiv 1401.0118
    (score function).

    Args:
        particles: number K of draws for each datum.
    """

    particles: int = 1

    def __post_init__(self) -> None:
        """Refuse a number of particles that draws nothing."""
        if self.particles < 1:
            raise ValueError(f"Expected at least 1 particle; got {self.particles}.")

    def __call__(self, model: Program, guide: Program, x: Batch) -> Estimate:
        """Run the pair on x and return the loss, the ELBO and its two parts."""
        weights = log_weights(model, guide, x, self.particles)
        weighted = weights.reconstruction - weights.weighted_kl
        if weights.scored:
            weighted = weighted + _score_function(weights, weighted.detach())
        loss = -weighted.mean()
        reconstruction = weights.reconstruction.detach().mean()
        # With every weight at 1 the loss is the bound, and the KL is what is left of it.
        kl = weights.kl.detach().mean() if weights.kl_weight else reconstruction + loss.detach()
        return Estimate(loss, reconstruction - kl, reconstruction, kl)


def _score_function(weights: LogWeights, reward: Tensor) -> Tensor:
    r"""Return zeros (K, B) whose gradient is that of the sites without a reparametrised sampler.

    For such a site s it is reward * grad log q_s in place of the pathwise - grad log q_s.
    """
    total = reward.new_zeros(())
    for site in weights.scored:
        score = weights.guide[site] - weights.guide[site].detach()
        total = total + score * reward + weights.kl_weight.get(site, 1.0) * weights.share(score)
    return total

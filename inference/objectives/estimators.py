r"""Gradient estimators: how a bound's gradient reaches the guide through its draws.

A bound is a reduction F of the log weights log w (K, B) to (B,); its gradient is
:math:`\nabla \mathbb E_{z \sim q} F(\log w(z))`. Each estimator runs the pair and returns the log
weights with a surrogate (B,) whose gradient, not whose value, is an estimate of it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..log_weights import LogWeights, log_weights
from ..programs import Batch, Program, as_tuple
from ..sites import Site
from .baselines import OfInput, RunningMean


class Reduction(ABC):
    """What an estimator needs to know of a bound.

    Attributes:
        particles: number K of draws for each datum.
        additive: whether the bound is the mean over particles, so that each has its own reward.
        importance: whether it is log mean w, the importance-weighted bound.
    """

    particles: int
    additive: ClassVar[bool] = False
    importance: ClassVar[bool] = False

    @abstractmethod
    def reduce(self, log_w: Tensor) -> Tensor:
        """Return the bound (...) of log weights (K, ...)."""

    def weights(self, model: Program, guide: Program, x: Batch, **detach: Any) -> LogWeights:
        """Run the pair for the log weights that the bound reduces."""
        return log_weights(model, guide, x, self.particles, **detach)


class Estimator(ABC):
    """A way to estimate a bound's gradient.

    Attributes:
        state: what it remembers between batches, saved with a run; None for most.
        relaxes: whether the surrogate is the bound of another, relaxed pair.
    """

    state: Any = None
    relaxes: ClassVar[bool] = False

    @abstractmethod
    def __call__(
        self, bound: Reduction, model: Program, guide: Program, x: Batch
    ) -> tuple[LogWeights, Tensor]:
        """Run the pair; return its log weights and the surrogate (B,) to maximise.

        Raises:
            ValueError: the estimator is wrong or biased for this bound or this guide.
        """


@dataclass(frozen=True)
class Default(Estimator):
    r"""Pathwise where a site has a reparametrised sampler, score function where it has none.

    As Pyro's ``Trace_ELBO``: for the ELBO the rewards are those of each particle, without baseline.
    A distribution with ``score_parts`` of its own, as a rejection sampler, has both: Naesseth et
    al. 2017, arXiv 1610.05683.

    Sources: Kingma and Welling 2014, arXiv 1312.6114; Ranganath et al. 2014, arXiv 1401.0118.
    """

    def __call__(
        self, bound: Reduction, model: Program, guide: Program, x: Batch
    ) -> tuple[LogWeights, Tensor]:
        """Run the pair; return its log weights and the surrogate (B,)."""
        weights = bound.weights(model, guide, x)
        surrogate = bound.reduce(weights.weighted)
        if not weights.scored and not weights.partly:
            return weights, surrogate
        reward = (weights.weighted if bound.additive else surrogate).detach()
        for score in weights.partly.values():
            term = reward * (score - score.detach())
            surrogate = surrogate + (term.mean(0) if bound.additive else term.sum(0))
        return weights, surrogate + _score_term(bound, weights, reward, weights.scored)


@dataclass(frozen=True)
class Pathwise(Estimator):
    r"""Differentiate through the draws: :math:`z = g_\phi(\epsilon, x)`.

    Unbiased for every bound; every latent site needs a reparametrised sampler.

    Source: Kingma and Welling 2014, arXiv 1312.6114.
    """

    def __call__(
        self, bound: Reduction, model: Program, guide: Program, x: Batch
    ) -> tuple[LogWeights, Tensor]:
        """Run the pair; return its log weights and the surrogate (B,)."""
        weights = bound.weights(model, guide, x)
        need_reparametrised(self, weights)
        return weights, bound.reduce(weights.weighted)


@dataclass(frozen=True)
class StickingTheLanding(Estimator):
    r"""Pathwise without the score :math:`\partial \log q / \partial \phi`, whose mean is zero.

    Where q is the posterior, every draw has the gradient zero. For the ELBO only: under an
    importance-weighted bound the score's mean is not zero any more.

    Source: Roeder, Wu and Duvenaud 2017, arXiv 1703.09194.
    """

    def __call__(
        self, bound: Reduction, model: Program, guide: Program, x: Batch
    ) -> tuple[LogWeights, Tensor]:
        """Run the pair; return its log weights and the surrogate (B,)."""
        if not bound.additive and bound.particles > 1:
            raise ValueError(
                f"StickingTheLanding is biased for {type(bound).__name__} with "
                f"{bound.particles} particles: take DoublyReparametrised, or Elbo."
            )
        weights = bound.weights(model, guide, x, detach_guide=True)
        need_reparametrised(self, weights)
        return weights, bound.reduce(weights.weighted)


@dataclass(frozen=True)
class DoublyReparametrised(Estimator):
    r"""DReG: the importance-weighted bound's gradient with its score reparametrised once more.

    .. math:: \nabla_\phi = \sum_k \tilde w_k^2 \frac{\partial \log w_k}{\partial z_k}
              \frac{\partial z_k}{\partial \phi}, \qquad
              \nabla_\theta = \sum_k \tilde w_k \frac{\partial \log w_k}{\partial \theta}.

    Unbiased; its signal-to-noise ratio grows with K where the pathwise one shrinks (Rainforth et
    al. 2018). Where q is the posterior its variance is zero.

    Source: Tucker et al. 2019, arXiv 1810.04152.
    """

    def __call__(
        self, bound: Reduction, model: Program, guide: Program, x: Batch
    ) -> tuple[LogWeights, Tensor]:
        """Run the pair; return its log weights and the surrogate (B,)."""
        if not bound.importance:
            raise ValueError(
                f"DoublyReparametrised is for Iwae; {type(bound).__name__} has another gradient. "
                "Take StickingTheLanding for Elbo, Pathwise for the others."
            )
        weights = bound.weights(model, guide, x, detach_guide=True)
        need_reparametrised(self, weights)
        normalised = weights.weighted.detach().softmax(0)  # (K, B)
        for name, draw in weights.draws.items():
            if draw.requires_grad:
                # What lies before this node, the model's parameters, keeps the first factor alone.
                factor = _like(normalised, weights.sites.guide[name])
                draw.register_hook(lambda grad, factor=factor: grad * factor)
        return weights, (normalised * weights.weighted).sum(0)


@dataclass(frozen=True)
class ScoreFunction(Estimator):
    r"""REINFORCE: :math:`\sum_k (r_k - b_k) \nabla \log q(z_k \mid x)` for every latent site.

    It needs only the guide's density, so it serves discrete sites and models that can't be
    differentiated. Unbiased with each of these baselines b: ``none``; ``running mean`` of the
    rewards of earlier batches; ``leave one out``, the mean reward of the datum's other particles;
    ``input dependent``, that running mean and a small network of x that learns the rest (NVIL).

    Sources: Williams 1992; Mnih and Gregor 2014, arXiv 1402.0030 (NVIL); Kool et al. 2019 (leave
    one out).

    Args:
        baseline: what is taken from the reward.
    """

    baseline: Literal["none", "running mean", "leave one out", "input dependent"] = "running mean"
    state: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Make what it remembers: a frozen dataclass takes it in this way alone."""
        made = OfInput() if self.baseline == "input dependent" else RunningMean()
        object.__setattr__(self, "state", made)

    def __call__(
        self, bound: Reduction, model: Program, guide: Program, x: Batch
    ) -> tuple[LogWeights, Tensor]:
        """Run the pair; return its log weights and the surrogate (B,)."""
        if self.baseline == "leave one out" and not (bound.additive and bound.particles > 1):
            raise ValueError(
                "The baseline 'leave one out' needs Elbo with 2 particles or more; got "
                f"{type(bound).__name__} with {bound.particles}. Take 'running mean', Vimco for "
                "Iwae, or more particles."
            )
        weights = bound.weights(model, guide, x, detach_draws=True)
        if self.baseline == "leave one out" and (shared := weights.outside & weights.draws.keys()):
            raise ValueError(
                f"Site {', '.join(map(repr, sorted(shared)))} lies outside the data plate: all "
                "particles share its draw, and then 'leave one out' leaves it no gradient. Take "
                "'running mean'."
            )
        log_w = weights.weighted
        reward = (log_w if bound.additive else bound.reduce(log_w)[None]).detach()
        if self.baseline == "leave one out":
            reward = reward - (reward.sum(0) - reward) / (bound.particles - 1)
        elif self.baseline == "running mean":
            reward = reward - self.state(reward)
        elif self.baseline == "input dependent":
            reward = reward - self.state(reward, as_tuple(x)[0])
        sites = weights.scored | weights.draws.keys()
        return weights, bound.reduce(log_w) + _score_term(bound, weights, reward, sites)


@dataclass(frozen=True)
class Vimco(Estimator):
    r"""The score function for the importance-weighted bound, each particle its own baseline.

    .. math:: r_k = \hat L - \log \frac1K \Big( \sum_{j \ne k} w_j + \bar w_{-k} \Big),

    with :math:`\bar w_{-k}` the geometric mean of the other weights. Unbiased, for discrete sites.

    Source: Mnih and Rezende 2016, arXiv 1602.06725.
    """

    def __call__(
        self, bound: Reduction, model: Program, guide: Program, x: Batch
    ) -> tuple[LogWeights, Tensor]:
        """Run the pair; return its log weights and the surrogate (B,)."""
        if not bound.importance or bound.particles < 2:
            raise ValueError(
                f"Vimco needs Iwae with 2 particles or more; got {type(bound).__name__} with "
                f"{bound.particles}. Take ScoreFunction for the others."
            )
        weights = bound.weights(model, guide, x, detach_draws=True)
        log_w, particles = weights.weighted, bound.particles
        fixed = log_w.detach()
        others = (fixed.sum(0) - fixed) / (particles - 1)  # log geometric mean, (K, B)
        replaced = fixed.expand(particles, *fixed.shape).clone()  # [k] is log w without particle k
        index = torch.arange(particles, device=fixed.device)
        replaced[index, index] = others
        reward = bound.reduce(fixed) - bound.reduce(replaced.transpose(0, 1))
        return weights, bound.reduce(log_w) + (reward * _log_q(weights)).sum(0)


def need_reparametrised(asking: object, weights: LogWeights) -> None:
    """Refuse sites whose draws lack a gradient."""
    says = f"{type(asking).__name__} differentiates through the draws, and site "
    if weights.scored:
        raise ValueError(
            f"{says}{', '.join(map(repr, sorted(weights.scored)))} has no reparametrised sampler. "
            "Take ScoreFunction, Vimco (for Iwae), DisArm or Rebar (for Elbo), or GumbelSoftmax."
        )
    if weights.partly:
        raise ValueError(
            f"{says}{', '.join(map(repr, sorted(weights.partly)))} is reparametrised in part (its "
            "distribution has score_parts of its own). Take Default, ScoreFunction or Vimco."
        )


def _log_q(weights: LogWeights) -> Tensor:
    """Return log q(z | x) of all latent sites (K, B), and of factors that belong to it."""
    terms = [weights.score(name) for name in {**weights.draws, **dict.fromkeys(weights.scored)}]
    return torch.stack(torch.broadcast_tensors(*terms)).sum(0)


def _score_term(
    bound: Reduction, weights: LogWeights, reward: Tensor, sites: Iterable[str]
) -> Tensor:
    """Return zeros (B,) with the gradient of reward * log q over these sites."""
    total = reward.new_zeros(())
    for site in sorted(sites):
        score = weights.score(site)
        score = score - score.detach()
        if bound.additive:
            # The mean over particles has 1/K of each one's reward. E grad log q = 0: without that
            # part of the direct gradient there is less noise.
            total = total + (reward * score).mean(0)
            if not weights.analytic_kl:
                weight = weights.kl_weight.get(site, 1.0)
                term = weights.scaled.guide.get(site, weights.guide[site])
                total = total + weight * weights.share(site, term - term.detach()).mean(0)
        else:
            total = total + (reward * score).sum(0)
    return total


def _like(value: Tensor, site: Site) -> Tensor:
    """Give (K, B) the shape of a site's value: its plates, the data's last, then its event."""
    event = [1] * len(site.distribution.event_shape)
    batch = site.value.shape[: site.value.dim() - len(event)]
    if batch[-2:] != value.shape:
        value = value.reshape(-1)  # a repeated batch, or one particle without its plate
    return value.reshape(*[1] * (len(batch) - value.dim()), *value.shape, *event)

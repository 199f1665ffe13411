"""Discrete sites of a guide, seen by their logits: bits and one-hot choices."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import MixtureSameFamily

from ..data_plate import Terms
from ..hard_laws import Linear
from ..laws import factors
from ..log_weights import LogWeights, carries_particles
from ..programs import Batch, Program, as_tuple
from .estimators import Reduction


@dataclass(frozen=True)
class Logits:
    """The law of bits or of one-hot vectors.

    Args:
        value: log odds (..., Z) of bits, or normalised log probabilities (..., C).
        bits: which of the two.
    """

    value: Tensor
    bits: bool

    def noisy(self) -> Tensor:
        """Return logits plus noise, logistic or Gumbel's, without gradient.

        A bit is whether it is above 0, and a choice is the place of the largest.
        """
        noise = torch.empty_like(self.value).exponential_().log()
        if self.bits:
            other = torch.empty_like(self.value).exponential_().log()
            return (self.value + other - noise).detach()
        return (self.value - noise).detach()

    def hard(self, noisy: Tensor) -> Tensor:
        """Return the draw that belongs to noisy logits."""
        if self.bits:
            return (noisy > 0).to(noisy.dtype)
        # torch's own one_hot reads values, which a capture can't.
        return torch.zeros_like(noisy).scatter_(-1, noisy.argmax(-1, keepdim=True), 1.0)

    def soft(self, noisy: Tensor, temperature: float | Tensor) -> Tensor:
        """Return the relaxed draw that belongs to noisy logits, within (0, 1)."""
        scaled = noisy / temperature
        return scaled.sigmoid() if self.bits else scaled.softmax(-1)

    def mean(self) -> Tensor:
        """Return probabilities."""
        return self.value.sigmoid() if self.bits else self.value.softmax(-1)


def logits_of(fn: Any) -> Logits | None:
    """Return the logits of a distribution's factors; None if it is not of this kind."""
    each: Any = factors(fn)
    if isinstance(each, dist.Bernoulli) and not each.has_rsample:
        return Logits(each.logits, bits=True)
    if isinstance(each, dist.OneHotCategorical) and not each.has_rsample:
        return Logits(each.logits, bits=False)
    return None


def linear(fn: Any) -> Any:
    """Return a distribution whose log density takes soft values and has a gradient by them.

    It is the same at hard ones.
    """
    found = logits_of(fn)
    if found is None:
        if not isinstance(fn, MixtureSameFamily):
            return fn
        parts = linear(fn.component_distribution)
        return dist.MixtureSameFamily(fn.mixture_distribution, parts, validate_args=False)
    kind = dist.Bernoulli if found.bits else Linear
    return like(fn, kind(logits=found.value, validate_args=False))


def like(fn: Any, each: Any) -> Any:
    """Give factors the event dimensions of the distribution that they stand for."""
    events = fn.event_dim - each.event_dim
    return each.to_event(events) if events else each


class LoneSite(Messenger):
    """Make the values of the guide's one latent site from its logits.

    Args:
        estimator: its name, for what is refused.
        make: from the logits (K, B, ...) to the values, of the same shape.

    Attributes:
        logits: of the site, once the guide has run.
    """

    def __init__(self, estimator: str, make: Callable[[Logits], Tensor]) -> None:
        super().__init__()
        self.estimator, self.make = estimator, make
        self.name: str | None = None
        self.logits: Logits | None = None

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg) or msg["infer"].get("enumerate"):
            return
        if msg["done"]:  # the model's, replayed
            msg["fn"] = linear(msg["fn"])
            return
        found = logits_of(msg["fn"])
        if self.name is not None:
            raise ValueError(
                f"{self.estimator} takes one latent site, and the guide has {self.name!r} and "
                f"{msg['name']!r}: the second may depend on the first. Take Vimco for Iwae, or "
                "ScoreFunction."
            )
        if found is None:
            raise ValueError(
                f"Site {msg['name']!r}: {self.estimator} is for Bernoulli or OneHotCategorical; "
                f"got {type(factors(msg['fn'])).__name__}. Take Vimco or ScoreFunction."
            )
        if len(msg["fn"].batch_shape) > 2:
            raise ValueError(
                f"Site {msg['name']!r} sits in a plate within the data's, and {self.estimator} "
                "takes one value a datum. Take ScoreFunction."
            )
        self.name, self.logits = msg["name"], found
        msg["fn"], msg["value"], msg["done"] = linear(msg["fn"]), self.make(found), True


def weigh(
    bound: Reduction, model: Program, guide: Program, x: Batch, site: LoneSite, times: int = 1
) -> LogWeights:
    """Run the pair on ``times`` as many particles as the bound has, with values of a lone site.

    Raises:
        ValueError: the bound is no mean over particles, or a site lies outside the data plate.
    """
    if not bound.additive:
        raise ValueError(
            f"{site.estimator} is for Elbo; {type(bound).__name__} is no mean over particles. "
            "Take Vimco for Iwae, ScoreFunction for the others."
        )
    carries_particles(model, guide, as_tuple(x))  # tried, if at all, before values are set
    many: Any = replace(cast(Any, bound), particles=times * bound.particles)
    with site:
        weights = many.weights(model, guide, x)
    weights.total  # noqa: B018  (raises where a site lies outside the data plate)
    if site.logits is None:
        raise ValueError(
            f"{site.estimator} is for a guide with a discrete site; this one draws none. Leave "
            "the estimator out."
        )
    return weights


def first(weights: LogWeights, particles: int) -> LogWeights:
    """Return the log weights of the first K particles."""

    def some(part: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value[:particles] for name, value in part.items()}

    if weights.analytic_kl:
        guide = {n: weights.closed_form_kl(n) for n in weights.draws}
        prior = {n: torch.zeros_like(value) for n, value in guide.items()}
        many = {
            n: weights.closed_form_kl(n, scaled=True) for n in weights.draws if weights.is_scaled
        }
        weights = replace(
            weights, guide=guide, prior=prior, analytic_kl=False,
            scaled=Terms(weights.scaled.likelihood, {}, many),
        )  # fmt: skip
    return replace(
        weights,
        likelihood=some(weights.likelihood),
        prior=some(weights.prior),
        guide=some(weights.guide),
        unmasked=some(weights.unmasked),
        scaled=Terms(*map(some, weights.scaled)),
    )


def by_particle(value: Tensor, particles: int, size: int) -> Tensor:
    """Return (K, B, D) of the (K, B, ...), (B, ...) or (K B, ...) of one site."""
    return value.reshape(particles, size, -1)


def without_score(weights: LogWeights) -> Tensor:
    """Return zeros (B,) that take the direct gradient of log q from an ELBO: its mean is zero."""
    total = torch.zeros(())
    for site in weights.draws:
        weight = weights.kl_weight.get(site, 1.0)
        term = weights.scaled.guide.get(site, weights.guide[site])
        total = total + weight * (term - term.detach()).mean(0)
    return total

"""Enumeration: the expectation over a discrete site with few values, exactly."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from .. import rng
from ..laws import factors
from ..log_weights import LogWeights, Terms, carries_particles
from ..programs import Batch, Program, as_tuple, evaluating
from ..sites import select, sites_of
from ..stores import param_store
from .estimators import Default, Estimator, Reduction


@dataclass(frozen=True)
class Enumerate(Estimator):
    r"""Sum over the values of each discrete site instead of drawing it; pathwise for the others.

    .. math:: \mathbb E_{q(y \mid x)} \log w(y) = \sum_y q(y \mid x) \log w(y),
              \qquad w(y) = \frac{p(x, y, z_y)}{q(y \mid x)\, q(z_y \mid x, y)}.

    For the ELBO, whose value and gradient have then no noise from those sites. All the discrete
    latent sites of the guide must be in the data plate and in no other, with finitely many values,
    as Categorical, OneHotCategorical and Bernoulli have; the values of independent
    factors (``to_event``) are combined, up to 4,096; the programs run on
    every combination at once, as on so many times more particles.

    Source: Kingma et al. 2014, arXiv 1406.5298 (the unlabelled bound of M2).
    """

    def __call__(
        self, bound: Reduction, model: Program, guide: Program, x: Batch
    ) -> tuple[LogWeights, Tensor]:
        """Run the pair; return its log weights, means over the values, and the surrogate (B,)."""
        if not bound.additive:
            raise ValueError(
                f"Enumerate takes expectations of log w, and {type(bound).__name__} is not one: "
                "take it with Elbo, or Vimco for Iwae."
            )
        batch, particles = as_tuple(x), bound.particles
        if not (sizes := _sizes(model, guide, batch)):  # a batch with its labels given
            return Default()(bound, model, guide, x)
        cases = math.prod(sizes.values())
        carries_particles(model, guide, batch)  # tried, if at all, before the values are set
        many: Any = replace(cast(Any, bound), particles=cases * particles)
        with _SetValues(sizes, cases * particles):
            weights = many.weights(model, guide, x)
        drawn = sorted(weights.scored - sizes.keys())
        if drawn:
            raise ValueError(
                f"Site {', '.join(map(repr, drawn))} can neither be summed over nor has it a "
                "reparametrised sampler. Take ScoreFunction."
            )
        expected = _expected(weights, list(sizes), particles)
        return expected, bound.reduce(expected.weighted)


class _SetValues(Messenger):
    """Give every particle a combination of values; case c of C belongs to the particles k C + c."""

    def __init__(self, sizes: dict[str, int], particles: int) -> None:
        super().__init__()
        self.sizes, self.particles = sizes, particles

    def _pyro_sample(self, msg: Any) -> None:
        name, fn = msg["name"], msg["fn"]
        if name not in self.sizes or msg["done"] or msg["is_observed"]:
            return  # the model's site comes replayed
        support = values_of(fn)
        before = list(self.sizes)[: list(self.sizes).index(name)]
        period = math.prod(self.sizes[each] for each in before)
        particle = torch.arange(self.particles, device=support.device)
        places = particle.div(period, rounding_mode="floor") % len(support)
        values = support.index_select(0, places)
        if fn.batch_shape[0] == self.particles:
            ones = [1] * (len(fn.batch_shape) - 1)
            values = values.reshape(-1, *ones, *fn.event_shape)
            values = values.expand(*fn.batch_shape, *fn.event_shape)
        else:  # the batch repeated
            values = values.repeat_interleave(fn.batch_shape[0] // self.particles, 0)
        msg["value"], msg["done"] = values, True


MOST_VALUES = 4096
"""That many values of one site are summed over; 12 bits have so many."""


def values_of(fn: Any) -> Tensor:
    """Return every value of a distribution, (S, *event_shape), of its factors together.

    Raises:
        NotImplementedError: it has no finite number of them.
        ValueError: there are too many.
    """
    each: Any = factors(fn)
    one = each.enumerate_support(expand=False).reshape(-1, *each.event_shape)
    count = math.prod(fn.event_shape[: len(fn.event_shape) - len(each.event_shape)])
    size = len(one) ** count
    if size > MOST_VALUES:
        raise ValueError(
            f"{count} factors of {len(one)} values have {len(one)}^{count} together, and Enumerate "
            f"sums over {MOST_VALUES:,} at most. Take Rebar, or Vimco for Iwae."
        )
    place = torch.arange(size, device=one.device).unsqueeze(1)
    period = len(one) ** torch.arange(count, device=one.device)
    chosen = one[place.div(period, rounding_mode="floor") % len(one)]
    return chosen.reshape(size, *fn.event_shape)


def _expected(weights: LogWeights, sites: list[str], particles: int) -> LogWeights:
    """Return the log weights (K, B) of K particles, their terms expectations over the sites."""
    weights.total  # noqa: B018  (raises where a site lies outside the data plate)
    q = reduce(add, (weights.score(site) for site in sites)).exp()

    def means(part: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {n: (q * v).unflatten(0, (particles, -1)).sum(1) for n, v in part.items()}

    prior, guide, scaled = weights.prior, weights.guide, weights.scaled
    if weights.analytic_kl:
        guide = {n: weights.closed_form_kl(n) for n in weights.draws}
        prior = {n: torch.zeros_like(value) for n, value in guide.items()}
        many = {n: weights.closed_form_kl(n, scaled=True) for n in weights.draws if any(scaled)}
        scaled = Terms(scaled.likelihood, {}, many)
    return replace(
        weights,
        likelihood=means(weights.likelihood),
        prior=means(prior),
        guide=means(guide),
        scaled=Terms(*map(means, scaled)),
        scored=frozenset(),
        analytic_kl=False,
    )


_known: WeakKeyDictionary[Any, dict[Any, dict[str, int]]] = WeakKeyDictionary()


def _sizes(model: Program, guide: Program, batch: tuple[Tensor, ...]) -> dict[str, int]:
    """Return how many values each discrete latent site of a guide has.

    They are found once for each kind of batch. One with more than x may have nothing to sum over,
    as it has where its labels are given.
    """
    known = _known.setdefault(getattr(guide, "__self__", guide), {})
    key = (getattr(guide, "__func__", None), *((t.dim(), t.dtype) for t in batch))
    if key not in known:
        with rng.isolated(), evaluating(guide), param_store(model):
            drawn = select(sites_of(guide, batch), "latent")
        found: dict[str, int] = {}
        for name, site in drawn.items():
            fn = site.distribution
            if fn.has_rsample or not site.in_data_plate(len(batch[0])):
                continue
            try:
                size = len(values_of(fn))
            except NotImplementedError:
                continue
            except ValueError as error:
                raise ValueError(f"Site {name!r}: {error}") from None
            if len(fn.batch_shape) > 1:
                inner = ", ".join(repr(p.name) for p in site.plates if p.dim != -1)
                raise ValueError(
                    f"Site {name!r} sits in a plate within the data's, {inner}: Enumerate sums "
                    "over one value a datum. Give each of them a site of its own, or take "
                    "ScoreFunction."
                )
            found[name] = size
        if not found and len(batch) == 1:
            raise ValueError(
                "Enumerate sums over discrete sites in the data plate with finitely many "
                "values, as Categorical has; the guide has none. Leave it out, or take "
                "ScoreFunction."
            )
        known[key] = found
    return known[key]

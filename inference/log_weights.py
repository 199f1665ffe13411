r"""The one tensor that everything reads: log w[k, n] = log p(x_n, z_kn) - log q(z_kn | x_n)."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial, reduce
from operator import add
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from . import rng
from .data_plate import Terms, densities_by_datum, known_data_size, outside_both
from .default_device import on_device_of
from .kl_weight import common_scale
from .programs import Batch, PairSites, Program, as_tuple, evaluating, need_guide, run, run_at, tile
from .sites import Site, select, with_density


@dataclass(frozen=True)
class LogWeights:
    r"""Log densities of one run of a pair, site by site, for K particles of each of B data.

    Every tensor has shape (K, B), in nats, or (K, 1) for a site outside the data plate. They are
    densities: what ``poutine.scale`` or `KLWeight` multiplies is in ``weighted`` alone, which
    losses are made of.

    Args:
        likelihood: log p(x | z) of each observed site, and of each factor in the model.
        prior: log p(z) of each latent site under the model.
        guide: log q(z | x) of each site under the guide.
        size: number B of data.
        draws: value of each latent site of the guide, the node that the densities hang on.
        sites: the model's and the guide's, for what the densities alone do not say.
        scored: the guide's latent sites that have no reparametrised sampler.
        kl_weight: what `KLWeight` multiplied a latent site's KL term by; a site left out has 1.
        analytic_kl: take the KL of each latent site in closed form, given the sites before it.
        unmasked: log q(z | x) of each latent site that the guide masks, without the mask.
        scaled: the terms that ``poutine.scale`` multiplied, times their scale; others are not in.
        outside: names of the sites outside the data plate.
        data_size: number N of training data, which such a site's terms are shared between; None
            is B.
    """

    likelihood: dict[str, Tensor]
    prior: dict[str, Tensor]
    guide: dict[str, Tensor]
    size: int
    draws: dict[str, Tensor]
    sites: PairSites
    scored: frozenset[str] = frozenset()
    kl_weight: Mapping[str, float | Tensor] = field(default_factory=dict)
    analytic_kl: bool = False
    unmasked: Mapping[str, Tensor] = field(default_factory=dict)
    scaled: Terms = field(default_factory=Terms)
    outside: frozenset[str] = frozenset()
    data_size: int | None = None

    @cached_property
    def reconstruction(self) -> Tensor:
        """Return log p(x | z) (K, B), summed over the observed sites."""
        return self._sum(self.likelihood)

    @cached_property
    def kl(self) -> Tensor:
        """Return log q(z | x) - log p(z) (K, B), or its mean in closed form; unweighted."""
        if self.analytic_kl:
            return self._sum({name: self.closed_form_kl(name) for name in self.draws})
        return self._sum(self.guide) - self._sum(self.prior)

    @property
    def is_scaled(self) -> bool:
        """Whether ``poutine.scale`` multiplied a term."""
        return any(self.scaled)

    @cached_property
    def weighted_reconstruction(self) -> Tensor:
        """Return log p(x | z) (K, B), each site times its scale."""
        if not self.scaled.likelihood:
            return self.reconstruction
        return self._sum({**self.likelihood, **self.scaled.likelihood})

    @cached_property
    def weighted_kl(self) -> Tensor:
        """Return the KL's estimate (K, B), each site times its weight and its scale."""
        if not self.kl_weight and not self.is_scaled:
            return self.kl
        weight = self.kl_weight
        if self.analytic_kl:
            kls = {name: self.closed_form_kl(name, scaled=True) for name in self.draws}
            return self._sum({k: weight.get(k, 1.0) * v for k, v in kls.items()})
        guide, prior = self.guide | dict(self.scaled.guide), self.prior | dict(self.scaled.prior)
        guide = {k: weight.get(k, 1.0) * v for k, v in guide.items()}
        prior = {k: weight.get(k, 1.0) * v for k, v in prior.items()}
        return self._sum(guide) - self._sum(prior)

    def distributions(self, site: str) -> tuple[Distribution, Distribution]:
        """Return q and p of one latent site, as the two programs made them."""
        return self.sites.guide[site].distribution, self.sites.model[site].distribution

    def closed_form_kl(self, site: str, *, scaled: bool = False) -> Tensor:
        """Return KL(q || p) of one latent site (K, B), given the sites before it.

        Args:
            site: its name.
            scaled: whether to multiply it by the guide's scale, as a loss does.

        Raises:
            ValueError: torch knows no closed form for the two distributions.
        """
        q, p = self.distributions(site)
        try:
            value = kl_divergence(q, p)
        except NotImplementedError:
            raise ValueError(
                f"Site {site!r}: no closed form is known for the KL of {type(q).__name__} to "
                f"{type(p).__name__}. Leave out analytic_kl."
            ) from None
        of = self.sites.guide[site]
        value = of.scaled(of.counted(value)) if scaled else of.counted(value)
        value = value.expand(value.shape if value.dim() else (1,))
        return value.reshape(-1, 1 if site in self.outside else self.size)

    def score(self, site: str) -> Tensor:
        """Return log q(z | x) of one latent site, as it is drawn: (K, B), or (K, 1).

        Neither a mask nor a scale changes what a site is drawn from, so that the gradient of an
        expectation over its draws has the plain score, as in Pyro.
        """
        return self.unmasked.get(site, self.guide[site])

    def loss_weight(self, site: str) -> float | Tensor:
        """Return what a loss multiplies the KL of one latent site by: `KLWeight` and scale.

        Raises:
            ValueError: model and guide scale it differently, or each datum by itself.
        """
        one = common_scale(self.sites.model[site], self.sites.guide[site])
        return one * self.kl_weight.get(site, 1.0)

    @cached_property
    def weighted(self) -> Tensor:
        """Return log p(x | z) less the weighted KL's single-sample estimate, (K, B)."""
        return self.weighted_reconstruction - self.weighted_kl

    @cached_property
    def total(self) -> Tensor:
        r"""Return log w = log p(x | z) + log p(z) - log q(z | x), shape (K, B).

        Raises:
            ValueError: a site lies outside the data plate, so no datum has a weight of its own.
        """
        if self.outside:
            raise ValueError(
                f"Site {', '.join(map(repr, sorted(self.outside)))} lies outside the data plate: "
                "the data share it and have no log weights of their own, so there is an ELBO and "
                "no multi-sample bound. Move the site into pyro.plate('data', len(x)), or use Elbo."
            )
        return self.reconstruction - self.kl

    def share(self, site: str, value: Tensor) -> Tensor:
        """Give each datum its part of a term of a site, where that is outside the data plate."""
        return value / (self.data_size or self.size) if site in self.outside else value

    def _sum(self, values: Mapping[str, Tensor]) -> Tensor:
        terms = [self.share(name, value) for name, value in values.items()]
        return reduce(add, terms) if terms else torch.zeros(())


def log_weights(
    model: Program,
    guide: Program,
    x: Batch,
    particles: int = 1,
    *,
    detach_draws: bool = False,
    detach_guide: bool = False,
    model_draws: bool = False,
) -> LogWeights:
    """Run guide and model once and return the log weights of K particles of each datum.

    The guide runs on the batch under an outer plate of K particles at dim -2, so that the encoder
    runs once a datum, and the model is replayed on what it drew. A pair whose code cannot carry
    the extra dimension is run on the batch repeated K times instead: same result, more work.

    >>> import torch
    >>> from guides import MLP, Amortized, DiagonalNormal
    >>> from inference import log_weights
    >>> from models import MLP as Decoder, VAE, Bernoulli, StandardNormal
    >>> model = VAE(StandardNormal(2), Decoder(2, (8,)), Bernoulli((8,)))
    >>> guide = Amortized(MLP((8,), 4), DiagonalNormal(2))
    >>> log_weights(model, guide, torch.zeros(5, 8), particles=3).total.shape
    torch.Size([3, 5])

    Args:
        model: p(z) p(x | z), conditioned on the batch with ``obs=``.
        guide: q(z | x).
        x: the batch (B, *event_shape), or a tuple that starts with it.
        particles: number K of draws from the guide for each datum.
        detach_draws: let the gradient reach the guide through log q alone, not through its draws.
        detach_guide: let it reach the guide through its draws alone: log q is evaluated on them by
            a second run of the guide with its parameters frozen, whatever its family.
        model_draws: take what the model draws of a latent site that the guide does not have. That
            is no log weight; it is for the parts of an ELBO of Pyro's that sums such sites out.

    Raises:
        ValueError: ``particles`` is below 1; or the guide lacks a latent site of the model; or a
            site's log density has no (K, B) shape.
    """
    batch = as_tuple(x)
    size = len(batch[0])
    if particles < 1:
        raise ValueError(f"Expected at least 1 particle; got {particles}.")
    shape = (particles, size)
    if particles > 1 and not carries_particles(model, guide, batch):
        batch, shape = tile(batch, particles), (1, particles * size)
    with on_device_of(batch):
        pair = run(model, guide, batch, shape[0], detach_draws, detach_guide)
        if not model_draws:
            need_guide(pair)
        return read(pair, size, shape)


def read(pair: PairSites, size: int, shape: tuple[int, int]) -> LogWeights:
    """Read two programs site by site; they saw data of ``shape`` (K, B) or (1, K * B).

    Raises:
        ValueError: a site's log density has no such shape, or the site is in the data's plate in
            one half only.
    """
    model, guide = pair
    seen = select(model, "observed", "factor")
    only_data = not any(site.in_data_plate(shape[1]) for site in seen.values())
    drawn = select(guide, "latent")
    densities = partial(densities_by_datum, size=size, shape=shape, only_data=only_data)
    parts = (seen, select(model, "latent"), with_density(guide))
    scaled = [{n: s for n, s in found.items() if s.is_scaled} for found in parts]
    shared = outside_both(model, guide, shape[1])
    return LogWeights(
        *(densities(found, Site.log_prob) for found in parts),
        size=size,
        draws={name: site.value for name, site in drawn.items()},
        sites=pair,
        scored=frozenset(n for n, site in drawn.items() if not site.distribution.has_rsample),
        kl_weight={n: s.kl_weight for n, s in drawn.items() if s.kl_weight is not None},
        unmasked=densities({n: s for n, s in drawn.items() if s.has_mask}, Site.score),
        scaled=Terms(*(densities(found, Site.scaled_log_prob) for found in scaled)),
        outside=shared,
        data_size=known_data_size(*pair) if shared else None,
    )


_carries: WeakKeyDictionary[Any, WeakKeyDictionary[Any, bool]] = WeakKeyDictionary()


def carries_particles(model: Program, guide: Program, batch: tuple[Tensor, ...]) -> bool:
    """Whether the pair has the same log weights under a particle plate as on a repeated batch.

    A trial on the pair's first batch finds it out, once, and leaves the random state alone.
    """
    # Each access makes a new bound method; the object that it belongs to lives on.
    key, inner = (getattr(program, "__self__", program) for program in (model, guide))
    known = _carries.setdefault(key, WeakKeyDictionary())
    if inner not in known:
        known[inner] = _try_particles(model, guide, batch)
    return known[inner]


def _try_particles(model: Program, guide: Program, batch: tuple[Tensor, ...]) -> bool:
    particles, size = 3, len(batch[0])
    try:
        with rng.isolated(), evaluating(model, guide):
            pair = run(model, guide, batch, particles)
            plate = read(pair, size, (particles, size))
            draws = {
                name: site.value.flatten(0, 1) if site.in_data_plate(size) else site.value
                for name, site in select(pair.guide, "latent").items()
            }
            pair = run_at(model, guide, tile(batch, particles), draws)
            tiled = read(pair, size, (1, particles * size))
            same = torch.allclose(plate.total, tiled.total, rtol=1e-3, atol=1e-2)
        reason = "its log weights under the plate differ from those of the repeated batch"
    except (RuntimeError, ValueError, LookupError, AssertionError) as error:
        same, reason = False, str(error).splitlines()[0]
    if not same:
        warnings.warn(
            f"The pair cannot carry a particle dimension at dim -2: {reason}. It runs on the "
            "batch repeated for every particle instead: same result, more work.",
            stacklevel=2,
        )
    return same

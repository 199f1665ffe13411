r"""The one tensor that everything reads: log w[k, n] = log p(x_n, z_kn) - log q(z_kn | x_n)."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, reduce
from operator import add
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from . import rng
from .default_device import on_device_of
from .programs import Batch, PairSites, Program, as_tuple, evaluating, run, run_at, tile
from .sites import Site, Sites, select, with_density


@dataclass(frozen=True)
class LogWeights:
    r"""Log densities of one run of a pair, site by site, for K particles of each of B data.

    Every tensor has shape (K, B), in nats, or (K, 1) for a site outside the data plate.

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

    @cached_property
    def reconstruction(self) -> Tensor:
        """Return log p(x | z) (K, B), summed over the observed sites."""
        return self._sum(self.likelihood.values())

    @cached_property
    def kl(self) -> Tensor:
        """Return log q(z | x) - log p(z) (K, B), or its mean in closed form; unweighted."""
        if self.analytic_kl:
            return self._sum(self.closed_form_kl(name) for name in self.draws)
        return self._sum(self.guide.values()) - self._sum(self.prior.values())

    @cached_property
    def weighted_kl(self) -> Tensor:
        """Return the KL's estimate (K, B), each site times its weight."""
        if not self.kl_weight:
            return self.kl
        if self.analytic_kl:
            weight = self.kl_weight
            return self._sum(weight.get(k, 1.0) * self.closed_form_kl(k) for k in self.draws)
        guide = (self.kl_weight.get(k, 1.0) * v for k, v in self.guide.items())
        prior = (self.kl_weight.get(k, 1.0) * v for k, v in self.prior.items())
        return self._sum(guide) - self._sum(prior)

    def distributions(self, site: str) -> tuple[Distribution, Distribution]:
        """Return q and p of one latent site, as the two programs made them."""
        return self.sites.guide[site].distribution, self.sites.model[site].distribution

    def closed_form_kl(self, site: str) -> Tensor:
        """Return KL(q || p) of one latent site (K, B), given the sites before it.

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
        value = self.sites.guide[site].scaled(value)
        return value.expand(value.shape if value.dim() else (1,)).reshape(-1, self.size)

    @cached_property
    def weighted(self) -> Tensor:
        """Return log p(x | z) less the weighted KL's single-sample estimate, (K, B)."""
        return self.reconstruction - self.weighted_kl

    @cached_property
    def total(self) -> Tensor:
        r"""Return log w = log p(x | z) + log p(z) - log q(z | x), shape (K, B).

        Raises:
            ValueError: a site lies outside the data plate, so no datum has a weight of its own.
        """
        sites = {**self.likelihood, **self.prior, **self.guide}
        shared = sorted(name for name, value in sites.items() if value.shape[1] != self.size)
        if shared:
            raise ValueError(
                f"Site {', '.join(map(repr, shared))} lies outside the data plate: the data share "
                "it and have no log weights of their own, so there is an ELBO and no multi-sample "
                "bound. Move the site into pyro.plate('data', len(x)), or use Elbo."
            )
        return self.reconstruction - self.kl

    def share(self, value: Tensor) -> Tensor:
        """Give each of the B data its part of a log density outside the data plate."""
        return value if value.shape[1] == self.size else value / self.size

    def _sum(self, values: Iterable[Tensor]) -> Tensor:
        terms = [self.share(value) for value in values]
        return reduce(add, terms) if terms else torch.zeros(())


def log_weights(
    model: Program,
    guide: Program,
    x: Batch,
    particles: int = 1,
    *,
    detach_draws: bool = False,
    detach_guide: bool = False,
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

    Raises:
        ValueError: ``particles`` is below 1, or a site's log density has no (K, B) shape.
    """
    batch = as_tuple(x)
    size = len(batch[0])
    if particles < 1:
        raise ValueError(f"Expected at least 1 particle; got {particles}.")
    shape = (particles, size)
    if particles > 1 and not carries_particles(model, guide, batch):
        batch, shape = tile(batch, particles), (1, particles * size)
    with on_device_of(batch):
        return read(run(model, guide, batch, shape[0], detach_draws, detach_guide), size, shape)


def read(pair: PairSites, size: int, shape: tuple[int, int]) -> LogWeights:
    """Read two programs site by site; they saw data of ``shape`` (K, B) or (1, K * B)."""
    particles = shape[0] * shape[1] // size

    def densities(found: Sites) -> dict[str, Tensor]:
        return {
            name: value.reshape(particles, size) if value.shape[1] > size else value
            for name, value in ((n, _log_density(s, shape)) for n, s in found.items())
        }

    drawn = select(pair.guide, "latent")
    return LogWeights(
        likelihood=densities(select(pair.model, "observed", "factor")),
        prior=densities(select(pair.model, "latent")),
        guide=densities(with_density(pair.guide)),
        size=size,
        draws={name: site.value for name, site in drawn.items()},
        sites=pair,
        scored=frozenset(n for n, site in drawn.items() if not site.distribution.has_rsample),
        kl_weight={n: s.kl_weight for n, s in drawn.items() if s.kl_weight is not None},
    )


def _log_density(site: Site, shape: tuple[int, int]) -> Tensor:
    """Return a site's log density (K, B), or (K, 1) outside the data plate; no KL weight in it."""
    particles, size = shape
    value = site.log_prob()
    expected = (particles, size if site.in_data_plate(size) else 1)
    if particles == 1 and value.dim() > 1:  # plates to the left of the data belong to the datum
        value = value.sum(tuple(range(value.dim() - 1)))
    if expected[1] == 1 and value.dim() == 0:
        value = value.expand(particles, 1)
    value = torch.atleast_2d(value)
    if value.shape != expected:
        raise ValueError(
            f"Expected a log density of shape {expected} at site {site.name!r}; got "
            f"{tuple(value.shape)}. Everything about one datum must be event dimensions "
            "(.to_event), inside pyro.plate('data', len(x))."
        )
    return value


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

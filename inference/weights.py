r"""The one tensor that everything reads: log w[k, n] = log p(x_n, z_kn) - log q(z_kn | x_n)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, reduce
from operator import add

import torch
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from .data_plate import Terms
from .kl_weight import common_scale
from .laws import point_of
from .programs import PairSites
from .sites import Site


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
        densities: takes a density, or a KL, of each of some sites by datum, as those above.
        scored: the guide's latent sites that have no reparametrised sampler, and its factors that
            don't come from one.
        partly: of each latent site that is reparametrised in part, as by a rejection sampler, the
            log density whose score its gradient needs besides; where its draws are not detached.
        kl_weight: what `KLWeight` multiplied a latent site's KL term by; a site left out has 1.
        analytic_kl: take the KL of each latent site in closed form, given the sites before it.
        unmasked: log q(z | x) of each latent site that the guide masks, without the mask.
        scaled: the terms that ``poutine.scale`` multiplied, times their scale; others are not in.
        outside: names of the sites outside the data plate.
        data_size: number N of training data, which such a site's terms are shared between; None
            is B.
        summed: names of the model's discrete sites that are summed out of its densities, which then
            are in one term each, log p(x | z) and log p(z).
    """

    likelihood: dict[str, Tensor]
    prior: dict[str, Tensor]
    guide: dict[str, Tensor]
    size: int
    draws: dict[str, Tensor]
    sites: PairSites
    densities: Callable[[dict[str, Site], Callable[[Site], Tensor]], dict[str, Tensor]]
    scored: frozenset[str] = frozenset()
    partly: Mapping[str, Tensor] = field(default_factory=dict)
    kl_weight: Mapping[str, float | Tensor] = field(default_factory=dict)
    analytic_kl: bool = False
    unmasked: Mapping[str, Tensor] = field(default_factory=dict)
    scaled: Terms = field(default_factory=Terms)
    outside: frozenset[str] = frozenset()
    data_size: int | None = None
    summed: tuple[str, ...] = ()

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
        """Return q and p of one latent site, as the two programs made them.

        Raises:
            ValueError: the model does not have it, as an auxiliary site of the guide.
        """
        if site not in self.sites.model:
            raise ValueError(
                f"Site {site!r} is in the guide alone (is_auxiliary): it has no prior, and no KL "
                "of its own that an objective could limit or weigh. Take Elbo, Iwae or another one "
                "that asks for log weights only."
            )
        return self.sites.guide[site].distribution, self.sites.model[site].distribution

    def closed_form_kl(self, site: str, *, scaled: bool = False) -> Tensor:
        """Return KL(q || p) of one latent site (K, B), given the sites before it.

        What the guide's other draws determine, as an autoguide's, has no closed form: a Delta, and
        an auxiliary site, are log q - log p at the draw. (The KL of a Delta to p that Pyro
        registers leaves out its ``log_density``.)

        Args:
            site: its name.
            scaled: whether to multiply it by the guide's scale, as a loss does.

        Raises:
            ValueError: torch knows no closed form for the two distributions.
        """
        if self.summed:
            raise ValueError(
                f"Site {', '.join(map(repr, self.summed))} is summed out, and then no closed form "
                f"is known for the KL of {site!r}. Leave out analytic_kl."
            )
        of = self.sites.guide[site]
        if site not in self.sites.model or point_of(of.distribution) is not None:
            ours, theirs = self.guide, self.prior
            if scaled:
                ours, theirs = {**ours, **self.scaled.guide}, {**theirs, **self.scaled.prior}
            return ours[site] - theirs.get(site, torch.zeros(()))
        q, p = self.distributions(site)
        try:
            # The particles' plate expands q alone, and torch's KL of bits wants equal shapes.
            same = p.batch_shape == q.batch_shape
            value = kl_divergence(q, p if same else p.expand(q.batch_shape))
        except NotImplementedError:
            raise ValueError(
                f"Site {site!r}: no closed form is known for the KL of {type(q).__name__} to "
                f"{type(p).__name__}. Leave out analytic_kl."
            ) from None
        value = of.scaled(of.counted(value)) if scaled else of.counted(value)
        return self.densities({site: of}, lambda _: value)[site]

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
        self.need_local()
        return self.reconstruction - self.kl

    def need_local(self) -> None:
        """Refuse sites outside the data plate, where an objective needs each datum's own terms.

        Raises:
            ValueError: there is one.
        """
        if self.outside:
            raise ValueError(
                f"Site {', '.join(map(repr, sorted(self.outside)))} lies outside the data plate: "
                "the data share it and have no log weights of their own, so there is an ELBO and "
                "no multi-sample bound. Move the site into pyro.plate('data', len(x)), or use Elbo."
            )

    def share(self, site: str, value: Tensor) -> Tensor:
        """Give each datum its part of a term of a site, where that is outside the data plate."""
        return value / (self.data_size or self.size) if site in self.outside else value

    def _sum(self, values: Mapping[str, Tensor]) -> Tensor:
        terms = [self.share(name, value) for name, value in values.items()]
        return reduce(add, terms) if terms else torch.zeros(())

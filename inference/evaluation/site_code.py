"""One latent site of N data: its draws and their densities."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from ..log_weights import LogWeights
from ..objectives.divergences import aggregate_normal
from ..sites import Site
from .moments import by_datum, data_dim, kl_by_dimension, mean


@dataclass(frozen=True)
class SiteCode:
    """One latent site of N data.

    Args:
        q: the guide's site in each pass over some of the data.
        p: the model's in each pass; None for an auxiliary site, which the guide has alone.
        draw: z_n ~ q(z | x_n), (N, ...).
        log_q: log q(z_n | x_n), (N,), nats.
        log_p: log p(z_n), (N,), nats; 0 for an auxiliary site.
        kl: KL(q(z | x_n) || p(z)) of each coordinate (N, Z), nats; else its estimate from the
            draw (N, 1).
        by_dimension: whether it is of each coordinate.
        mean: E_q[z | x_n] given the sites before it, (N, U).
        again: the same from another run of the guide, (N, U).
    """

    q: tuple[Site, ...]
    p: tuple[Site, ...] | None
    draw: Tensor
    log_q: Tensor
    log_p: Tensor
    kl: Tensor
    by_dimension: bool
    mean: Tensor
    again: Tensor

    def normals(self) -> tuple[MultivariateNormal, MultivariateNormal] | None:
        """Return the normals with the moments of q(z) and of p(z); None if they are not normals."""
        if not self.by_dimension or self.p is None:
            return None
        return _aggregate(self.q), _aggregate(self.p)


def site_code(q: Site, p: Site | None, twin: Site, weights: LogWeights) -> SiteCode:
    """Collect what one pass says of a site."""
    log_q = weights.guide[q.name][0]
    log_p = torch.zeros_like(log_q) if p is None else weights.prior[q.name][0]
    kl = None if p is None else kl_by_dimension(q, p, len(log_q))
    return SiteCode(
        q=(q,),
        p=None if p is None else (p,),
        draw=q.value.movedim(data_dim(q), 0),
        log_q=log_q,
        log_p=log_p,
        kl=(log_q - log_p).unsqueeze(1) if kl is None else kl,
        by_dimension=kl is not None,
        mean=by_datum(mean(q), q),
        again=by_datum(mean(twin), twin),
    )


def joined(passes: Sequence[SiteCode]) -> SiteCode:
    """Put the data of several passes one after the other."""

    def rows(quantity: Callable[[SiteCode], Tensor]) -> Tensor:
        return torch.cat([quantity(each) for each in passes])

    return SiteCode(
        q=tuple(site for each in passes for site in each.q),
        p=None if passes[0].p is None else tuple(site for each in passes for site in each.p or ()),
        draw=rows(lambda code: code.draw),
        log_q=rows(lambda code: code.log_q),
        log_p=rows(lambda code: code.log_p),
        kl=rows(lambda code: code.kl),
        by_dimension=all(each.by_dimension for each in passes),
        mean=rows(lambda code: code.mean),
        again=rows(lambda code: code.again),
    )


def _aggregate(passes: Sequence[Site]) -> MultivariateNormal:
    """Return the normal with the moments of a site's normals for all data."""
    loc = torch.cat([by_datum(site.distribution.mean, site) for site in passes]).double()
    scale = torch.cat([by_datum(site.distribution.stddev, site) for site in passes]).double()
    return aggregate_normal(Independent(Normal(loc, scale), 1))

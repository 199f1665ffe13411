"""Moments of a site's distribution, by datum: in closed form where there is one, else of draws."""

import torch
from torch import Tensor
from torch.distributions import Categorical, Normal, kl_divergence

from ..laws import factors
from ..sites import Site

DRAWS = 64
"""Draws that a mean or a standard deviation is taken over where it has no closed form."""


def data_dim(site: Site) -> int:
    """Return where the data are among a value's dimensions: last of the batch's."""
    return len(site.distribution.batch_shape) - 1


def by_datum(value: Tensor, site: Site) -> Tensor:
    """Bring the data's dimension to the front and flatten what belongs to one datum, (B, U)."""
    first = value.movedim(data_dim(site), 0)
    return first.reshape(len(first), -1)


def closed_form_mean(site: Site) -> Tensor | None:
    """Return E[z]; a Categorical's is that of its indicator; None where there is no closed form."""
    base = factors(site.distribution)
    if isinstance(base, Categorical):
        return base.probs
    try:
        return site.distribution.mean
    except NotImplementedError:
        return None


def mean(site: Site) -> Tensor:
    """Return `closed_form_mean`, or the mean of draws."""
    found = closed_form_mean(site)
    if found is not None:
        return found
    draws = site.distribution.sample(torch.Size((DRAWS,)))
    return draws.to(torch.result_type(draws, 1.0)).mean(0)


def deviation(site: Site) -> Tensor:
    """Return the standard deviation, or that of draws."""
    try:
        return site.distribution.stddev
    except NotImplementedError:
        return site.distribution.sample(torch.Size((DRAWS,))).std(0)


def kl_by_dimension(q: Site, p: Site, size: int) -> Tensor | None:
    """Return KL(q || p) of each coordinate (B, Z), or None where it has no such closed form."""
    for site in (q, p):
        if site.mask is not None:
            return None
        normal = isinstance(factors(site.distribution), Normal)
        if not normal or site.distribution.batch_shape != (size,):
            return None
    divergence = kl_divergence(factors(q.distribution), factors(p.distribution))
    return divergence.reshape(size, -1)

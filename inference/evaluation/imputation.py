"""Missing entries of data, filled in by a trained pair: self-normalised importance sampling."""

import math
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from ..check.observations import is_of
from ..check.sites import family
from ..laws import factors
from ..log_weights import log_weights
from ..programs import Batch, Program, as_tuple, evaluating, tile
from ..sites import Site, Sites, select
from .pareto import k_hat

ROWS = 2048
"""Data times particles that are in memory at once."""


@dataclass(frozen=True)
class Imputation:
    """What the missing entries of N data may be, given those observed.

    Args:
        x: the data, the missing entries at their posterior mean E[x_m | x_o], (N, *event_shape).
        draws: M data sets with the missing entries drawn from p(x_m | x_o), (M, N, *event_shape).
        ess: effective sample size of the K weights behind each datum, (N,); near 1 its entries hang
            on one draw.
        k_hat: Pareto k-hat of these weights, (N,), see `pareto.k_hat`; above 0.7 neither means nor
            draws are to be trusted: the guide is too narrow for x_o alone.
        log_px: K-sample bound on log p(x_o), nats, (N,).
    """

    x: Tensor
    draws: Tensor
    ess: Tensor
    k_hat: Tensor
    log_px: Tensor


def impute(
    model: Program,
    guide: Program,
    x: Batch,
    mask: Tensor,
    *,
    particles: int = 1000,
    draws: int = 0,
    rounds: int = 2,
) -> Imputation:
    r"""Fill in missing entries of x, given the observed ones x_o.

    .. math:: E[x_m \mid x_o] \approx \sum_k \bar w_k E[x_m \mid z_k], \qquad
              \bar w_k \propto \frac{p(z_k)\, p(x_o \mid z_k)}{q(z_k \mid \tilde x)},
              \quad z_k \sim q(z \mid \tilde x)

    The guide sees :math:`\tilde x`, with the missing entries as x has them in the first round,
    and as the round before imputed them later. That is no bias: the weights are those of x_o alone,
    and a poor guess costs effective sample size. Draws take z_k with probability
    :math:`\bar w_k`, then the entries from p(x | z_k).

    Source: Mattei and Frellsen 2019, arXiv 1812.02633.

    Args:
        model: p(z) p(x | z), where p(x | z) is a product over entries.
        guide: q(z | x).
        x: data (N, *event_shape) with finite values throughout, or a tuple that starts with it.
        mask: True where x is observed, (N, *event_shape).
        particles: number K of draws of z for each datum.
        draws: number M of data sets to draw.
        rounds: how often the guide looks.

    Raises:
        ValueError: the likelihood is no product over entries, or no site observes x.
    """
    batch, parts = as_tuple(x), []
    some = max(1, ROWS // particles)
    with evaluating(model, guide), pyro.validation_enabled(False):
        for places in map(slice, range(0, len(mask), some), range(some, len(mask) + some, some)):
            rows = [each[places] for each in batch]
            for _ in range(rounds - 1):
                rows[0] = _impute(model, guide, rows, mask[places], particles, 0).x
            parts.append(_impute(model, guide, rows, mask[places], particles, draws))
    return Imputation(
        torch.cat([part.x for part in parts]),
        torch.cat([part.draws for part in parts], 1),
        torch.cat([part.ess for part in parts]),
        torch.cat([part.k_hat for part in parts]),
        torch.cat([part.log_px for part in parts]),
    )


def _impute(
    model: Program, guide: Program, batch: list[Tensor], mask: Tensor, particles: int, draws: int
) -> Imputation:
    x, whole = batch[0], (particles, *batch[0].shape)
    weights = log_weights(model, guide, tuple(batch), particles)
    if weights.summed:
        raise ValueError(
            f"Site {', '.join(map(repr, weights.summed))} is summed out of p(x | z), which is then "
            "no product over entries: sample it in the guide to impute."
        )
    site = _site_of_x(select(weights.sites.model, "observed"), x, particles)
    entries = _entries(site, x.dim() - 1)
    observed = (entries.log_prob(site.value).reshape(whole) * mask).flatten(2).sum(2)
    log_w = (weights.total - weights.likelihood[site.name] + observed).double()
    normalised = log_w.softmax(0)
    means = normalised.reshape(*log_w.shape, *[1] * (x.dim() - 1)) * entries.mean.reshape(whole)
    drawn = x.new_zeros(draws, *x.shape)
    if draws:
        chosen = torch.multinomial(normalised.T, draws, replacement=True).T
        before = _times_before(chosen)
        for times in before.unique():  # one sample serves all draws that take each z_k once
            m, n = (before == times).nonzero(as_tuple=True)
            drawn[m, n] = entries.sample().reshape(whole)[chosen[m, n], n]
    return Imputation(
        x.where(mask, means.sum(0).to(x)),
        x.where(mask, drawn),
        1 / normalised.square().sum(0),
        k_hat(log_w),
        log_w.logsumexp(0) - math.log(particles),
    )


def _times_before(chosen: Tensor) -> Tensor:
    """Return how often each number stands above itself in its column.

    >>> _times_before(torch.tensor([[3, 0], [1, 0], [3, 1], [3, 0]])).T
    tensor([[0, 0, 1, 2],
            [0, 1, 0, 2]])
    """
    ordered, order = chosen.sort(dim=0, stable=True)
    row = torch.arange(len(chosen), device=chosen.device).unsqueeze(1).expand_as(chosen)
    same = torch.zeros_like(chosen, dtype=torch.bool)
    same[1:] = ordered[1:] == ordered[:-1]
    first = row.masked_fill(same, 0).cummax(0).values
    return torch.empty_like(chosen).scatter_(0, order, row - first)


def _site_of_x(observed: Sites, x: Tensor, particles: int) -> Site:
    for site in observed.values():
        if is_of(site.value, x) or is_of(site.value, tile((x,), particles)[0]):
            return site
    raise ValueError(
        f"No site observes x as it is ({', '.join(observed) or 'nothing is observed'}): its "
        "missing entries can't be told from the others."
    )


def _entries(site: Site, event_dim: int) -> Any:
    """Return the distribution of each entry, (*batch_shape, *event_shape) of them."""
    found: Any = factors(site.distribution)
    while isinstance(found, dist.MaskedDistribution):  # of what is missing, as a rule
        found = factors(found.base_dist)
    if found.event_shape or len(found.batch_shape) < event_dim:
        raise ValueError(
            f"Site {site.name!r}: {family(site)} is no product over the entries of x, so that some "
            "can't be left out. Take a likelihood that is one, as Normal or Bernoulli."
        )
    return found.expand(site.distribution.batch_shape + site.distribution.event_shape)

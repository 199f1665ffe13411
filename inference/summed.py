"""Discrete sites that only the model has, summed out of its density."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import reduce
from itertools import product
from math import prod
from operator import add
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Independent

from .data_plate import of_the_data
from .programs import PairSites, Program, run_model_at
from .sites import Site, select, with_density
from .weights import LogWeights

MOST_CASES = 1000
"""Combinations of values that are summed over, one run of the model each."""


def summed_sites(pair: PairSites, size: int) -> dict[str, Tensor]:
    """Return the values of each site that is summed out: latent in the model, not in the guide.

    They are those that the model marks, as TraceEnum_ELBO wants it: ``infer={"enumerate":
    "parallel"}``, or by ``config_enumerate``.

    Args:
        pair: one run of both programs.
        size: of the batch that they saw.

    Returns:
        By name, what ``enumerate_support`` returns, (C, *batch_shape, *event_shape).

    Raises:
        ValueError: such a site is not in the plate of the data alone, or there are too many
            combinations.
    """
    marked = {
        name: site
        for name, site in select(pair.model, "latent").items()
        if name not in pair.guide and site.infer.get("enumerate")
    }
    found = {name: _values(site, size) for name, site in marked.items()}
    if (cases := prod(map(len, found.values()))) > MOST_CASES:
        raise ValueError(
            f"The sites {', '.join(map(repr, found))}, which only the model has, have {cases:,} "
            f"combinations of values; at most {MOST_CASES:,} are summed over. Sample some of them "
            "in the guide, or give a chain of them one distribution, as dist.DiscreteHMM."
        )
    return found


def _values(site: Site, size: int) -> Tensor:
    if not site.in_data_plate(size):
        raise ValueError(
            f"Site {site.name!r}, which only the model has, is summed out datum by datum, and is "
            "in another plate than the data's. Sample it in the guide, or give the plate's members "
            "names of their own."
        )
    if partly := [f.name for f in site.frames if f.dim != -1 and f.full_size not in (None, f.size)]:
        raise ValueError(
            f"Site {site.name!r}, which only the model has, is summed out for each member of plate "
            f"{partly[0]!r}, which takes some of its members. Take them all, or sample the site in "
            "the guide."
        )
    try:
        fn: Any = site.distribution
        return fn.enumerate_support(expand=True)
    except NotImplementedError:
        raise ValueError(
            f"Site {site.name!r} is marked for enumeration, and {type(site.base).__name__} has no "
            "finite number of values. Sample it in the guide."
        ) from None


def cases_of(
    model: Program,
    batch: tuple[Tensor, ...],
    particles: int,
    pair: PairSites,
    values: dict[str, Tensor],
) -> list[PairSites]:
    """Run the model at each combination of values, at the same draws of the guide.

    Args:
        model: p(z) p(x | z).
        batch: its arguments.
        particles: with K > 1, the size of an outer plate at dim -2.
        pair: one run of both programs.
        values: of the sites to sum out.
    """
    drawn = {name: site.value for name, site in select(pair.guide, "latent").items()}
    found = []
    for chosen in product(*values.values()):
        at = {**drawn, **dict(zip(values, chosen, strict=True))}
        sites = run_model_at(model, batch, at, particles)
        found.append(PairSites(*of_the_data(sites, pair.guide)))
    return found


def summed_out(cases: list[LogWeights], values: Mapping[str, Tensor]) -> LogWeights:
    r"""Return the log weights with discrete sites of the model summed out.

    .. math:: \log p(z) = \log \sum_c p(z, c), \qquad
              \log p(x \mid z) = \log \sum_c p(x, z, c) - \log p(z)

    A site in plates within that of the data is summed out for each member by itself, and the
    members' sums multiply.

    Args:
        cases: for each combination of values c.
        values: of each of the sites.

    Raises:
        ValueError: ``poutine.scale`` multiplies a term, or one depends on a site and is not in all
            of its plates.
    """
    first = cases[0]
    if first.is_scaled:
        raise ValueError(
            f"Site {', '.join(map(repr, values))} is summed out, and poutine.scale multiplies a "
            "term: its sum is no mixture of densities. Weigh the KL by beta or KLWeight."
        )
    away = first.outside
    inner = {name: _inner(first.sites.model[name]) for name in values}
    shared = [
        {name: value for name, value in part.items() if name in away}
        for part in (first.likelihood, first.prior)
    ]
    seen = next(name for name in first.likelihood if name not in away)
    drawn = next((name for name in first.guide if name not in away), next(iter(values)))
    terms = _terms(cases, values)
    if any(inner.values()):
        _refuse_leaks(terms, inner)
    latent = select(first.sites.model, "latent")
    log_p = _summed([term for name, term in terms.items() if name in latent], inner)
    joint = _summed(list(terms.values()), inner)
    shape = first.likelihood[seen].shape
    return replace(
        first,
        likelihood={**shared[0], seen: (joint - log_p).reshape(shape)},
        prior={**shared[1], drawn: log_p.reshape(shape)},
        summed=tuple(values),
    )


class _Term(NamedTuple):
    """A log density for each combination of values of S sites, C_1 ... C_S.

    Args:
        density: (C_1, ..., C_S, *batch_shape), every term's batch with as many dimensions.
        inner: dims of the plates within that of the data, over which it is to be summed.
    """

    density: Tensor
    inner: frozenset[int]


def _inner(site: Site) -> frozenset[int]:
    dims = (frame.dim for frame in site.frames if frame.name != "particles")
    return frozenset(dim for dim in dims if dim not in (None, -1))


def _terms(cases: list[LogWeights], values: Mapping[str, Tensor]) -> dict[str, _Term]:
    """Return the density of each of the model's sites that not all data share."""
    first = cases[0]
    counts = list(map(len, values.values()))
    local = {n: s for n, s in with_density(first.sites.model).items() if n not in first.outside}
    found: dict[str, Tensor] = {}
    for name, site in local.items():
        each = torch.stack([case.sites.model[name].log_prob() for case in cases])
        density = each.unflatten(0, counts)
        if name in values and (site.has_mask or isinstance(site.distribution, Independent)):
            # Where it is masked it has no density, and all of its values together count once.
            density = density - density.logsumexp([*values].index(name), keepdim=True)
        found[name] = density
    longest = max(density.dim() for density in found.values())
    for name, density in found.items():
        ones = [1] * (longest - density.dim())
        found[name] = density.reshape(*counts, *ones, *density.shape[len(counts) :])
    return {name: _Term(density, _inner(local[name])) for name, density in found.items()}


def _summed(terms: list[_Term], inner: Mapping[str, frozenset[int]]) -> Tensor:
    """Sum sites out of a product of terms, those in the innermost plates first."""
    axes = {name: axis for axis, name in enumerate(inner)}
    groups = sorted({frozenset[int](), *inner.values()}, key=len, reverse=True)
    for plates in groups:
        within = [term for term in terms if term.inner >= plates]
        if not within:
            continue
        value = reduce(add, [_over(term.density, term.inner - plates) for term in within])
        sites = [axes[name] for name, dims in inner.items() if dims == plates]
        value = value.logsumexp(sites, keepdim=True) if sites else value
        around = max((group for group in groups if group < plates), key=len, default=plates)
        left = _Term(_over(value, plates - around), around)
        terms = [term for term in terms if not term.inner >= plates]
        for axis in sites:  # they do not depend on what is gone
            terms = [t._replace(density=t.density.narrow(axis, 0, 1)) for t in terms]
        terms.append(left)
    return terms[0].density


def _over(density: Tensor, dims: Collection[int]) -> Tensor:
    return density.sum([*dims], keepdim=True) if dims else density


def _refuse_leaks(terms: Mapping[str, _Term], inner: Mapping[str, frozenset[int]]) -> None:
    """Refuse terms that depend on a site and are not in its plates, or are in two that cross."""
    for (axis, (name, plates)), (of, term) in product(enumerate(inner.items()), terms.items()):
        crossing = [n for n, other in inner.items() if plates - other and other - plates]
        crossing = [n for n in crossing if term.inner >= plates | inner[n]]
        if crossing or (plates - term.inner and bool(term.density.diff(dim=axis).any())):
            beside = f" and {crossing[0]!r}" if crossing else ""
            raise ValueError(
                f"Site {of!r} depends on {name!r}{beside}, which only the model has, and is not in "
                "the same plates, so that its members can't be summed out one by one. Put both "
                "into the same plates, or sample them in the guide."
            )

"""Discrete sites that only the model has, summed out of its density."""

from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from itertools import product
from math import prod
from operator import add
from typing import Any

import torch
from torch import Tensor

from .data_plate import of_the_data
from .programs import PairSites, Program, run_model_at
from .sites import Site, select
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
    alone = [f for f in site.frames if f.size > 1 and f.name != "particles"]
    if not site.in_data_plate(size) or len(alone) > 1:
        raise ValueError(
            f"Site {site.name!r}, which only the model has, is summed out datum by datum, and is "
            "in another plate than the data's. Sample it in the guide, or give the plate's members "
            "names of their own."
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


def summed_out(cases: list[LogWeights], names: tuple[str, ...]) -> LogWeights:
    r"""Return the log weights with discrete sites of the model summed out.

    .. math:: \log p(z) = \log \sum_c p(z, c), \qquad
              \log p(x \mid z) = \log \sum_c p(x, z, c) - \log p(z)

    Args:
        cases: for each combination of values c.
        names: of the sites.

    Raises:
        ValueError: ``poutine.scale`` multiplies a term.
    """
    first = cases[0]
    if first.is_scaled:
        raise ValueError(
            f"Site {', '.join(map(repr, names))} is summed out, and poutine.scale multiplies a "
            "term: its sum is no mixture of densities. Weigh the KL by beta or KLWeight."
        )

    def local(part: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value for name, value in part.items() if name not in first.outside}

    seen, drawn = next(iter(local(first.likelihood))), next(iter(local(first.guide)), names[0])
    prior, likelihood = (
        torch.stack([reduce(add, local(part).values()) for part in parts])
        for parts in ([case.prior for case in cases], [case.likelihood for case in cases])
    )
    log_p, joint = prior.logsumexp(0), (prior + likelihood).logsumexp(0)
    shared = [
        {name: value for name, value in part.items() if name in first.outside}
        for part in (first.likelihood, first.prior)
    ]
    return replace(
        first,
        likelihood={**shared[0], seen: joint - log_p},
        prior={**shared[1], drawn: log_p},
        summed=names,
    )

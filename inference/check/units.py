"""The unit of a pair: what its log p(x) is the logarithm of."""

import pyro

from .. import rng
from ..programs import Batch, Program, as_tuple, evaluating, run
from ..sites import Site, select
from .observations import is_of
from .sites import View


def unit_of(model: Program, guide: Program, x: Batch, view: View) -> str:
    """Return what the log p(x) of a pair is the logarithm of; two of them don't compare.

    It is the unit of x, the probability or density of each other site that is observed, as a label
    or a side target, and a mark where the model has factors, with which p is not normalised. The
    pair runs once, in evaluation mode; random states stay.

    >>> import torch
    >>> from guides import MLP, Amortized, DiagonalNormal
    >>> from inference.check import unit_of
    >>> from inference.data import Binary
    >>> from models import MLP as Decoder, VAE, Bernoulli, StandardNormal
    >>> model = VAE(StandardNormal(2), Decoder(2, (8,)), Bernoulli((8,)))
    >>> unit_of(model, Amortized(MLP((8,), 4), DiagonalNormal(2)), torch.eye(8), Binary())
    'nats of P(x), x in {0, 1}'

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        x: a batch.
        view: how x came from stored values.
    """
    batch = as_tuple(x)
    with rng.isolated(0), evaluating(model, guide), pyro.validation_enabled(False):
        sites = run(model, guide, batch).model
    observed = select(sites, "observed").values()
    beside = [site for site in observed if not is_of(site.value, batch[0])]
    others = beside if len(beside) < len(observed) else []  # x in another form is x
    unit = ", with ".join([view.unit, *map(_of, others)])
    factors = ", ".join(map(repr, select(sites, "factor")))
    return f"{unit}; unnormalised, for factor {factors}" if factors else unit


def _of(site: Site) -> str:
    try:
        discrete = site.support.is_discrete
    except NotImplementedError:
        return site.name
    return f"P({site.name})" if discrete else f"a density of {site.name}"

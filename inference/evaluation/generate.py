"""Drawing from a pair by handlers alone: prior samples, reconstructions, interpolations."""

import math
from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to, constraints, transform_to

from ..programs import Batch, Program, as_tuple, evaluating
from ..sites import Site, select, sites_of
from ..stores import param_store
from .moments import DRAWS, data_dim, mean


def prior_samples(model: Program, x: Batch) -> dict[str, Tensor]:
    """Return E[x | z] for z ~ p(z), one row for each row of x, whose values play no part.

    Args:
        model: p(z) p(x | z), conditioned on the batch with ``obs=``.
        x: a batch that tells size, shape, dtype and device.

    Returns:
        The mean of each observed site, by name; its mode, or else its draw, where it has no mean
        that is finite.
    """
    return decode(model, x, {})


def reconstructions(model: Program, guide: Program, x: Batch) -> dict[str, Tensor]:
    """Return E[x | z] for z ~ q(z | x), by observed site, one row for each row of x."""
    return decode(model, x, encode(model, guide, x))


def encode(model: Program, guide: Program, x: Batch) -> dict[str, Tensor]:
    """Return one draw z ~ q(z | x) of each latent site.

    Args:
        model: the generative program, whose parameter store the guide may share.
        guide: q(z | x).
        x: the batch.
    """
    with evaluating(guide), param_store(model):
        drawn = select(sites_of(guide, as_tuple(x)), "latent")
    return {name: site.value for name, site in drawn.items()}


def posterior_means(model: Program, guide: Program, x: Batch) -> dict[str, Tensor]:
    r"""Return E[z | x] under q of each latent site; that of a Categorical is its probabilities.

    In closed form where the site has one that depends on no other draw, else the mean over
    `moments.DRAWS` runs of the guide, of :math:`E[z_i \mid z_{<i}, x]` or of draws.

    Args:
        model: the generative program, whose parameter store the guide may share.
        guide: q(z | x).
        x: the batch.
    """
    with evaluating(guide), param_store(model):
        found = _means(guide, x)
        again = _means(guide, x)
        if all(torch.equal(found[name], again[name]) for name in found):
            return found
        for _ in range(DRAWS - 2):
            again = {name: again[name] + value for name, value in _means(guide, x).items()}
    return {name: (value + again[name]) / DRAWS for name, value in found.items()}


def _means(guide: Program, x: Batch) -> dict[str, Tensor]:
    return {name: mean(s) for name, s in select(sites_of(guide, as_tuple(x)), "latent").items()}


def interpolations(model: Program, guide: Program, x: Batch, steps: int = 8) -> dict[str, Tensor]:
    r"""Walk between the codes of datum 2i and datum 2i + 1 of a batch, and decode on the way.

    .. math:: z_t = z_a \cos t + z_b \sin t, \qquad t \in [0, \pi/2],

    in the unconstrained space of each site: the path starts at one code, ends at the other, and
    under a standard normal prior every point of it is as likely as a draw. On a sphere, which has
    no such space, it runs along the great circle.

    Source: the article on the information bottleneck, Su 2018 (kexue.fm 6181).

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        x: an even number of data.
        steps: how many points a path has, both ends counted.

    Returns:
        E[x | z_t] by observed site, shape (pairs * steps, *event_shape), path after path; nothing
        where a latent site is discrete, for then there is no path.
    """
    batch = as_tuple(x)
    pairs = len(batch[0]) // 2
    batch = tuple(t[: 2 * pairs] for t in batch)
    with evaluating(guide), param_store(model):
        drawn = select(sites_of(guide, batch), "latent")
    angle = torch.linspace(0, math.pi / 2, steps, device=batch[0].device)
    values: dict[str, Tensor] = {}
    for name, site in drawn.items():
        if site.support.is_discrete:
            return {}
        if not site.in_data_plate(2 * pairs):
            values[name] = site.value
            continue
        to_support = _from_space(site.support)
        place = data_dim(site)  # plates beside the data's may lie to its left
        codes = to_support.inv(site.value).movedim(place, 0)
        t = angle.reshape(1, steps, *[1] * (codes.dim() - 1))
        path = codes[0::2].unsqueeze(1) * t.cos() + codes[1::2].unsqueeze(1) * t.sin()
        values[name] = to_support(path.flatten(0, 1).movedim(0, place))
    return decode(model, tuple(t[0::2].repeat_interleave(steps, 0) for t in batch), values)


def _from_space(support: constraints.Constraint) -> Any:
    """Return the map from unconstrained space; for a sphere, that of all points to their rays."""
    try:
        return biject_to(support)
    except NotImplementedError:
        return transform_to(support)


def decode(
    model: Program, x: Batch, values: Mapping[str, Tensor], means: bool = True
) -> dict[str, Tensor]:
    """Return E[x | z] by observed site, or draws; one row for each row of x, which is not read.

    Args:
        model: p(z) p(x | z), conditioned on the batch with ``obs=``.
        x: a batch that tells size, shape, dtype and device.
        values: of latent sites, by name, as the sites have them; the model draws the others.
        means: the mean of each observed site; its mode, or else its draw, where it has no mean that
            is finite. False draws them.
    """
    free = poutine.condition(poutine.uncondition(model), data=dict(values))
    with evaluating(model), param_store(model), pyro.validation_enabled(False):
        drawn = select(sites_of(free, as_tuple(x)), "latent")
    return {
        name: _expected(site) if means else site.value
        for name, site in drawn.items()
        if site.was_observed
    }


def _expected(site: Site) -> Tensor:
    """Return the mean of a site; where that isn't finite, its mode; and else its draw."""
    expected = site.value
    for name in ("mode", "mean"):
        try:
            found: Tensor = getattr(site.distribution, name)
        except (NotImplementedError, AttributeError):
            continue
        if found.shape == expected.shape:
            whole = found.isfinite().all()  # stays on the device
            expected = torch.where(whole, found, expected.to(found.dtype))
    return expected

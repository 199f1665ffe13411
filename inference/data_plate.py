"""The plate of the data: which it is, how many data there are in all, what a datum's part is."""

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from .sites import Site, Sites, select, with_density


class Terms(NamedTuple):
    """Log densities of some sites, by name, each (K, B) or (K, 1).

    Args:
        likelihood: of observed sites, and of factors in the model.
        prior: of latent sites under the model.
        guide: of sites under the guide.
    """

    likelihood: Mapping[str, Tensor] = MappingProxyType({})
    prior: Mapping[str, Tensor] = MappingProxyType({})
    guide: Mapping[str, Tensor] = MappingProxyType({})


class DataSize(Messenger):
    r"""Say how many training data there are, to whatever runs inside.

    A site outside the plate of the data is drawn once for all N of them, so that a datum's part of
    its terms is their N-th:

    .. math:: \frac1N \log p(x_{1:N}, z, w) = \frac1N \log p(w)
              + \frac1N \sum_n \log p(x_n, z_n \mid w).

    Without this, N is the number of data in the batch. What a plate of the data says itself, as
    ``pyro.plate("data", N, subsample_size=len(x))`` does, goes before.

    Args:
        size: number N of training data.

    Raises:
        ValueError: ``size`` is below 1.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"Expected at least 1 training datum; got data_size {size}.")
        self.size = size

    def _pyro_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg):
            msg.setdefault("data_size", self.size)


def of_the_data(
    model: Sites, *others: Sites, held: Collection[str] = (), fixed: Collection[str] = ()
) -> tuple[Sites, ...]:
    """Mark the sites that are in another plate at dim -1 than the data: see `Site.elsewhere`.

    The data's plate is that in which the model observes, and whatever the guide calls the plate of
    a site that the model has there. Where it observes nothing, all stay.

    Args:
        model: the model's sites.
        others: the guide's.
        held: latent sites that count as observed, for they are held at a value.
        fixed: plates whose size does not follow the batch's.
    """
    seen = (s for n, s in select(model, "observed", "factor").items() if n not in held)
    names = {frame.name for site in seen for frame in site.frames if frame.dim == -1} - {*fixed}
    for name, site in ((n, s) for half in others for n, s in half.items() if n in model):
        if any(f.dim == -1 and f.name in names for f in model[name].frames):
            names |= {frame.name for frame in site.frames if frame.dim == -1}

    def is_away(site: Site) -> bool:
        return any(f.dim == -1 and f.name not in names for f in site.frames)

    if not names or not any(is_away(site) for half in (model, *others) for site in half.values()):
        return model, *others

    def marked(site: Site) -> Site:
        return site._replace(elsewhere=True) if is_away(site) else site

    return tuple({name: marked(site) for name, site in f.items()} for f in (model, *others))


def sizes_observed(model: Sites) -> dict[str, int]:
    """Return the sizes of the plates at dim -1 in which the model observes, by name."""
    seen = select(model, "observed").values()
    return {f.name: f.size for site in seen for f in site.frames if f.dim == -1}


def outside(found: Sites, size: int) -> frozenset[str]:
    """Return the names of the sites that lie outside the data's plate and have a density."""
    return frozenset(n for n, s in with_density(found).items() if not s.in_data_plate(size))


def outside_both(model: Sites, guide: Sites, size: int) -> frozenset[str]:
    """Return the names of the sites of a pair outside the data's plate.

    Raises:
        ValueError: one is in it in one half only.
    """
    shared = outside(model, size), outside(guide, size)
    lone = (shared[0] ^ shared[1]) & with_density(model).keys() & with_density(guide).keys()
    if lone:
        raise ValueError(
            f"Site {', '.join(map(repr, sorted(lone)))} is in the data plate in one of model and "
            "guide only. Put it into the same plates in both."
        )
    return shared[0] | shared[1]


def need_data_plate(model: Sites, size: int, seen: int, data_size: int | None) -> None:
    """Refuse data in no plate of theirs, where their terms can't be those of the batch.

    Args:
        model: the model's sites.
        size: number B of data.
        seen: of data that the programs saw, B or, repeated, K B.
        data_size: number N of training data, which would share the terms; None if not known.

    Raises:
        ValueError: no observed site lies in the plate of the data.
    """
    if seen == size and data_size in (None, size):
        return
    observed = select(model, "observed")
    repeated = (
        f" Each datum is there {seen // size} times: a guide with parameters for each datum of a "
        "batch takes 1 particle."
        if seen != size
        else ""
    )
    if observed and not any(site.in_data_plate(seen) for site in observed.values()):
        raise ValueError(
            f"No data plate: the observed site {', '.join(map(repr, [*observed][:3]))} is in no "
            f"plate of size {seen}, the batch's, so that no datum has a density of its own. Wrap "
            "the sites of one datum in `with pyro.plate('data', len(x)):`, in the model and in the "
            f"guide.{repeated}"
        )


def known_data_size(*halves: Sites) -> int | None:
    """Return the number N of training data: as a plate says it, or `DataSize`; else None."""
    every = [site for half in halves for site in half.values()]
    stated = (site.stated_size for site in every)
    said = (site.data_size for site in every)
    return next((n for n in (*stated, *said) if n is not None), None)


def densities_by_datum(
    found: Sites,
    density: Callable[[Site], Tensor],
    size: int,
    shape: tuple[int, int],
    only_data: bool,
) -> dict[str, Tensor]:
    """Return a density of each site, (K, B), or (K, 1) outside the data's plate.

    Args:
        found: the sites.
        density: takes it of one, (*batch_shape).
        size: number B of data.
        shape: what the programs saw: (K, B), or (1, K * B), the batch repeated.
        only_data: whether no site has a place but in the data's plate; then its plates at dim -1
            are taken to be that, and another size is an error.

    Raises:
        ValueError: a density has another dimension than those of its plates.
    """
    particles = shape[0] * shape[1] // size
    values = {n: _by_datum(s, density(s), shape, only_data) for n, s in found.items()}
    return {
        name: value.reshape(particles, size) if value.shape[1] > size else value
        for name, value in values.items()
    }


def _by_datum(site: Site, density: Tensor, shape: tuple[int, int], only_data: bool) -> Tensor:
    """Return a density of a site (*batch_shape) as (K, B), or (K, 1) outside the data's plate.

    Plates to the left of the data are one datum's, and are summed over; so are the plates of a site
    outside the data's.
    """
    particles, size = shape
    local = site.in_data_plate(size)
    value = density
    if not local and not only_data:
        value = _over_plates(site, value, particles)
    elif particles == 1 and value.dim() > 1:
        value = value.sum(tuple(range(value.dim() - 1)))
    expected = (particles, size if local else 1)
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


def _over_plates(site: Site, value: Tensor, particles: int) -> Tensor:
    """Sum over the plates of a site outside the data's; the particles' at dim -2 stays."""
    kept = -2 if particles > 1 else None
    dims = {frame.dim for frame in site.frames}
    places = [d for d in range(-value.dim(), 0) if d in dims and d != kept]
    value = value.sum(places, keepdim=True) if places else value
    while value.dim() > 2 and value.shape[0] == 1:
        value = value[0]
    return value

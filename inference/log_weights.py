"""Running a pair for its log weights, on K particles of each datum."""

import warnings
from collections.abc import Collection
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from . import rng
from .data_plate import Terms, densities_by_datum, known_data_size, need_data_plate, outside_both
from .default_device import on_device_of
from .programs import Batch, PairSites, Program, as_tuple, evaluating, need_guide, run, run_at, tile
from .scores import is_pathwise, is_pathwise_in_part, rest_of_score
from .sites import Site, select, with_density
from .summed import cases_of, summed_out, summed_sites
from .weights import LogWeights


def log_weights(
    model: Program,
    guide: Program,
    x: Batch,
    particles: int = 1,
    *,
    detach_draws: bool = False,
    detach_guide: bool = False,
    model_draws: bool = False,
    held: Collection[str] = (),
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
        model_draws: take what the model draws of a latent site that the guide does not have. That
            is no log weight; it is for the parts of an ELBO of Pyro's that sums such sites out.
        held: sites outside the data plate that a handler holds, for all particles to share.

    Raises:
        ValueError: ``particles`` is below 1; or the guide lacks a latent site of the model; or a
            site's log density has no (K, B) shape.
    """
    batch = as_tuple(x)
    size = len(batch[0])
    if particles < 1:
        raise ValueError(f"Expected at least 1 particle; got {particles}.")
    shape = (particles, size)
    if particles > 1 and not carries_particles(model, guide, batch, held):
        batch, shape = tile(batch, particles), (1, particles * size)
    with on_device_of(batch):
        try:
            pair = run(model, guide, batch, shape[0], detach_draws, detach_guide)
        except (RuntimeError, ValueError, LookupError) as error:
            if shape[1] == size:
                raise
            with rng.isolated():  # what one particle of each datum meets too is said as it is
                run(model, guide, as_tuple(x), 1, detach_draws, detach_guide)
            if "subsample" in str(error):
                raise ValueError(
                    f"The data plate states how many data there are, and {particles} particles of "
                    f"{size} data, of which the pair can't take the particles as a dimension, are "
                    "more. Take fewer particles, or pyro.plate('data', len(x)) and "
                    "SVI(..., data_size=N)."
                ) from error
            raise ValueError(
                f"The pair runs on a batch of {size}, and not on one that has each datum "
                f"{particles} times ({str(error).splitlines()[0]}), as a guide with parameters for "
                "each datum doesn't. Take 1 particle, or amortise the guide: compute its "
                "parameters from x."
            ) from error
        values, beside = summed_sites(pair, shape[1]), select(pair.guide, "observed").keys()
        if not model_draws:
            need_guide(pair, values)
        if not values:
            return read(pair, size, shape, beside)
        cases = cases_of(model, batch, shape[0], pair, values)
        return summed_out([read(case, size, shape, beside) for case in cases], values)


def read(
    pair: PairSites, size: int, shape: tuple[int, int], beside: Collection[str] = ()
) -> LogWeights:
    """Read two programs site by site; they saw data of ``shape`` (K, B) or (1, K * B).

    Args:
        pair: the sites.
        size: number B of data.
        shape: what the programs saw.
        beside: what the guide observes, which is no draw: its density is in the loss, as in Pyro,
            and in no weight. A latent site that is held at a value counts as observed too.

    Raises:
        ValueError: a site's log density has no such shape, or the site is in the data's plate in
            one half only.
    """
    model, guide = pair
    seen = select(model, "observed", "factor")
    only_data = not any(site.in_data_plate(shape[1]) for site in seen.values())
    drawn, terms = select(guide, "latent"), select(guide, "latent", "factor")
    # A draw that is detached has the plain score, and no gradient needs none.
    partly = {n: s for n, s in drawn.items() if is_pathwise_in_part(s) and s.value.requires_grad}
    densities = partial(densities_by_datum, size=size, shape=shape, only_data=only_data)
    of_draws = {n: s for n, s in with_density(guide).items() if n not in beside}
    parts = (seen, select(model, "latent"), of_draws)
    scaled = [{n: s for n, s in found.items() if s.is_scaled} for found in parts]
    scaled[2] |= {name: guide[name] for name in beside}
    shared, known = outside_both(model, guide, shape[1]), known_data_size(*pair)
    if shared:
        need_data_plate(model, size, shape[1], known)
    return LogWeights(
        *(densities(found, Site.log_prob) for found in parts),
        size=size,
        draws={name: site.value for name, site in drawn.items()},
        sites=pair,
        densities=densities,
        scored=frozenset(n for n, site in terms.items() if not is_pathwise(site)),
        partly=densities(partly, rest_of_score),
        kl_weight={n: s.kl_weight for n, s in drawn.items() if s.kl_weight is not None},
        unmasked=densities({n: s for n, s in drawn.items() if s.has_mask}, Site.score),
        scaled=Terms(*(densities(found, Site.scaled_log_prob) for found in scaled)),
        outside=shared,
        data_size=known if shared else None,
    )


_carries: WeakKeyDictionary[Any, WeakKeyDictionary[Any, dict[Any, bool]]] = WeakKeyDictionary()


def carries_particles(
    model: Program, guide: Program, batch: tuple[Tensor, ...], held: Collection[str] = ()
) -> bool:
    """Whether the pair has the same log weights under a particle plate as one particle at a time.

    A trial finds it out, once for each kind of batch, and leaves the random state alone.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        batch: the arguments of both.
        held: sites outside the data plate that all particles are to share.
    """
    # Each access makes a new bound method; the object that it belongs to lives on.
    key, inner = (getattr(program, "__self__", program) for program in (model, guide))
    methods = (getattr(program, "__func__", None) for program in (model, guide))
    known = _carries.setdefault(key, WeakKeyDictionary()).setdefault(inner, {})
    kind = (*methods, *sorted(held), len(batch[0]) == 1, *((t.dim(), t.dtype) for t in batch))
    if kind not in known:
        known[kind] = _try_particles(model, guide, batch, held)
    return known[kind]


def _try_particles(
    model: Program, guide: Program, batch: tuple[Tensor, ...], held: Collection[str]
) -> bool:
    size = len(batch[0])
    particles = 3 if size != 3 else 5  # so that one can't be taken for the other
    then = "same result, more work"
    try:
        with rng.isolated(), evaluating(model, guide):
            pair = run(model, guide, batch, particles)
            plate = read(pair, size, (particles, size))
            if away := sorted(plate.outside - {*held}):
                names = ", ".join(map(repr, away))
                then = (
                    f"K draws of the rest for one of {names}, and a bound on log p(x) all the same"
                )
                raise ValueError(f"all particles share one draw of {names}")
            lone = {n: s for n, s in select(pair.model, "latent").items() if n not in pair.guide}
            drawn = select(pair.guide, "latent") | lone
            alone: list[Tensor] = []
            for number in range(particles):
                values = {
                    name: site.value[number] if site.in_data_plate(size) else site.value
                    for name, site in drawn.items()
                }
                alone.append(read(run_at(model, guide, batch, values), size, (1, size)).total)
            same = torch.allclose(plate.total, torch.cat(alone), rtol=1e-3, atol=1e-2)
        reason = "its log weights under the plate differ from those of one particle at a time"
    except (RuntimeError, ValueError, LookupError, AssertionError) as error:
        said = str(error).splitlines() or [type(error).__name__]
        same, reason = False, said[0].rstrip(".")
    if not same:
        warnings.warn(
            f"The pair cannot carry a particle dimension at dim -2: {reason}. It runs on the "
            f"batch repeated for every particle instead: {then}.",
            stacklevel=2,
        )
    return same

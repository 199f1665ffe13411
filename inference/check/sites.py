"""Faults that show in the sites of one run of a pair, each in words."""

from collections.abc import Iterator
from typing import Any, Protocol

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import biject_to, constraints

from ..laws import elementwise, is_real, support
from ..programs import PairSites
from ..sites import Kind, Plate, Site, select, with_density

WHAT: dict[Kind, str] = {
    "observed": "observed",
    "factor": "a factor",
    "deterministic": "deterministic",
}
"""How a sentence calls a site of the model that is no draw."""


class View(Protocol):
    """What `check` needs to know of how x came from stored values."""

    @property
    def is_mass(self) -> bool | None:
        """Whether log p(x) is that of a probability; None where it is not known."""
        ...

    @property
    def unit(self) -> str:
        """What one datum's log p(x) is the logarithm of."""
        ...


def lone_sites(pair: PairSites) -> Iterator[str]:
    """Find latent sites in one half only."""
    latent, drawn = (select(found, "latent") for found in pair)
    for name, site in latent.items():
        if name in drawn or site.infer.get("enumerate"):
            continue  # what is marked is summed out
        yield (
            f"Site {name!r} is latent in the model, and the guide does not sample it. Sample it in "
            "the guide under the same name, or observe it in the model with obs=; a discrete one "
            "can be summed out: mark it with infer={'enumerate': 'parallel'}."
        )
    for name in drawn.keys() - latent.keys():
        if name in pair.model:
            what = WHAT[pair.model[name].kind]
            yield f"Site {name!r} is {what} in the model, and the guide samples it. Remove one."
    yield from guide_alone(pair)


def guide_alone(pair: PairSites) -> Iterator[str]:
    """Find sites that the guide samples, does not mark as auxiliary, and the model lacks."""
    for name, site in select(pair.guide, "latent").items():
        if name not in pair.model and not site.auxiliary:
            yield (
                f"Site {name!r} is sampled by the guide, and the model does not have it. Sample it "
                "in the model under the same name, remove it from the guide, or, if it only helps "
                "to draw others, mark it: infer={'is_auxiliary': True}."
            )


def shapes(pair: PairSites) -> Iterator[str]:
    """Find latent sites whose shapes or plates differ between the halves."""
    for name, site, other in _both(pair):
        for what in ("event_shape", "batch_shape"):
            mine, theirs = (tuple(getattr(s.distribution, what)) for s in (site, other))
            if mine != theirs:
                unsized = [f.name for f in (*site.frames, *other.frames) if f.size == -1]
                remedy = (
                    f"Give the plate its size, pyro.plate({unsized[0]!r}, len(x)), in both."
                    if unsized and what == "batch_shape"
                    else "Make them equal; dimensions within one datum are declared with "
                    ".to_event()."
                )
                yield (
                    f"Site {name!r} has {what} {mine} in the model and {theirs} in the guide. "
                    + remedy
                )
        plates, others = (sorted(s.plates) for s in (site, other))
        # Pyro takes plates of other names, and so do log weights.
        if sorted(p[1:] for p in plates) != sorted(p[1:] for p in others):
            yield (
                f"Site {name!r} is in the plates {_plates(plates)} in the model and in "
                f"{_plates(others)} in the guide. Put it in the same ones."
            )


def _both(pair: PairSites) -> Iterator[tuple[str, Site, Site]]:
    """Go through the latent sites that both halves have, by name."""
    for name, site in select(pair.model, "latent").items():
        if name in pair.guide:
            yield name, site, pair.guide[name]


def _plates(plates: list[Plate]) -> str:
    named = [f"{name!r} (size {size}, dim {dim})" for name, size, dim in plates]
    return " and ".join(named) if named else "no plate"


def data_plate(pair: PairSites, size: int) -> Iterator[str]:
    """Find data outside a plate of the batch's size."""
    observed = select(pair.model, "observed")
    if not observed:
        yield "The model observes nothing. Give the site of the data obs=x."
    away = {name: site for name, site in observed.items() if not site.in_data_plate(size)}
    # What all data share may be observed too, as a scale that is held at a value.
    if len(away) < len(observed):
        away = {n: s for n, s in away.items() if size in s.value.shape and not s.elsewhere}
    if away:
        few = ", ".join(map(repr, [*away][:3])) + (", ..." if len(away) > 3 else "")
        yield (
            f"No data plate: the observed site {few} is in no plate of size {size}, the batch's, "
            "at dim -1. Wrap the sites of one datum in `with pyro.plate('data', len(x)):`, in the "
            "model and in the guide."
        )


def surfaces(pair: PairSites) -> Iterator[str]:
    """Find sites with a density per area in one half and per volume in the other."""
    for name, site, other in _both(pair):
        p, q = _dimensions(site), _dimensions(other)
        if p is not None and q is not None and p != q:
            yield (
                f"Site {name!r}: {family(site)} in the model is a density over {p} dimensions, "
                f"and {family(other)} in the guide over {q}: one is spread over a surface, the "
                "other over space, and they do not compare. Take a prior and a family on the same "
                "space, as UniformSphere and PowerSpherical."
            )


def masses(pair: PairSites) -> Iterator[str]:
    """Find latent sites with a probability in one half and a density in the other."""
    for name, site, other in _both(pair):
        if isinstance(site.base, dist.Delta) or isinstance(other.base, dist.Delta):
            continue
        try:
            kinds = [bool(each.support.is_discrete) for each in (site, other)]
        except (NotImplementedError, AttributeError):
            continue
        if kinds[0] != kinds[1]:
            p, q = ("a probability" if kind else "a density" for kind in kinds)
            yield (
                f"Site {name!r}: {family(site)} in the model has {p}, and {family(other)} in the "
                f"guide {q}, and their ratio bounds nothing. Take a prior and a family of one "
                "kind, as StandardBernoulli and Bernoulli."
            )


def _dimensions(site: Site) -> int | None:
    """Return how many dimensions the support of one event has; None where that is not known."""
    event = site.distribution.event_shape
    if isinstance(site.base, dist.Delta):  # a point, wherever it lies
        return None
    try:
        if isinstance(site.support, type(dist.constraints.sphere)):
            return event.numel() - 1
        return torch.Size(biject_to(site.support).inverse_shape(event)).numel()
    except (NotImplementedError, AttributeError):
        return None


def supports(pair: PairSites) -> Iterator[str]:
    """Find data, and draws of the guide, where the model has no density."""
    for name, site in select(pair.model, "latent", "observed").items():
        # Element by element, so that a wrong one can be shown.
        fn, value, is_data = site.base, site.value, site.kind == "observed"
        try:
            space: Any = elementwise(support(fn))
            inside = space.check(value)
        except (NotImplementedError, AttributeError):
            continue
        if isinstance(fn, dist.Binomial) and is_data and value.max() <= 1:
            trials = int(fn.total_count.max())
            if trials > 1:
                yield (
                    f"Site {name!r}: the data never exceed 1, and Binomial counts {trials} trials: "
                    "they look re-binarised. Take the data as counts, or Bernoulli."
                )
        elif is_data and inside.all() and _for_greys(space) and _are_bits(value):
            yield (
                f"Site {name!r}: the data are 0 and 1 alone, and {family(site)} is for values "
                "between them too. Take Bernoulli, or another view of the data."
            )
        if not inside.all():
            wrong = value[~inside.expand(value.shape)] if inside.shape == value.shape else value
            whose = "data" if is_data else "guide's draws"
            yield (
                f"Site {name!r}: {(~inside).sum():,} of {inside.numel():,} values of the {whose} "
                f"lie outside the support of {family(site)} ({space}), as "
                f"{wrong.flatten()[0].item():.4g} does. Take another "
                f"{'likelihood, or another view of the data' if is_data else 'family'}."
            )


def reach(pair: PairSites) -> Iterator[str]:
    """Find guides whose support reaches beyond the prior's, whatever they drew in this run."""
    for name, site, other in _both(pair):
        try:
            mine: Any = site.distribution.support
            theirs = other.support
            if is_real(theirs):  # any transform that ends with a shift says so
                continue
            to_support = biject_to(theirs)
            shape = to_support.inverse_shape(other.distribution.event_shape)
            inside = mine.check(to_support(3 * torch.randn(100, *shape).to(site.value)))
        except (NotImplementedError, AttributeError):
            continue
        if not inside.all():
            yield (
                f"Site {name!r}: the guide's support, {theirs}, is not within the model's, {mine}. "
                "Give both the same, as WrappedNormal twice with one curvature."
            )


def family(site: Site) -> str:
    """Return the name of the family of a site's values."""
    return type(site.base).__name__.lstrip("_")


def _for_greys(space: Any) -> bool:
    """Whether 0 and 1 are the ends of a support that has more values between them."""
    if space is constraints.boolean or space.event_dim:
        return False
    inside = [bool(space.check(torch.tensor(end)).all()) for end in (1.0, 2.0)]
    return inside == [True, False]


def _are_bits(value: Tensor) -> bool:
    return bool(((value == 0) | (value == 1)).all())


def densities(pair: PairSites) -> Iterator[str]:
    """Find log densities that are not finite."""
    for half, found in (("guide", pair.guide), ("model", pair.model)):
        for name, site in with_density(found).items():
            density = site.distribution.log_prob(site.value)
            finite = density.isfinite()
            if not finite.all():
                yield (
                    f"Site {name!r} in the {half}: log_prob is {density[~finite][0].item()} for "
                    f"{(~finite).sum():,} of {finite.numel():,} elements. Look for a scale of 0, "
                    "an overflowing exp, or a nan in the data or in the network's output."
                )

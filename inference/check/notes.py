"""What a pair does that changes no number it is judged by, and that its author should know."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..programs import PairSites, Program, run
from ..sites import Site, select, with_density


def scales(model: Program, guide: Program, batch: tuple[Tensor, ...], pair: PairSites) -> list[str]:
    """Tell of what ``poutine.scale`` multiplies, and whether it is always the same.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        batch: the arguments of both.
        pair: the sites of a run on the batch.
    """
    found: dict[str, list[str]] = {}
    if not any(site.is_scaled for half in pair for site in half.values()):
        return []
    again = run(model, guide, batch)
    for sites, others, fewer in zip(pair, again, _half(model, guide, batch), strict=True):
        for name, site in with_density(sites).items():
            if site.is_scaled and name in others:
                what = _scale(site, others[name], fewer.get(name))
                named = found.setdefault(what, [])
                named += [] if repr(name) in named else [repr(name)]
    return [
        f"Site {', '.join(names)}: {what}. It acts in the loss alone; log p(x), the ELBO, traces "
        "and evaluations are reported without it. A weight of the KL belongs to --objective.beta, "
        "which is Elbo(beta=...), or, where it moves, to --kl_weight and --schedules."
        for what, names in found.items()
    ]


def _half(model: Program, guide: Program, batch: tuple[Tensor, ...]) -> PairSites:
    try:
        return run(model, guide, tuple(t[: max(1, len(t) // 2)] for t in batch))
    except Exception:  # what a pair may raise of a smaller batch is not asked here
        return PairSites({}, {})


def _scale(site: Site, again: Site, fewer: Site | None) -> str:
    first, second = _said(site.scale), _said(again.scale)
    if not _same(site.scale, again.scale):
        changed = f", then {second}" if first != second else ""
        return f"poutine.scale has it {first}{changed}: the scale changes from call to call"
    if fewer is not None and not isinstance(site.scale, Tensor) and site.scale != fewer.scale:
        return f"poutine.scale has it {first}, and scales by the batch's size"
    return f"poutine.scale has it scale {first}"


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        one, other = torch.as_tensor(one), torch.as_tensor(other)
        return one.shape == other.shape and torch.equal(one, other.to(one))
    return bool(one == other)


def _said(scale: float | Tensor) -> str:
    if not isinstance(scale, Tensor):
        return f"{scale:.6g}"
    low, high = scale.min().item(), scale.max().item()
    return f"{low:.6g}" if low == high else f"from {low:.6g} to {high:.6g}"


def factors(pair: PairSites) -> Iterator[str]:
    """Tell of factors in the model, with which no number is a bound on log p(x)."""
    if found := select(pair.model, "factor"):
        yield (
            f"Factor {', '.join(map(repr, found))} is no density of x: training goes on as in "
            "Pyro, and the ELBO and log p(x) that are reported are bounds on an unnormalised p(x, "
            "factors). Their unit says so, and compare keeps them apart."
        )


def guide_factors(pair: PairSites) -> Iterator[str]:
    """Tell of factors in the guide that have a value: those that have a gradient alone do nothing.

    A log-determinant belongs to log q, and a loss of labels does not; nothing tells them apart.
    """
    found = select(pair.guide, "factor")
    if valued := [repr(name) for name, site in found.items() if site.log_prob().any()]:
        yield (
            f"Factor {', '.join(valued)} in the guide counts as a part of log q(z | x), as in "
            "Pyro: right for the log-determinant of a change of variables. With a penalty or the "
            "loss of a classifier q is not normalised, and the ELBO and log p(x) that are reported "
            "bound nothing: give it its gradient alone, as pyro.factor(name, f - f.detach(), "
            "has_rsample=True)."
        )


def guide_observes(pair: PairSites) -> Iterator[str]:
    """Tell of data that the guide observes, which are no draws."""
    if found := select(pair.guide, "observed"):
        names = ", ".join(map(repr, found))
        yield (
            f"Site {names} is observed in the guide: the loss has its log q as Pyro's has, where "
            "training makes it smaller, and no number that is reported has it. For the loss of a "
            "classifier f = -log q(y | x) write pyro.factor(name, f - f.detach(), "
            "has_rsample=True) in its place, or take an ELBO that knows of it, as "
            "TraceCausalEffect_ELBO."
        )


def subsampled(pair: PairSites) -> Iterator[str]:
    """Tell of plates that take some of their members."""
    told: set[str] = set()
    for site in (site for half in pair for site in half.values()):
        of_data = site.stated_size is not None
        for frame in site.frames:
            if frame.full_size in (None, frame.size) or frame.name in told:
                continue
            told.add(frame.name)
            counted = (
                f"its N / B is in no number: everything is per datum, and what all data share is "
                f"divided by {frame.full_size:,}"
                if of_data and frame.dim == -1
                else "the terms in it count N / B times, an estimate of the sum over all"
            )
            yield (
                f"Plate {frame.name!r} takes {frame.size:,} of {frame.full_size:,} members: "
                f"{counted}."
            )

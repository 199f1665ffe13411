"""Where a number that is not finite comes from: a parameter, or a site at a datum."""

import math
from collections.abc import Mapping

import pyro
import torch
from torch import Tensor

from .. import rng
from ..data.split import Split
from ..data.streams import Stream
from ..programs import Program, as_tuple, evaluating, run
from ..sites import Site, with_density
from ..stores import owner

AT_ONCE = 256
"""Data in one run of the pair."""


def blame_tensor(tensors: Mapping[str, Tensor]) -> str | None:
    """Return the first tensor of a pair that is not finite, in words; None if all are.

    Args:
        tensors: of the pair, by name.
    """
    for name, value in tensors.items():
        if (wrong := ~value.isfinite()).any():
            shown = value[wrong][0].item() if value.dim() else value.item()
            return f"{name} is {shown} in {int(wrong.sum()):,} of its {value.numel():,} elements."
    return None


def blame_site(
    model: Program, guide: Program, split: Split | Stream, name: str, first: int = 0
) -> str | None:
    """Return the first site whose value or log density is not finite, in words; None if none is.

    The pair runs over the split in its order, the guide before the model.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        split: the data.
        name: what the split is called.
        first: where to begin.
    """
    with rng.isolated(0), evaluating(model, guide), pyro.validation_enabled(False):
        begin = first
        rest = split.at(slice(first, None)) if isinstance(split, Split) and first else split
        for batch in map(as_tuple, rest.batches(AT_ONCE)):
            with torch.no_grad():
                pair = run(model, guide, batch)
                for half, found in (("guide", pair.guide), ("model", pair.model)):
                    for site in with_density(found).values():
                        if said := _blame(site, half, len(batch[0]), begin, name):
                            return said
            begin += len(batch[0])
    return None


def refuse_nan(log_px: Tensor, model: Program, guide: Program, split: Split, name: str) -> None:
    """Check the bounds of a split.

    Args:
        log_px: bound on log p(x) of each datum, (N,).
        model: p(z) p(x | z).
        guide: q(z | x).
        split: the data.
        name: what the split is called.

    Raises:
        FloatingPointError: one is nan; the message has the datum and the site.
    """
    if not (wrong := log_px.isnan()).any():
        return
    first = int(wrong.nonzero()[0])
    whole = {**_parameters(model), **_parameters(guide)}
    cause = blame_tensor(whole) or blame_site(model, guide, split, name, first)
    raise FloatingPointError(
        f"log p(x) is nan for {int(wrong.sum()):,} of {len(log_px):,} data, first for "
        f"{name}[{first}]. {cause or ''}"
    )


def _parameters(program: Program) -> dict[str, Tensor]:
    held = owner(program)
    return dict(held.named_parameters()) if held is not None else {}


def _blame(site: Site, half: str, count: int, begin: int, split: str) -> str | None:
    density = site.log_prob()
    wrong = ~density.isfinite()
    if wrong.any():
        what, shown = "log density", density[wrong][0].item() if density.dim() else density.item()
    elif site.value.is_floating_point() and not site.value.isfinite().all():
        event = tuple(range(density.dim() - site.value.dim(), 0))
        wrong = ~site.value.isfinite()
        what, shown = "value", site.value[wrong][0].item() if site.value.dim() else math.nan
        wrong = wrong.any(event) if event else wrong
    else:
        return None
    where = _datum(site, wrong, count)
    at = "" if where is None else f" at {split}[{begin + where}]"
    hint = (
        "Look for a scale of 0, a division by 0, or a log of 0 on the way to it."
        if math.isnan(shown)
        else "The value lies outside the support, or an exp overflows on the way to it."
    )
    return f"Site {site.name!r} in the {half} is the first whose {what} isn't: {shown}{at}. {hint}"


def _datum(site: Site, wrong: Tensor, count: int) -> int | None:
    """Return the first datum of a mask of (*batch_shape), or None where the site is of none."""
    if not wrong.dim() or not site.in_data_plate(count) or wrong.shape[-1] != count:
        return None
    return int(wrong.nonzero()[:, -1].min())

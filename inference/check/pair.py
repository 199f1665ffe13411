"""`check`: the faults of a pair in words, found before an hour of training."""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import pyro
import torch
from torch import Tensor

from .. import rng
from ..borrowed import borrowed_parameters
from ..default_device import on_device_of
from ..programs import Batch, PairSites, Program, as_tuple, evaluating, run
from ..stores import param_store
from .batches import ignores_data, mixed_data, stray_plates
from .gradients import gradients
from .latents import use_of_draws
from .names import clashing_names
from .notes import factors, guide_factors, guide_observes, scales, subsampled
from .observations import measure, parameters, shapes_of_data, supportless
from .sites import (
    View,
    data_plate,
    densities,
    lone_sites,
    masses,
    reach,
    shapes,
    supports,
    surfaces,
)
from .telling import raised

__all__ = ["Finding", "View", "check"]


class Finding(str):
    """What a check found, a sentence or two.

    Args:
        text: the sentences.
        kind: ``fault``: the numbers would be wrong, or nothing would train. ``note``: nothing is
            wrong, and there is something to know.

    Attributes:
        kind: which of the two.
    """

    kind: Literal["fault", "note"]

    def __new__(cls, text: str, kind: Literal["fault", "note"] = "fault") -> "Finding":
        """Make one of its sentences."""
        made = super().__new__(cls, text)
        made.kind = kind
        return made


def check(model: Program, guide: Program, x: Batch, view: View | None = None) -> list[Finding]:
    """Return the faults of a pair, each in a sentence or two; an empty list for a sound pair.

    After the faults come notes, of what is sound and to be known: a ``poutine.scale``, a factor, a
    plate that is subsampled.

    It runs the pair on the batch a few times, in evaluation mode, and leaves parameters, buffers
    and random states as they were. It looks for faults in this order and stops at the first kind
    that it finds, because later ones often follow from it: names that clash; programs that
    raise; latent sites in
    one half only; shapes or plates that differ; no data plate, or another one as long; values
    outside a support; log
    densities that are not finite; parameters without gradient; log weights that depend on the
    rest of the batch; a guide that ignores x; and whatever else Pyro's own validation says.

    >>> import torch
    >>> from guides import MLP, Amortized, DiagonalNormal
    >>> from inference import check
    >>> from models import MLP as Decoder, VAE, Bernoulli, StandardNormal
    >>> model = VAE(StandardNormal(2), Decoder(2, (8,)), Bernoulli((8,)))
    >>> guide = Amortized(MLP((8,), 4), DiagonalNormal(2))
    >>> check(model, guide, torch.eye(8))
    []
    >>> check(model, guide, 2 * torch.eye(8))[0][:60]
    "Site 'x': 8 of 64 values of the data lie outside the support"

    Args:
        model: p(z) p(x | z), conditioned on the batch with ``obs=``.
        guide: q(z | x).
        x: a batch of real data, of two data or more.
        view: how x came from stored values, which says whether p(x) is a density or a mass.
    """
    batch = as_tuple(x)
    with rng.isolated(0), evaluating(model, guide), borrowed_parameters(model):
        with pyro.validation_enabled(False):
            clashes, shared = clashing_names(model, guide, batch)
            if clashes:
                return list(map(Finding, clashes))
            faults, pair = _run(model, guide, batch)
            if pair is None:
                return list(map(Finding, faults))
            size = len(batch[0])
            searches: list[Callable[[], Iterator[str]]] = [
                lambda: lone_sites(pair),
                lambda: shapes(pair),
                lambda: data_plate(pair, size),
                lambda: shapes_of_data(pair),
                lambda: stray_plates(model, guide, batch, pair),
                lambda: surfaces(pair),
                lambda: masses(pair),
                lambda: supportless(pair),
                lambda: supports(pair),
                lambda: parameters(pair),
                lambda: reach(pair),
                lambda: measure(pair, view, batch[0]),
                lambda: densities(pair),
                lambda: gradients(model, guide, x),
                lambda: use_of_draws(model, guide, batch, pair),
                lambda: mixed_data(model, guide, batch, pair),
                lambda: ignores_data(model, guide, batch, pair),
            ]
            found = (_guarded(search, batch) for search in searches)
            faults = next(filter(None, found), [])
            notes = _guarded(lambda: scales(model, guide, batch, pair), batch)
            notes += [*factors(pair), *guide_factors(pair), *guide_observes(pair)]
            notes += [*subsampled(pair), *shared]
        faults = faults or _validation(model, guide, batch)
    return [*map(Finding, faults), *(Finding(note, "note") for note in notes)]


def _guarded(search: Callable[[], Iterable[str]], batch: tuple[Tensor, ...]) -> list[str]:
    """Return what a search finds, and what the pair raised where that ended it."""
    found: list[str] = []
    try:
        found.extend(search())
    except Exception as error:
        found.append(
            raised("The pair, run again on these data or on a part of them,", error, batch)
        )
    return found


def _run(
    model: Program, guide: Program, batch: tuple[Tensor, ...]
) -> tuple[list[str], PairSites | None]:
    for half, program in (("guide", guide), ("model", model)):
        try:
            with on_device_of(batch), param_store(model):
                program(*batch)
        except Exception as error:
            return [raised(f"The {half}", error, batch)], None
    try:
        with torch.enable_grad():  # the graph tells where logits come from
            return [], run(model, guide, batch)
    except Exception as error:
        return [raised("The model, replayed on the guide,", error, batch)], None


def _validation(model: Program, guide: Program, batch: tuple[Tensor, ...]) -> list[str]:
    where = ""
    try:
        with pyro.validation_enabled(True):
            for found in run(model, guide, batch):
                for site in found.values():
                    where = f" of site {site.name!r}"
                    site.log_prob()
    except Exception as error:
        return [f"Pyro's validation says{where}: {error}"]
    return []

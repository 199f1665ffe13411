"""The first run of a pair: what is to be known before a step, of pairs that `check` never saw."""

import warnings

import pyro
import torch

from .. import rng
from ..check.sites import guide_alone, shapes
from ..data_plate import known_data_size, outside
from ..programs import Batch, Program, as_tuple, evaluating, run


def first_run(model: Program, guide: Program, x: Batch) -> list[str]:
    """Run a pair once; return the sites outside the data plate, if no plate says how many data.

    It is in evaluation mode, with gradients, which a guide may take for itself. A warning tells of
    sites that only the guide has.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        x: a batch.

    Raises:
        ValueError: a latent site has other shapes or plates in the model than in the guide.
    """
    batch = as_tuple(x)
    quietly = pyro.validation_enabled(False)
    with rng.isolated(), evaluating(model, guide), quietly, torch.enable_grad():
        pair = run(model, guide, batch)
    if faults := list(shapes(pair)):
        raise ValueError(" ".join(faults))
    for sentence in guide_alone(pair):
        warnings.warn(sentence, stacklevel=4)
    if known_data_size(*pair) is not None:
        return []
    return sorted(frozenset[str]().union(*(outside(half, len(batch[0])) for half in pair)))


def warn_of_shared(names: list[str]) -> None:
    """Say that the terms of these sites are shared between the data of a batch alone."""
    warnings.warn(
        f"Site {', '.join(map(repr, names))} lies outside the data plate, and the number of "
        "training data is not known: each batch counts its terms as if the batch were all data. "
        "Give the number, as SVI(..., data_size=N), or train with fit, which knows it.",
        stacklevel=3,
    )

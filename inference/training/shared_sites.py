"""Sites that all training data share, and what is to be known of them before a step."""

import warnings

import pyro
import torch

from .. import rng
from ..data_plate import known_data_size, outside
from ..programs import Batch, Program, as_tuple, evaluating, run


def shared_sites(model: Program, guide: Program, x: Batch) -> list[str]:
    """Return the sites outside the data plate, where no plate says the number of data itself.

    It runs the pair once, in evaluation mode, with gradients, which a guide may take for itself.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        x: a batch.
    """
    batch = as_tuple(x)
    quietly = pyro.validation_enabled(False)
    with rng.isolated(), evaluating(model, guide), quietly, torch.enable_grad():
        pair = run(model, guide, batch)
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

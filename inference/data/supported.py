"""Whether every datum lies where the likelihood has a density, not those of one batch alone."""

from typing import Any

import pyro
import torch
from torch import Tensor

from .. import rng
from ..borrowed import borrowed_parameters
from ..check.observations import is_of
from ..check.sites import family
from ..laws import elementwise, support
from ..programs import Program, as_tuple, evaluating, run
from ..sites import select
from .looking import first_wrong
from .records import Dataset

CHUNK = 4096
"""Data that are looked at at a time."""


def outside(model: Program, guide: Program, data: Dataset) -> str | None:
    """Return the first datum outside the support of its likelihood in a sentence, or None.

    It looks at all splits where the support speaks of each element, as those of Bernoulli, Poisson
    and Beta do. A view that draws is drawn once; random states stay as they were.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        data: what it is trained and measured on.
    """
    with (
        rng.isolated(0),
        evaluating(model, guide),
        borrowed_parameters(model),
        pyro.validation_enabled(False),
        torch.no_grad(),
    ):
        batch = as_tuple(data.train.batch(slice(2)))
        for name, site in select(run(model, guide, batch).model, "observed").items():
            if not is_of(site.value, batch[0]):
                continue
            try:
                space: Any = elementwise(support(site.base))
            except (NotImplementedError, AttributeError):
                continue
            bounds = [v for v in vars(space).values() if isinstance(v, Tensor)]
            if space.event_dim or any(bound.numel() > 1 for bound in bounds):
                continue
            for part in ("train", "valid", "test"):
                if found := _first(data, part, space):
                    return (
                        f"Site {name!r}: {found}, outside the support of {family(site)} ({space}). "
                        "Mend it or leave it out, or take another likelihood or view of the data."
                    )
    return None


def _first(data: Dataset, part: str, space: Any) -> str | None:
    split = data.split(part)
    for start in range(0, len(split), CHUNK):
        x = split.x(slice(start, start + CHUNK))
        if found := first_wrong(x, ~space.check(x), part, start):
            return found
    return None

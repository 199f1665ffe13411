"""Sites that all data share, held while the data are evaluated."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import numpy as np
import pyro
from torch import Tensor

from .. import rng
from ..data.records import Split
from ..data_plate import DataSize
from ..log_weights import log_weights
from ..programs import Drawn, Program, evaluating


def shared_draws(
    model: Program,
    guide: Program,
    split: Split,
    data: int,
    data_size: int | None,
    seed: int,
    count: int,
) -> list[dict[str, Tensor]]:
    """Return draws of the sites outside the data plate; none where the pair has no such site.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        split: the data.
        data: how many of them the programs see.
        data_size: number N of training data, or None.
        seed: of the draws.
        count: how many.

    Raises:
        ValueError: the number of training data is not known.
    """
    found: list[dict[str, Tensor]] = []
    for number in range(count):
        start = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        quietly = pyro.validation_enabled(False)
        with rng.isolated(start), evaluating(model, guide), quietly, holding({}, data_size):
            weights = log_weights(model, guide, split.batch(slice(0, data)))
        if not weights.outside:
            return []
        names = sorted(weights.outside)
        if weights.data_size is None:
            raise ValueError(
                f"Site {', '.join(map(repr, names))} lies outside the data plate, and all training "
                "data share its terms: say how many they are, as "
                "evaluate(..., data_size=len(data.train))."
            )
        found.append({name: weights.draws[name] for name in names if name in weights.draws})
    return found


@contextmanager
def holding(values: Mapping[str, Tensor], data_size: int | None) -> Iterator[None]:
    """Give sites that all data share these values, as if drawn, and each datum its part of them.

    Args:
        values: by site; there may be none.
        data_size: number N of training data, or None.
    """
    with ExitStack() as handlers:
        if data_size is not None:
            handlers.enter_context(DataSize(data_size))
        if values:
            handlers.enter_context(Drawn(values))
            # That all particles share them is what is wanted here.
            handlers.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", "The pair cannot carry a particle dimension")
        yield

"""Choosing a model: which weights of a training are kept."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from ..evaluation.validation import Validation
from ..objectives.bounds import Objective
from .progress import Progress
from .schedules import Schedule

Select = Literal["elbo", "objective", "last"]
"""By what the weights that are kept are chosen."""


def default_select(objective: Objective, kl_weight: Schedule, epochs: int) -> Select:
    """Return ``elbo`` where what is optimised bounds log p(x) in the end, else ``objective``.

    Args:
        objective: what is optimised.
        kl_weight: weight of the KL over time.
        epochs: passes over the training split.
    """
    bounds = getattr(objective, "bounds_log_px", True)  # a user's own may be any callable
    whole = bounds and kl_weight(epochs) == 1.0
    return "elbo" if whole else "objective"


def choose(
    by: Select,
    progress: Progress,
    found: Validation,
    settled: bool,
    weights: Callable[[], dict[str, Tensor]],
) -> None:
    """Take notice of a validation: keep the weights if it is the best, count it if it is not.

    Args:
        by: ``elbo``: the ELBO at KL weight 1, whatever is optimised. ``objective``: what is
            optimised, once the KL weight has its last value. ``last``: no weights are kept.
        progress: its ``best``, ``best_weights`` and ``stale`` change.
        found: what the validation found.
        settled: whether the KL weight had its last value; else it does not count as stale.
        weights: returns a copy of the pair's weights.
    """
    value = found.elbo if found.objective is None else found.objective
    if value > progress.best and (settled or by != "objective"):
        progress.best, progress.stale = value, 0
        progress.best_weights = {} if by == "last" else weights()
    elif settled:
        progress.stale += 1

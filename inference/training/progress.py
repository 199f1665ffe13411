"""Progress: how far a training is."""

import math
from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Progress:
    """How far training is: what a checkpoint needs besides weights, optimiser and random states.

    Args:
        step: optimiser steps taken.
        epoch: whole epochs finished.
        position: batches taken of the present epoch.
        seconds: training time so far.
        permutation: order of the data in the present epoch, (N,).
        sums: bound, reconstruction and KL summed since the last train row, (3,).
        summed: how many steps are in ``sums``.
        rows: rows of the trace.
        best: highest validation value of what chooses the weights, nats per datum.
        best_weights: the weights that had it; none where the last are kept.
        stale: validations since then, without those at another KL weight than the last.
        segment: how often the run has gone on with other arguments.
    """

    permutation: Tensor
    sums: Tensor
    step: int = 0
    epoch: int = 0
    position: int = 0
    seconds: float = 0.0
    summed: int = 0
    rows: int = 0
    best: float = -math.inf
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    stale: int = 0
    segment: int = 0

    def named_segment(self) -> dict[str, float]:
        """Return the segment as a column of the trace, from the second one on."""
        return {"segment": float(self.segment)} if self.segment else {}

"""Progress: how far a training is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from .. import rng
from ..data.split import Split
from ..data.streams import Stream
from ..evaluation.not_finite import blame_tensor
from .svi import SVI


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
        start: random states at the start of the present epoch, where its order depends on them.
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
    start: dict[str, Any] = field(default_factory=dict)

    def named_segment(self) -> dict[str, float]:
        """Return the segment as a column of the trace, from the second one on."""
        return {"segment": float(self.segment)} if self.segment else {}

    @classmethod
    def of(cls, saved: Mapping[str, Any], count: int, device: torch.device) -> "Progress":
        """Return the progress that a checkpoint holds.

        Args:
            saved: its fields by name.
            count: number N of training data.
            device: where the sums are to be.

        Raises:
            ValueError: they are none that a training of so many data has.
        """
        usual = cls(torch.empty(0, dtype=torch.long), torch.zeros(3))
        known = {each.name: getattr(usual, each.name) for each in fields(cls)}
        for name, value in saved.items():
            like = known.get(name)
            number = isinstance(like, int | float) and isinstance(value, int | float)
            if name not in known or not (isinstance(value, type(like)) or number):
                raise ValueError(f"The checkpoint's progress holds {name} = {value!r:.80}.")
            if name in ("best", "sums", "permutation", "best_weights", "start"):
                continue
            if not 0 <= value < 2**63:
                raise ValueError(f"The checkpoint's progress holds {name} = {value!r:.80}.")
        found = cls(**{**known, **saved})
        order = found.permutation
        whole = order.dtype == torch.long and order.dim() == 1
        if not whole or not torch.equal(order.cpu().sort().values, torch.arange(len(order))):
            raise ValueError("The checkpoint's order of the data is no permutation.")
        if len(order) != count and (len(order) or (found.position and not found.start)):
            raise ValueError(
                f"The checkpoint's order is one of {len(order):,} data; there are {count:,}."
            )
        if found.sums.shape != (3,) or not found.sums.is_floating_point():
            raise ValueError("The checkpoint's sums since the last row are not three numbers.")
        found.sums = found.sums.to(device)
        return found


def take_up(saved: Mapping[str, Any], svi: SVI, train: Split | Stream) -> Progress:
    """Put training where a checkpoint left it: the SVI, the random states, the progress.

    Args:
        saved: the checkpoint.
        svi: prepared.
        train: the training data.

    Raises:
        ValueError: a part of it is none that a training of this pair on these data has.
    """
    progress = Progress.of(saved["progress"], len(train), train.device)
    svi.load_state_dict(saved["svi"])
    if said := blame_tensor(svi.parameters):  # none that is saved is infinite
        raise ValueError(f"In the checkpoint {said}")
    rng.set_state(saved["rng"])
    return progress

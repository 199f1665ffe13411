"""Rewind: when an SVI undoes steps, the progress and the trace of training go back with it."""

from typing import Protocol

from torch import Tensor

from .svi import SVI
from .trace import Trace


class Position(Protocol):
    """How far training is; whatever else it holds goes back too.

    Attributes:
        step: optimiser steps taken.
        rows: rows of the trace.
        sums: what is summed in place.
    """

    step: int
    rows: int
    sums: Tensor


class Rewind:
    """Checks the captured steps of an SVI; when it goes back, so do the progress and the trace.

    Args:
        svi: takes the steps.
        progress: counts them.
        trace: the rows so far.
    """

    def __init__(self, svi: SVI, progress: Position, trace: Trace) -> None:
        self._svi, self._progress, self._trace = svi, progress, trace
        self._ahead = svi.steps - progress.step
        self._undone = False
        svi.verify()
        self._keep()

    def verify(self) -> bool:
        """Check the steps since the last check; return whether they stand."""
        if self._svi.verify() and not self._astray:
            self._keep()
            return True
        vars(self._progress).update(self._kept)
        self._progress.sums = self._kept["sums"].clone()
        self._trace.keep(self._progress.rows)
        self._undone = True
        return False

    def undone(self) -> bool:
        """Check where a check is due; return whether steps were undone since the last call."""
        if self._svi.due or self._astray:
            self.verify()
        undone, self._undone = self._undone, False
        return undone

    @property
    def _astray(self) -> bool:
        """Whether the SVI has gone back by itself, as when an observer asks for its state."""
        return self._svi.steps != self._progress.step + self._ahead

    def _keep(self) -> None:
        sums = self._progress.sums.clone()
        self._kept = {**vars(self._progress), "rows": len(self._trace), "sums": sums}

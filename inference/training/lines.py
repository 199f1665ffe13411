"""Progress where there is no terminal: a line now and then."""

import sys
import time

from .trace import Row

EVERY = 30.0
"""Seconds after which there is a line even if no tenth of the steps has passed."""


class Lines:
    """Writes a line on stderr at each tenth of the steps, and each half minute.

    Args:
        epochs: passes over the training data.
        steps: steps of one.
        taken: steps that earlier sittings have taken.

    Attributes:
        last: the newest row of the trace.
    """

    def __init__(self, epochs: int, steps: int, taken: int) -> None:
        self.last: Row | None = None
        self._epochs, self._steps, self._written = epochs, steps, taken
        self._total = max(1, epochs * steps)
        self._tenth = taken * 10 // self._total
        self._time = time.monotonic()

    def at(self, step: int) -> None:
        """Write a line if it is time for one."""
        if (tenth := step * 10 // self._total) > self._tenth or (
            time.monotonic() - self._time >= EVERY
        ):
            self._tenth = tenth
            now = time.monotonic()
            rate = (step - self._written) / max(now - self._time, 1e-9)
            epoch = min((step - 1) // self._steps + 1, self._epochs)
            row = self.last
            elbo = f"ELBO {row.elbo:.2f} on {row.split}, " if row else ""
            line = f"epoch {epoch}/{self._epochs}, step {step:,}/{self._total:,}, {elbo}"
            sys.stderr.write(f"{line}{rate:.3g} steps/s\n")
            self._written, self._time = step, now

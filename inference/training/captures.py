"""Captures: when a step of SVI is captured, how, and when capturing is given up, in words."""

import logging
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..capture.choosing import STEPS, Setting, choose
from ..capture.tracing import NotCapturable
from ..objectives.bounds import Estimate
from .captured_update import FIRST_CHECKS, CapturedUpdate
from .update import Source, Update

PATIENCE = 200
"""Steps that ``auto`` takes eagerly first: a short run is over before a capture has paid."""

CAPTURES = 8
"""Shapes and settings that are captured at a time; more of them are stepped eagerly."""

_log = logging.getLogger(__name__)


class Captures:
    """The captured steps of one `SVI`, by the shapes and settings that each holds for.

    A step is captured once its optimiser has its moments, checked against the eager step at its
    first uses and at every power of two after them, and made anew when a setting changes.

    Args:
        compile: how to take steps.
    """

    def __init__(self, compile: Setting) -> None:  # noqa: A002  (torch's own word for it)
        self.compile: Setting = compile
        self.how: str | None = None
        self._known: dict[Any, CapturedUpdate | None] = {}

    @property
    def known(self) -> list["CapturedUpdate"]:
        """The captured steps at hand."""
        return [step for step in self._known.values() if step is not None]

    def step(
        self,
        update: Update,
        inputs: Sequence[Tensor],
        kl_weight: float | None,
        source: Source | None,
        taken: int,
        planned: int,
    ) -> Estimate | None:
        """Take a captured step; return None, and take none, where it is to be taken eagerly.

        Args:
            update: what to do.
            inputs: what its gradient takes.
            kl_weight: weight of the KL term in the loss; None is 1.
            source: makes the batch of the inputs.
            taken: steps taken since the parameters were made.
            planned: steps of the whole run, 0 where that is not known.

        Raises:
            ValueError: the step can't be captured and the user insists, or a captured step has
                come to differ from the eager one.
        """
        if self.compile == "off" or taken < (PATIENCE if self.compile == "auto" else 1):
            return None
        key = (
            *((t.shape, t.dtype, t.device) for t in inputs),
            kl_weight is None,
            id(getattr(source, "__self__", source)),
            getattr(source, "__func__", None),
            update.settings(),
        )
        if key not in self._known:
            self._known[key] = self._make(update, inputs, kl_weight, source, planned)
        captured = self._known[key]
        if captured is None:
            return None
        captured.set(kl_weight)
        try:
            if captured.uses:
                captured.check(inputs)
        except NotCapturable as error:
            if captured.uses > FIRST_CHECKS:
                raise ValueError(
                    f"At step {taken + 1:,} {error}. Steps since the last check may be wrong: "
                    "train again with compile 'off'."
                ) from None
            self._known[key] = self._give_up(str(error))
            return None
        return captured(inputs)

    def _make(
        self,
        update: Update,
        inputs: Sequence[Tensor],
        kl_weight: float | None,
        source: Source | None,
        planned: int,
    ) -> "CapturedUpdate | None":
        if len(self._known) >= CAPTURES:
            return self._give_up(f"more than {CAPTURES} shapes or settings")
        # Of the whole run: one that is resumed near its end goes on as it was.
        backends, why = choose(self.compile, planned or None, inputs[0].device, STEPS)
        error = why
        for backend in backends:
            try:
                made = CapturedUpdate(update, inputs, kl_weight, source, backend)
                made.check(inputs)
            except NotCapturable as found:
                error = str(found)
                why = f"{backend.name} can't ({error})"
            else:
                self.how = backend.name
                _log.info("Steps are captured (%s): %s.", backend.name, why)
                return made
        return self._give_up(error)

    def _give_up(self, why: str) -> None:
        if self.compile != "auto":
            raise ValueError(
                f"The step can't be captured: {why}. Take compile 'off', or 'auto', which does so "
                "by itself."
            )
        _log.warning("Steps are taken eagerly, for they can't be captured: %s.", why)

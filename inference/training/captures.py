"""Captures: when and how to capture a step of SVI, and when to give it up, in words."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..capture.choosing import STEPS, Setting, choose
from ..capture.tracing import NotCapturable
from ..distributed import world
from ..objectives.bounds import Estimate, Objective
from ..precision import products_in
from ..references import Reads
from .captured_update import FIRST_CHECKS, CapturedUpdate
from .update import Source, Update

PATIENCE = 200
"""Steps that ``auto`` takes eagerly first: a short run is over before a capture has paid."""

CAPTURES = 8
"""Shapes and settings that are captured at a time; steps of further ones are eager."""

CHANGES = 4
"""Times that a step is captured again after something that its programs read has changed."""

INTERVAL = 1_000
"""Captured steps between two checks, once the first ones are past."""

COST = 0.01
"""Share of the time that checks may take; if they take more, the steps between them double."""

LONGEST = 16_000
"""Most captured steps between two checks."""

_log = logging.getLogger(__name__)


class Captures:
    """The captured steps of one `SVI`, by the shapes and settings that each holds for.

    A step is captured once its optimiser has its moments, and checked against the eager step at its
    first uses. Before each use what the programs read is compared with what it was; where that has
    changed the step is taken eagerly, and then captured again, a few times. What such a comparison
    can't see, `verify` finds: it is due after 4, 8, 16 ... and then every 1,000 captured steps,
    or fewer times where that would take more than a hundredth of the time.

    Args:
        compile: how to take steps.

    Attributes:
        unverified: captured steps taken since `verify` last found nothing.
    """

    def __init__(self, compile: Setting) -> None:  # noqa: A002  (torch's own word for it)
        self.compile: Setting = compile
        self.how: str | None = None
        self.unverified = 0
        self._interval = 0
        self._checked = self._trusted = time.perf_counter()
        self._known: dict[Any, CapturedUpdate | None] = {}
        self._reads: dict[Any, Reads] = {}
        self._changes: Counter[Any] = Counter()
        self._used: dict[Any, tuple[CapturedUpdate, Sequence[Tensor], Mapping[str, float]]] = {}
        self._told: set[str] = set()
        self._stopped = False
        self._settled: Objective | None = None

    @property
    def known(self) -> list["CapturedUpdate"]:
        """The captured steps at hand."""
        return [step for step in self._known.values() if step is not None]

    @property
    def due(self) -> bool:
        """Whether `verify` is due before the next step."""
        return bool(self._used) and self.unverified >= self._interval

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
            ValueError: the step can't be captured, and ``compile`` insists.
        """
        patience = PATIENCE if self.compile == "auto" else 1
        if self._stopped or self.compile == "off" or taken < patience:
            return None
        if update.objective is not self._settled:  # it settles in its first run what it reads back
            first, self._settled = self._settled is None, update.objective
            if not first:
                return None
        key = (
            *((t.shape, t.dtype, t.device) for t in inputs),
            kl_weight is None,
            id(getattr(source, "__self__", source)),
            getattr(source, "__func__", None),
            update.settings(),
        )
        if key in self._reads and (place := self._reads[key].changed()):
            self._renew(key, Reads(*_programs(update, source)), place)
            return None
        if fresh := key not in self._known:
            with products_in(update.precision):
                self._known[key] = self._make(key, update, inputs, kl_weight, source, planned)
        captured = self._known[key]
        if captured is None:
            return None
        numbers = {} if kl_weight is None else {"kl_weight": kl_weight}
        captured.set(numbers)
        if captured.unchecked:
            try:
                if not fresh:
                    with products_in(update.precision):
                        captured.check(inputs)
            except NotCapturable as error:
                self._known[key] = self._give_up(str(error))
                return None
            captured.unchecked -= 1
        else:
            self.unverified += 1
            self._used[key] = captured, inputs, numbers
        return captured(inputs)

    def verify(self) -> str | None:
        """Compare the captured steps used since the last time with eager ones, on their last batch.

        Returns:
            How one of them differs; None where none does.
        """
        self._checked = time.perf_counter()
        try:
            for key, (captured, inputs, numbers) in self._used.items():
                changed = key[-1] != captured.update.settings() or self._reads[key].changed()
                if not changed:  # since the step; else the step is not at fault
                    captured.set(numbers)
                    with products_in(captured.update.precision):
                        captured.check(inputs)
        except NotCapturable as error:
            return str(error)
        return None

    def trust(self) -> None:
        """Count the steps taken so far as right; at first, the next check is twice as far on."""
        now = time.perf_counter()
        dear = now - self._checked > COST * (now - self._trusted)
        if self.unverified >= INTERVAL and dear:
            self._interval = min(2 * self._interval, LONGEST)
        elif self.unverified:
            self._interval = max(min(2 * self._interval, INTERVAL), self._interval)
        self._checked = self._trusted = now
        self._interval = max(self._interval, FIRST_CHECKS)
        self.unverified = 0
        self._used.clear()

    def stop(self, why: str, step: int, back: int) -> None:
        """Take every later step eagerly, and say that steps are undone.

        Args:
            why: how a captured step differs.
            step: number of steps taken.
            back: the same at the last check.

        Raises:
            ValueError: ``compile`` insists on captured steps, or several processes share them.
        """
        self._stopped = True
        self.unverified = 0
        for held in (self._known, self._reads, self._used):
            held.clear()
        said = (
            f"At step {step:,} {why}. Went back to step {back:,}, where the last check found no "
            f"difference: {step - back:,} steps are undone"
        )
        if self.compile != "auto":
            raise ValueError(f"{said}. Train with compile 'off', or 'auto', which goes on eagerly.")
        if world() > 1:
            raise ValueError(f"{said} in this process alone. Resume with compile 'off'.")
        _log.warning("%s; taking eager steps.", said)

    def _make(
        self,
        key: Any,
        update: Update,
        inputs: Sequence[Tensor],
        kl_weight: float | None,
        source: Source | None,
        planned: int,
    ) -> "CapturedUpdate | None":
        if len(self.known) >= CAPTURES:
            return self._give_up(f"more than {CAPTURES} shapes or settings")
        reads = Reads(*_programs(update, source))
        # Of the whole run: one that is resumed near its end goes on as it was.
        backends, why = choose(self.compile, planned or None, inputs[0].device, STEPS)
        error = why
        for backend in backends:
            try:
                made = CapturedUpdate(update, inputs, kl_weight, source, backend, reads)
                made.check(inputs)
            except NotCapturable as found:
                error = str(found)
                why = f"{backend.name} can't ({error})"
            else:
                self.how, self._reads[key] = backend.name, reads
                self._interval = min(self._interval, FIRST_CHECKS)
                self._tell(logging.INFO, f"Steps are captured ({backend.name}): {why}.")
                return made
        return self._give_up(error)

    def _renew(self, key: Any, reads: Reads, place: str) -> None:
        """Capture again at the next step of this kind, unless too much has changed."""
        self._known.pop(key, None)
        self._used.pop(key, None)
        self._changes[key] += 1
        if self._changes[key] <= CHANGES:
            self._reads[key] = reads
            return
        del self._reads[key]
        self._known[key] = self._give_up(
            f"{place} keeps changing, and a graph holds it as it was; make it a buffer that is "
            "updated in place"
        )

    def _give_up(self, why: str) -> None:
        if self.compile != "auto":
            raise ValueError(
                f"The step can't be captured: {why}. Take compile 'off', or 'auto', which does so "
                "by itself."
            )
        self._tell(logging.WARNING, f"Capture failed ({why}); taking eager steps.")

    def _tell(self, level: int, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            _log.log(level, "%s", text)


def _programs(update: Update, source: Source | None) -> list[Callable[..., Any]]:
    """Return what a step calls."""
    called = [update.model, update.guide, update.objective]
    return called if source is None else [*called, source]

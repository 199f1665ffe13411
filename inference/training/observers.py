"""Observers of training: told of its start, steps, rows, checkpoints and end."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from .. import rng
from ..evaluation.validation import COLLAPSED, REMEDY
from .svi import SVI
from .trace import Row, Trace

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What a fit is about to do.

    Args:
        epochs: passes over the training data.
        steps: optimiser steps an epoch.
        taken: steps that earlier sittings have taken.
    """

    epochs: int
    steps: int
    taken: int = 0


class Observer:
    """Watches a fit; a subclass says what it does with what it is told, and leaves the rest.

    This one writes to TensorBoard, given to ``fit(..., watch=[TensorBoard("runs/board")])``::

        class TensorBoard(Observer):
            def __init__(self, folder: str) -> None:
                self.writer = SummaryWriter(folder)

            def row(self, row: Row, svi: SVI) -> None:
                for name in ("elbo", "reconstruction", "kl"):
                    self.writer.add_scalar(f"{row.split}/{name}", getattr(row, name), row.step)

            def end(self, trace: Trace, svi: SVI, error: BaseException | None) -> None:
                self.writer.close()

    When one raises, `fit` saves everything, tells all of the end, and raises the same error with a
    note that names the observer. Of several processes, the first one tells its observers. What they
    draw at random does not change the training; what they do to the weights does.
    """

    def start(self, svi: SVI, plan: Plan) -> None:
        """Training begins, or goes on."""

    def step(self, step: int, svi: SVI) -> None:
        """That many steps are taken now. The next one waits: read no tensor here."""

    def row(self, row: Row, svi: SVI) -> None:
        """A row was added to the trace, of the split ``row.split``."""

    def checkpoint(self, state: Mapping[str, Any], svi: SVI) -> None:
        """A checkpoint was made of tensors and plain data; ``state["progress"]`` has its step."""

    def end(self, trace: Trace, svi: SVI, error: BaseException | None) -> None:
        """Training is over; ``error`` is what stopped it early, or None."""


class Record(Observer, ABC):
    """The observer that a fit resumes from: a run directory, say.

    It is told before the others, so that these find written what they are told of.

    Attributes:
        trace: the rows; those it is told of are added.
    """

    trace: Trace

    @abstractmethod
    def load(self) -> dict[str, Any] | None:
        """Return the newest checkpoint, or None before the first."""

    def row(self, row: Row, svi: SVI) -> None:  # noqa: ARG002
        """Add the row to the trace."""
        self.trace.append(row)


class InMemory(Record):
    """A record that keeps the rows alone, for as long as the process lives."""

    def __init__(self) -> None:
        self.trace = Trace()

    def load(self) -> None:
        """Return None: nothing goes on from it."""


class ProgressBar(Observer):
    """A line on the terminal: steps, the epoch, and the last row in short.

    Args:
        show: whether to draw it; None draws it on a terminal.
    """

    def __init__(self, show: bool | None = None) -> None:
        self._hidden = None if show is None else not show
        self._bar: tqdm[Any] | None = None

    def start(self, svi: SVI, plan: Plan) -> None:  # noqa: ARG002
        """Draw the line."""
        self._plan = plan
        self._bar = tqdm(
            total=plan.epochs * plan.steps,
            initial=plan.taken,
            disable=self._hidden,
            unit="step",
            dynamic_ncols=True,
            smoothing=0.05,
        )
        self._name_epoch(plan.taken)

    def step(self, step: int, svi: SVI) -> None:  # noqa: ARG002
        """Move it on."""
        if self._bar is not None:
            self._bar.update()

    def row(self, row: Row, svi: SVI) -> None:  # noqa: ARG002
        """Show the row."""
        if self._bar is not None:
            used = "" if row.active_units is None else f", active units {row.active_units}"
            split = "" if row.split == "train" else f"{row.split} "
            self._bar.set_postfix_str(f"{split}ELBO {row.elbo:.2f}{used}")
            self._name_epoch(row.step)

    def end(self, trace: Trace, svi: SVI, error: BaseException | None) -> None:  # noqa: ARG002
        """Leave the line as it is."""
        if self._bar is not None:
            self._bar.close()

    def _name_epoch(self, step: int) -> None:
        if self._bar is not None:
            epoch = min(step // self._plan.steps + 1, self._plan.epochs)
            self._bar.set_description(f"epoch {epoch}/{self._plan.epochs}")


class CollapseWarning(Observer):
    """Says in words that z carries nothing, as after training with too strong a decoder."""

    def end(self, trace: Trace, svi: SVI, error: BaseException | None) -> None:  # noqa: ARG002
        """Warn where every dimension of the last validation has collapsed."""
        rows = trace.split("valid")
        if error is None and rows and rows[-1].collapsed == 1.0:
            _log.warning(
                "The posterior has collapsed to the prior: the KL of every dimension is below %s "
                "nats on valid, so that z says nothing of x. %s",
                COLLAPSED,
                REMEDY,
            )


class Observers:
    """The observers of one fit, told one after the other.

    Args:
        record: is told first; what it raises is not saved, for it is what saves.
        watch: the user's; what they draw at random is drawn apart.
        others: are told last.

    Attributes:
        failed: the observer of ``watch`` or ``others`` that has raised, or None.

    Raises:
        TypeError: one of ``watch`` is no `Observer`.
    """

    def __init__(
        self, record: Record, watch: Sequence[Observer] = (), others: Sequence[Observer] = ()
    ) -> None:
        for each in watch:
            if not isinstance(each, Observer):
                raise TypeError(
                    f"Expected observers in watch; got {each!r}. Subclass "
                    "inference.training.Observer: fit calls its methods."
                )
        self.failed: Observer | None = None
        self._record, self._watch, self._others = record, watch, others
        # Most have nothing to say of a step, and there are many steps.
        self._stepping = [
            each for each in (*watch, *others) if type(each).step is not Observer.step
        ]

    def tell(self, call: Callable[[Observer], object]) -> None:
        """Call something of each observer; what one raises goes on, with a note of whose it is."""
        call(self._record)
        if self._watch:
            with rng.isolated():
                self._each(self._watch, call)
        self._each(self._others, call)

    def step(self, step: int, svi: SVI) -> None:
        """Tell those that have something to say of it of a step."""
        if self._stepping:
            self._each(self._stepping, lambda observer: observer.step(step, svi))

    def end(self, trace: Trace, svi: SVI, error: BaseException | None) -> None:
        """Tell all of the end, also where one raises; the first that does ends a sound training."""
        raised: Exception | None = None
        for observer in (self._record, *self._watch, *self._others):
            try:
                self._each([observer], lambda each: each.end(trace, svi, error))
            except Exception as another:
                raised = raised or another
        if error is None and raised is not None:
            raise raised

    def _each(self, observers: Sequence[Observer], call: Callable[[Observer], object]) -> None:
        for observer in observers:
            try:
                call(observer)
            except Exception as error:
                self.failed = observer
                error.add_note(f"(raised by the observer {type(observer).__name__})")
                raise

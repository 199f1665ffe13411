"""Observers of training: `fit` calls them at its start, steps, rows, checkpoints and end."""

import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from tqdm.auto import tqdm

from .. import rng
from ..evaluation.validation import COLLAPSED, REMEDY
from .lines import Lines
from .svi import SVI
from .trace import Row, Trace

IN_NOTEBOOK = any(each.__name__ == "tqdm_notebook" for each in tqdm.__mro__)
"""Whether the bar is one of Jupyter's."""

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
    """Watches a fit: `fit` calls these methods; a subclass overrides those that it needs.

    This one prints each validation, given to ``fit(..., watch=[Print()])``::

        class Print(Observer):
            def row(self, row: Row, svi: SVI) -> None:
                if row.split == "valid":
                    print(row.step, row.elbo)

    When an observer raises, `fit` saves everything, calls ``end`` of every observer, and raises the
    same error with a note that names the observer. Of several processes, only the first one calls
    its observers. What they draw at random does not change the training; what they do to the
    weights does.
    """

    def start(self, svi: SVI, plan: Plan) -> None:
        """Called when training begins or resumes."""

    def step(self, step: int, svi: SVI) -> None:
        """Called after each step, with their number. The next one waits: read no tensor here."""

    def row(self, row: Row, svi: SVI) -> None:
        """Called for each new row of the trace; ``row.split`` names its split."""

    def checkpoint(self, state: Mapping[str, Any], svi: SVI) -> None:
        """Called with each checkpoint, plain data; its step is in ``state["progress"]``."""

    def end(self, trace: Trace, svi: SVI, error: BaseException | None) -> None:
        """Called at the end; ``error`` is what stopped training early, or None."""


class Record(Observer, ABC):
    """The observer that a fit resumes from: a run directory, say.

    `fit` calls it before the others, so that they find every row and checkpoint written.

    Attributes:
        trace: the rows; `row` adds to them.
    """

    trace: Trace

    @abstractmethod
    def load(self) -> dict[str, Any] | None:
        """Return the newest checkpoint, or None before the first."""

    def writing(self) -> AbstractContextManager[None]:
        """Return a context in which `fit` is the only one who writes."""
        return nullcontext()

    def row(self, row: Row, svi: SVI) -> None:  # noqa: ARG002
        """Add the row to the trace."""
        self.trace.append(row)


class InMemory(Record):
    """A record that keeps the rows alone, for as long as the process lives."""

    def __init__(self) -> None:
        self.trace = Trace()

    def load(self) -> None:
        """Return None: it keeps no checkpoint."""


class ProgressBar(Observer):
    """A line on the terminal: steps, the epoch, and the last row in short.

    Args:
        show: whether to draw it; None draws it on a terminal and in a notebook, and writes a line
            at each tenth of the steps or each half minute elsewhere.
    """

    def __init__(self, show: bool | None = None) -> None:
        self._hidden = None if show is None else not show
        self._bar: tqdm[Any] | None = None
        self._lines: Lines | None = None

    def start(self, svi: SVI, plan: Plan) -> None:  # noqa: ARG002
        """Draw the line."""
        self._plan = plan
        hidden = False if self._hidden is None and IN_NOTEBOOK else self._hidden
        if hidden is None and not sys.stderr.isatty():
            self._lines = Lines(plan.epochs, plan.steps, plan.taken)
        self._bar = tqdm(
            total=plan.epochs * plan.steps,
            initial=plan.taken,
            disable=hidden,
            unit="step",
            dynamic_ncols=True,
            smoothing=0.05,
        )
        self._name_epoch(plan.taken)

    def step(self, step: int, svi: SVI) -> None:  # noqa: ARG002
        """Move it on."""
        if self._bar is not None:
            self._bar.update()
        if self._lines is not None:
            self._lines.at(step)

    def row(self, row: Row, svi: SVI) -> None:  # noqa: ARG002
        """Show the row."""
        if self._lines is not None:
            self._lines.last = row
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
    """Warns at the end where z carries nothing, as happens with too strong a decoder."""

    def end(self, trace: Trace, svi: SVI, error: BaseException | None) -> None:  # noqa: ARG002
        """Warn where every dimension of the last validation has collapsed."""
        rows = trace.split("valid")
        if error is None and rows and rows[-1].collapsed == 1.0:
            _log.warning(
                "The posterior has collapsed to the prior: the KL of every dimension is below %s "
                "nats on valid, so z says nothing of x. %s",
                COLLAPSED,
                REMEDY,
            )


class Observers:
    """The observers of one fit, called one after the other.

    Args:
        record: called first; nothing is saved when it raises, because it is what saves.
        watch: the user's; their random draws leave the training's alone.
        others: called last.

    Attributes:
        failed: the observer of ``watch`` or ``others`` that raised, or None.

    Raises:
        TypeError: one of ``watch`` is not an `Observer`.
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
        # Most do nothing at a step, and there are many steps.
        self._stepping = [
            each for each in (*watch, *others) if type(each).step is not Observer.step
        ]

    def tell(self, call: Callable[[Observer], object]) -> None:
        """Apply a call to each observer; an error that one raises gets a note with its name."""
        call(self._record)
        if self._watch:
            with rng.isolated():
                self._each(self._watch, call)
        self._each(self._others, call)

    def step(self, step: int, svi: SVI) -> None:
        """Call ``step`` of the observers that override it."""
        if self._stepping:
            self._each(self._stepping, lambda observer: observer.step(step, svi))

    def end(self, trace: Trace, svi: SVI, error: BaseException | None) -> None:
        """Call ``end`` of all, even if one raises; raise the first error if training was sound."""
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

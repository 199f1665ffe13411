"""The training loop: epochs over a data set, a trace, validation, checkpoints, exact resume."""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from .. import distributed, rng
from ..alone import ALONE
from ..data.records import Dataset, Split
from ..data.streams import Streams
from ..evaluation.validation import Validation, Validator
from ..objectives.bounds import Estimate
from ..objectives.from_pyro import FromPyro
from .diverged import why_diverged
from .feed import Feed, Permuted, Streamed, streams
from .interrupts import Interrupted, agreed, signals
from .observers import (
    CollapseWarning,
    InMemory,
    Observer,
    Observers,
    Plan,
    ProgressBar,
    Record,
)
from .progress import Progress, take_up
from .rewind import Rewind
from .scheduled import Scheduled, named_schedules
from .schedules import Constant, Schedule
from .selection import Select, choose, default_select
from .svi import SVI
from .trace import Row, Trace


@ALONE
def fit(
    svi: SVI,
    data: Dataset | Streams | Any,
    *,
    epochs: int,
    valid: Any = None,
    batch_size: int = 128,
    kl_weight: Schedule = Constant(),  # noqa: B008  (frozen)
    schedules: Mapping[str, Schedule] | None = None,
    patience: int | None = None,
    select: Select | None = None,
    log_every: int = 100,
    run: Record | None = None,
    checkpoint_every: float = 30.0,
    watch: Sequence[Observer] = (),
    show_progress: bool | None = None,
) -> Trace:
    """Train a pair and return its ELBO trace.

    Every epoch takes whole batches of a fresh permutation of the training data and leaves out the
    few data that fill no batch. After each epoch `fit` measures the ELBO of the validation split,
    at KL weight 1 and with the same noise each time, and keeps the weights with the highest one
    (``trace.weights``), or those that ``select`` names.
    With a run, `fit` saves everything as it comes; a second call with the same arguments resumes at
    the last checkpoint, on a CPU to the same bits. At the end `fit` warns if the posterior has
    collapsed to the prior. All training data share the terms of a site outside the data plate, in
    steps and in validation: ``svi.data_size`` becomes their number, unless it was given.

    >>> import torch
    >>> from guides import MLP, Amortized, DiagonalNormal
    >>> from inference import SVI, Dataset, Split, fit
    >>> from models import MLP as Decoder, VAE, Bernoulli, StandardNormal
    >>> model = VAE(StandardNormal(2), Decoder(2, (8,)), Bernoulli((8,)))
    >>> guide = Amortized(MLP((8,), 4), DiagonalNormal(2))
    >>> x = Split(torch.eye(8))
    >>> data = Dataset("one-hot", train=x, valid=x, test=x)
    >>> trace = fit(SVI(model, guide), data, epochs=2, batch_size=4, show_progress=False)
    >>> [(row.step, row.split) for row in trace.rows]
    [(2, 'train'), (2, 'valid'), (4, 'train'), (4, 'valid')]

    Args:
        svi: the pair and how to optimise it.
        data: on the device to train on; or batches in their own order, as a torch ``DataLoader`` or
            any iterable of them with a length has them (`Streams`).
        epochs: passes over the training split.
        valid: what to validate on where ``data`` is an iterable of batches: another, or a `Split`.
        batch_size: data per step, of all processes together; an iterable has its own.
        kl_weight: weight of the KL term in the loss over time; the trace's ELBO never shows it.
        schedules: of other numbers over time, by name: ``learning_rate``, ``objective.beta``,
            ``objective.estimator.temperature``, a buffer of the pair (see `Scheduled`). The trace
            has a column for each number that moves.
        patience: number of validations without a better value of what ``select`` names after which
            `fit` stops; those at another KL weight than the last do not count; None never stops.
        select: what chooses the weights that are kept: ``elbo``; ``objective``, what is optimised,
            weights and all, then a column of the trace; ``last``. None is ``elbo`` where what is
            optimised bounds log p(x), else ``objective``.
        log_every: steps between two train rows of the trace; at most an epoch.
        run: directory to record in and resume from; None keeps the trace in memory.
        checkpoint_every: seconds between two checkpoints; `fit` also makes one at the end.
        watch: observers, called at the start, at each step, row and checkpoint, and at the end.
            `fit` saves everything before it passes on an error of theirs.
        show_progress: whether to draw a progress bar; None draws one on a terminal.

    Raises:
        ValueError: the batch is larger than the training split, or not a multiple of the number of
            processes; or a schedule names no number, or gives a number a value that it can't have.
        TypeError: one of ``watch`` is not an `Observer`.
        ConnectionError: another process of the run is gone.
        FloatingPointError: the bound is no longer finite.
        Interrupted: SIGINT or SIGTERM came; the run is saved.
        OSError: the disk is full; the run stays as it was at its last checkpoint.
        BlockingIOError: another process writes to the run; the message names it.
    """
    data = streams(data, valid, svi)
    train = data.train
    if isinstance(train, Split) and not 0 < batch_size <= len(train):
        raise ValueError(
            f"Expected a batch size from 1 to {len(train):,}, the number of training data of "
            f"{data.name}; got {batch_size}."
        )
    if svi.data_size is None:
        svi.data_size = len(train)
    feed = Permuted(train, batch_size) if isinstance(train, Split) else Streamed(train)
    steps = feed.steps
    progress = Progress(torch.empty(0, dtype=torch.long), torch.zeros(3, device=train.device))
    if not svi.parameters:
        svi.prepare(next(train.batches(batch_size)))
    record = run or InMemory()
    with record.writing() if not distributed.rank() else nullcontext():
        saved = record.load()
        if saved is not None:
            progress = take_up(saved, svi, train)
        distributed.take_first(svi.tensors().values())
        if distributed.rank():  # only the first process writes and logs
            observers = Observers(record := InMemory())
        else:
            others = (ProgressBar(show_progress), CollapseWarning())
            observers = Observers(record, watch, others)
            record.trace.resume(saved)

        svi.planned = epochs * steps
        select = select or default_select(svi.objective, kl_weight, epochs)
        validate = Validator(
            svi.model,
            svi.guide,
            data.valid,
            times=epochs,
            compile=svi.compile,
            data_size=svi.data_size,
            objective=svi.objective if select == "objective" else None,
            relaxed=svi.objective,
            bound=svi.objective if isinstance(svi.objective, FromPyro) else None,
        )
        numbers = Scheduled(svi, named_schedules(kl_weight, schedules), epochs, train.device)
        choice = (select, epochs, checkpoint_every, train.mean_log_det)
        loop = _Loop(svi, data, validate, observers, record, numbers, progress, feed, *choice)
        with numbers, signals() as received:
            try:
                plan = Plan(epochs, steps, progress.step)
                observers.tell(lambda observer: observer.start(svi, plan))
                if saved is None:
                    record.checkpoint(loop.state(), svi)
                while loop.unfinished(epochs, patience):
                    loop.take_epoch(log_every, received)
                loop.save()
            except BaseException as error:
                if observers.failed is not None:
                    record.checkpoint(loop.state(), svi)
                observers.end(record.trace, svi, error)
                raise
            record.trace.weights = progress.best_weights
            observers.end(record.trace, svi, None)
        return record.trace


@dataclass
class _Loop:
    """One fit: steps, sums, rows, checkpoints, the clock."""

    svi: SVI
    data: Dataset | Streams
    validate: Validator
    observers: Observers
    record: Record
    numbers: Scheduled
    progress: Progress
    feed: Feed
    select: Select
    epochs: int
    checkpoint_every: float
    log_det: float

    def __post_init__(self) -> None:
        self.steps = self.feed.steps
        self.started = time.monotonic() - self.progress.seconds
        self.saved = time.monotonic()
        self.sound = self.progress.best_weights or self.svi.weights()
        self.rewind = Rewind(self.svi, self.progress, self.record.trace)

    def unfinished(self, epochs: int, patience: int | None) -> bool:
        """Return whether there are steps to take; check the last ones before saying no."""

        def done() -> bool:
            stale = self.progress.stale
            return self.progress.epoch >= epochs or bool(patience and stale >= patience)

        return not done() or (not self.rewind.verify() and not done())

    def take_epoch(self, log_every: int, received: list[int]) -> None:
        """Take the steps that the present epoch still lacks, and validate."""
        progress = self.progress
        for inputs, source in self.feed.epoch(progress):
            self.numbers.set(progress.step / self.steps)
            self.add(self.svi.step(inputs, self.numbers.values["kl_weight"], source))
            if logged := progress.summed >= min(log_every, self.steps):
                self.log_train()
            self.observers.step(progress.step, self.svi)
            if signum := agreed(received, logged, progress.sums):
                self.save()
                raise Interrupted(signum, progress.step)
            if self.rewind.undone():
                return
        progress.epoch, progress.position = progress.epoch + 1, 0
        self.log_valid()
        self.save_if_due()

    def add(self, estimate: Estimate) -> None:
        self.progress.step += 1
        self.progress.position += 1
        self.progress.summed += 1
        # On the device: reading a value here waits for it in every step.
        self.progress.sums += torch.stack(estimate[1:])

    def log_train(self) -> None:
        values = (self.progress.sums / self.progress.summed).tolist()
        self.progress.sums.zero_()
        self.progress.summed = 0
        self._log("train", Validation(*values).shifted(self.log_det))
        self.save_if_due()

    def log_valid(self) -> None:
        kl_weight = self.numbers.schedules["kl_weight"]
        now, last = kl_weight(self.progress.epoch), kl_weight(self.epochs)
        found = self.validate(now)
        choose(self.select, self.progress, found, now == last, self.svi.weights)
        self.sound = self.progress.best_weights or self.sound
        self._advance_scheduler(found.elbo)
        self._log("valid", found)

    def save_if_due(self) -> None:
        if time.monotonic() - self.saved >= self.checkpoint_every:
            self.save()

    def save(self) -> None:
        state = self.state()
        self.observers.tell(lambda observer: observer.checkpoint(state, self.svi))
        self.saved = time.monotonic()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds: all that the rest of the run depends on."""
        self.rewind.verify()
        self.progress.seconds = time.monotonic() - self.started
        trace = self.record.trace
        progress = {**vars(self.progress), "rows": len(trace)}
        return {
            "svi": self.svi.state_dict(),
            "progress": progress,
            "rng": rng.get_state(),
            "trace": trace.digest(len(trace)),
        }

    def _log(self, split: str, found: Validation) -> None:
        """Add a row, once the state is whole: an observer may ask for a checkpoint."""
        # An ELBO of Pyro's may have no parts.
        if not math.isfinite(found.elbo) or any(map(math.isinf, found[1:3])):
            raise FloatingPointError(
                f"The ELBO is {found.elbo} on {split} at step {self.progress.step:,} "
                f"(reconstruction {found.reconstruction}, KL {found.kl}). "
                f"{why_diverged(self.svi, self.sound, self.data, split)}"
            )
        step, seconds = self.progress.step, time.monotonic() - self.started
        row = Row(
            step=step,
            epoch=step / self.steps,
            seconds=round(seconds, 3),
            split=split,
            **found._asdict(),
            extra=self.numbers.moving((step - 1) / self.steps) | self.progress.named_segment(),
        )
        self.observers.tell(lambda observer: observer.row(row, self.svi))

    def _advance_scheduler(self, valid_elbo: float) -> None:
        scheduler = self.svi.scheduler
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(-valid_elbo)
        elif scheduler is not None:
            scheduler.step()

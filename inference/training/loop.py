"""The training loop: epochs over a data set, a trace, validation, checkpoints, exact resume."""

import logging
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau
from tqdm import tqdm

from .. import distributed, rng
from ..data.records import Dataset
from ..evaluation.validation import COLLAPSED, REMEDY, Validation, Validator
from ..objectives.bounds import Estimate
from .rewind import Rewind
from .schedules import Constant, Schedule
from .svi import SVI
from .trace import Row, Trace

_log = logging.getLogger(__name__)


class Interrupted(Exception):  # noqa: N818  (nothing went wrong)
    """A signal asked training to stop; everything up to ``step`` is saved where there is a run.

    Args:
        signum: the signal's number.
        step: number of optimiser steps taken.
    """

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"{signal.Signals(signum).name} after step {step:,}")
        self.signum, self.step = signum, step


@dataclass
class Progress:
    """Where training is: all that a checkpoint needs beside weights, optimiser and random states.

    Args:
        step: optimiser steps taken.
        epoch: whole epochs finished.
        position: batches of the present epoch taken.
        seconds: training time so far.
        permutation: order of the data in the present epoch, (N,).
        sums: bound, reconstruction and KL summed since the last train row, (3,).
        summed: how many steps are in ``sums``.
        rows: rows of the trace.
        best: highest validation ELBO, nats per datum.
        best_weights: the weights that had it.
        stale: validations since then, those during a KL warm-up not counted.
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


class Record(Protocol):
    """Where a fit keeps its trace and its checkpoints: a run directory, say.

    Attributes:
        trace: the rows, as they come.
    """

    trace: Trace

    def load(self) -> dict[str, Any] | None:
        """Return the newest checkpoint, or None before the first."""
        ...

    def save(self, state: Mapping[str, Any]) -> None:
        """Write a checkpoint of tensors and plain data."""
        ...


def fit(
    svi: SVI,
    data: Dataset,
    *,
    epochs: int,
    batch_size: int = 128,
    kl_weight: Schedule = Constant(),  # noqa: B008  (frozen)
    patience: int | None = None,
    log_every: int = 100,
    run: Record | None = None,
    checkpoint_every: float = 30.0,
    show_progress: bool | None = None,
) -> Trace:
    """Train a pair and return its ELBO trace.

    Every epoch takes whole batches of a fresh permutation of the training data; the few data left
    over wait for another epoch's. After each epoch the ELBO of the validation split is measured,
    at KL weight 1 and with the same noise each time; the weights that had the highest one are the
    run's choice. With a run, everything is saved as it comes, and calling again with the same
    arguments goes on where the last checkpoint was made: on a CPU to the same bits. In the end a
    posterior that has collapsed to the prior is told in a warning.

    Args:
        svi: the pair and how to optimise it.
        data: on the device to train on.
        epochs: passes over the training split.
        batch_size: data per step, of all processes together.
        kl_weight: weight of the KL term in the loss over time; the trace never shows it.
        patience: stop after that many validations without a better ELBO, not counted while the KL
            weight is not 1; None never stops early.
        log_every: steps between two train rows of the trace; an epoch, where that is shorter.
        run: directory to record in and resume from; None keeps the trace in memory.
        checkpoint_every: seconds between two checkpoints; one is made at the end in any case.
        show_progress: whether to draw a progress bar; None draws one on a terminal.

    Raises:
        ValueError: the batch is larger than the training split, or no multiple of the processes.
        ConnectionError: another process of the run is gone.
        FloatingPointError: the bound is no finite number any more.
        Interrupted: SIGINT or SIGTERM came; the run is saved.
        OSError: the disk is full; the run is what it was at its last checkpoint.
    """
    train = data.train
    if not 0 < batch_size <= len(train):
        raise ValueError(
            f"Expected a batch size from 1 to {len(train):,}, the number of training data of "
            f"{data.name}; got {batch_size}."
        )
    steps = len(train) // batch_size
    progress = Progress(torch.empty(0, dtype=torch.long), torch.zeros(3, device=train.device))
    if not svi.parameters:
        svi.prepare(train.batch(slice(batch_size)))
    saved = run.load() if run else None
    if saved is not None:
        svi.load_state_dict(saved["svi"])
        progress = Progress(**saved["progress"])
        progress.sums = progress.sums.to(train.device)
        rng.set_state(saved["rng"])
    distributed.take_first(svi.tensors().values())
    if distributed.rank():
        run = None  # the first process writes for all
    trace = run.trace if run else Trace()
    if run or saved is None:
        trace.keep(progress.rows)

    svi.planned, source = epochs * steps, train.batch
    validate = Validator(svi.model, svi.guide, data.valid, times=epochs, compile=svi.compile)
    loop = _Loop(svi, validate, trace, progress, steps, run, checkpoint_every)
    bar = tqdm(
        total=epochs * steps,
        initial=progress.step,
        disable=None if show_progress is None else not show_progress,
        unit="step",
        dynamic_ncols=True,
        smoothing=0.05,
    )
    with bar, _signals() as received:
        while loop.unfinished(epochs, patience):
            bar.n = progress.step
            if progress.position == 0:
                progress.permutation = torch.randperm(len(train), device=train.device)
                distributed.take_first([progress.permutation])
            order = progress.permutation.to(train.device)
            bar.set_description(f"epoch {progress.epoch + 1}/{epochs}")
            for position in range(progress.position, steps):
                places = order[position * batch_size : (position + 1) * batch_size]
                weight = kl_weight(progress.step / steps)
                loop.add(svi.step(places, weight, source))
                bar.update()
                logged = progress.summed >= min(log_every, steps)
                if logged:
                    bar.set_postfix_str(loop.log_train())
                if signum := _agreed(received, logged, progress.sums):
                    loop.save()
                    raise Interrupted(signum, progress.step)
                if loop.rewind.undone():
                    break
            else:
                progress.epoch, progress.position = progress.epoch + 1, 0
                bar.set_postfix_str(loop.log_valid(counted=kl_weight(progress.epoch) == 1.0))
                loop.save_if_due()
    loop.save()
    _warn_of_collapse(trace)
    return trace


@dataclass
class _Loop:
    """What the training loop does beside stepping: sums, rows, checkpoints, the clock."""

    svi: SVI
    validate: Validator
    trace: Trace
    progress: Progress
    steps: int
    run: Record | None
    checkpoint_every: float

    def __post_init__(self) -> None:
        self.started = time.monotonic() - self.progress.seconds
        self.saved = time.monotonic()
        self.rewind = Rewind(self.svi, self.progress, self.trace)

    def unfinished(self, epochs: int, patience: int | None) -> bool:
        """Whether there are steps to take; the last ones are checked before there are none."""

        def done() -> bool:
            stale = self.progress.stale
            return self.progress.epoch >= epochs or bool(patience and stale >= patience)

        return not done() or (not self.rewind.verify() and not done())

    def add(self, estimate: Estimate) -> None:
        self.progress.step += 1
        self.progress.position += 1
        self.progress.summed += 1
        # On the device: reading a value here would wait for it in every step.
        self.progress.sums += torch.stack(estimate[1:])

    def log_train(self) -> str:
        values = (self.progress.sums / self.progress.summed).tolist()
        self.progress.sums.zero_()
        self.progress.summed = 0
        self._log("train", Validation(*values))
        self.save_if_due()
        return f"ELBO {values[0]:.2f}"

    def log_valid(self, counted: bool) -> str:
        found = self.validate()
        self._log("valid", found)
        if found.elbo > self.progress.best:
            self.progress.best, self.progress.stale = found.elbo, 0
            self.progress.best_weights = self.svi.weights()
        elif counted:
            self.progress.stale += 1
        self._advance_scheduler(found.elbo)
        used = "" if found.active_units is None else f", active units {found.active_units}"
        return f"valid ELBO {found.elbo:.2f}{used}"

    def save_if_due(self) -> None:
        if time.monotonic() - self.saved >= self.checkpoint_every:
            self.save()

    def save(self) -> None:
        self.rewind.verify()
        if self.run is not None:
            self.progress.seconds = time.monotonic() - self.started
            progress = {**vars(self.progress), "rows": len(self.trace)}
            self.run.save(
                {"svi": self.svi.state_dict(), "progress": progress, "rng": rng.get_state()}
            )
            self.saved = time.monotonic()

    def _log(self, split: str, found: Validation) -> None:
        if not all(map(math.isfinite, found[:3])):
            raise FloatingPointError(
                f"The ELBO is {found.elbo} on {split} at step {self.progress.step:,} "
                f"(reconstruction {found.reconstruction}, KL {found.kl}). Lower the learning rate, "
                "clip the gradient (clip_norm), or warm up the KL."
            )
        step, seconds = self.progress.step, time.monotonic() - self.started
        self.trace.append(Row(step, step / self.steps, round(seconds, 3), split, *found))

    def _advance_scheduler(self, valid_elbo: float) -> None:
        scheduler = self.svi.scheduler
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(-valid_elbo)
        elif scheduler is not None:
            scheduler.step()


def _warn_of_collapse(trace: Trace) -> None:
    """Say in words that z carries nothing, as after training with too strong a decoder."""
    rows = trace.split("valid")
    if rows and rows[-1].collapsed == 1.0 and not distributed.rank():
        _log.warning(
            "The posterior has collapsed to the prior: the KL of every dimension is below %s nats "
            "on valid, so that z says nothing of x. %s",
            COLLAPSED,
            REMEDY,
        )


def _agreed(received: list[int], logged: bool, like: Tensor) -> int:
    """Return the signal to stop at, or 0: processes agree on it, or those left would wait."""
    if distributed.world() > 1:
        if not logged:
            return 0
        if not distributed.total([like.new_full((1,), float(len(received)))])[0]:
            return 0
        return received[0] if received else signal.SIGTERM
    return received[0] if received else 0


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second one of a kind does kill."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # Python lets no other thread handle signals
        return
    before: dict[int, Any] = {}

    def note(signum: int, _: Any) -> None:
        received.append(signum)
        signal.signal(signum, before[signum])

    for signum in (signal.SIGINT, signal.SIGTERM):
        before[signum] = signal.signal(signum, note)
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)

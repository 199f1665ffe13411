"""What a step takes, epoch by epoch: places of a split, rows read ahead from disk, or a stream."""

import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor

from .. import distributed, rng
from ..data.records import Dataset
from ..data.rows import MappedRows
from ..data.split import Split
from ..data.streams import Stream, Streams
from ..programs import Batch
from ..references import modules
from .progress import Progress
from .svi import SVI
from .update import Source

AHEAD = 4
"""Batches that a thread reads before the step that takes them."""

Taken = tuple[Batch, Source | None]
"""What a step takes, and what makes the batch of it; None where it is the batch."""


def streams(data: Any, valid: Any, svi: SVI) -> Dataset | Streams:
    """Return a data set as it is, and batches as streams on the device of a pair.

    Args:
        data: a data set, `Streams`, or an iterable of batches with a length.
        valid: another, or a split.
        svi: of the pair.

    Raises:
        TypeError: they are none, or there is nothing to validate on, or twice.
    """
    if isinstance(data, Dataset | Streams) and valid is not None:
        raise TypeError(f"{type(data).__name__} has its own valid: leave the other out.")
    if isinstance(data, Dataset):
        return data
    if not isinstance(data, Streams):
        if valid is None:
            raise TypeError(
                f"fit trains on a Dataset, or on batches with others to validate on; got "
                f"{type(data).__name__} alone: fit(svi, batches, valid=others, ...)."
            )
        data = Streams(data, valid)
    programs = (svi.model, svi.guide)
    found = (p for each in programs for m in modules(each).values() for p in m.parameters())
    first = next(iter(svi.parameters.values()), None)
    first = next(found, None) if first is None else first
    return data if first is None else data.to(first.device)


class Feed(Protocol):
    """Where the batches of an epoch come from.

    Attributes:
        steps: batches of an epoch.
    """

    steps: int

    def epoch(self, progress: Progress) -> Iterator[Taken]:
        """Return the batches that the present epoch still lacks; at its start, choose their order.

        Args:
            progress: how far training is; it keeps what the order depends on.
        """
        ...


class Permuted:
    """Whole batches of a fresh permutation of a split; the few data that fill none are left out.

    Args:
        train: the data.
        batch_size: data per step.

    Raises:
        ValueError: there are fewer data.
    """

    def __init__(self, train: Split, batch_size: int) -> None:
        self._train, self._size = train, batch_size
        self.steps = len(train) // batch_size
        # What makes a batch of rows that were read holds none itself: a captured step watches it.
        none = torch.zeros((), dtype=train.stored.dtype, device=train.device)
        self._maker = replace(train, stored=none.expand(train.stored.shape))

    def epoch(self, progress: Progress) -> Iterator[Taken]:
        """Return the batches that the present epoch still lacks; see `Feed.epoch`."""
        train, size = self._train, self._size
        if progress.position == 0:
            progress.permutation = torch.randperm(len(train), device=train.device)
            distributed.take_first([progress.permutation])
        order = progress.permutation.to(train.device)[: self.steps * size]
        places = order.split(size)[progress.position :]
        if isinstance(train.stored, MappedRows):
            return self._ahead(train.stored, places)
        return ((each, train.batch) for each in places)

    def _ahead(self, stored: MappedRows, places: tuple[Tensor, ...]) -> Iterator[Taken]:
        """Read rows in a thread while steps are taken; pinned, they move without a wait."""
        pinned = stored.device.type == "cuda"

        def read(at: Tensor) -> Tensor:
            rows = stored.read(at)
            return rows.pin_memory() if pinned else rows

        with ThreadPoolExecutor(1, "rows") as thread:
            ahead: list[Future[Tensor]] = [thread.submit(read, at) for at in places[:AHEAD]]
            try:
                for number, at in enumerate(places):
                    rows = ahead.pop(0).result().to(stored.device, non_blocking=True)
                    if number + AHEAD < len(places):
                        ahead.append(thread.submit(read, places[number + AHEAD]))
                    yield (rows, at), self._maker.batch_of
            finally:
                thread.shutdown(wait=False, cancel_futures=True)


class Streamed:
    """The batches of a stream, in the order in which it gives them.

    Args:
        train: the stream.

    Raises:
        ValueError: several processes would share them.
    """

    def __init__(self, train: Stream) -> None:
        if distributed.world() > 1:
            raise ValueError("A stream's batches can't be shared by several processes: take one.")
        self._train, self.steps = train, train.steps

    def epoch(self, progress: Progress) -> Iterator[Taken]:
        """Return the batches that the present epoch still lacks; see `Feed.epoch`.

        A loader is put back in its place by the random states of the epoch's start, with which it
        gives the batches that were taken once more.
        """
        before = rng.get_state()
        if progress.position == 0:
            progress.start = before
        else:
            rng.set_state(progress.start)
            if not self._train.again:
                warnings.warn(
                    f"The first {progress.position:,} batches of the present epoch are passed "
                    "over: going on is exact only if the iterable gives the same batches again.",
                    stacklevel=4,
                )
        batches = self._train.batches()
        for _ in islice(batches, progress.position):
            pass
        if progress.position:
            rng.set_state(before)
        return ((batch, None) for batch in batches)

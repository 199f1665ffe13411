"""How many particles of how many data go through the programs at once."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..capture.captured_pass import CapturedPass
from ..capture.choosing import Setting
from ..programs import Program

ROWS_PER_PASS = 2048
"""Data times particles of a pass, so that memory stays flat and near."""

ROWS_ON_CUDA = 131_072
"""The same on a CUDA device, which wants more of them to be busy, where that fits its memory."""

BYTES_ON_CUDA = 8 << 30
"""Memory of a pass on a CUDA device, at most half of what is free."""

Pass = Callable[..., list[Tensor]]
"""From a batch, and ``count`` particles, to log weights (count, B) and sums over them (B,)."""

_log = logging.getLogger(__name__)


def data_of_a_pass(size: int, draws: int, device: torch.device) -> int:
    """Return how many of so many data go through at once: the same in each process."""
    return max(1, min(size, _rows(device) // min(draws, 64)))


class Tiles:
    """Passes over the particles of one batch after another, as many at once as fit in memory.

    The number depends on the device and is the same for every batch; on CUDA it follows from the
    memory of two small passes, as a power of two if it has to be smaller. If memory still runs out,
    the number is halved and the batch runs again.

    Args:
        weigh: one pass.
        data: how many are in a batch.
        draws: particles of each batch in all.
        batches: how many batches are to come.
        device: of the data.
        compile: whether to capture a pass.
        programs: what a pass runs; changes in them are noticed.
    """

    def __init__(
        self,
        weigh: Pass,
        data: int,
        draws: int,
        batches: int,
        device: torch.device,
        compile: Setting,  # noqa: A002  (torch's own word for it)
        programs: Sequence[Program] = (),
    ) -> None:
        self._weigh, self._draws, self._device = weigh, draws, device
        self._batches = batches
        self._compile: Setting = compile
        self._programs = programs
        self._captured: CapturedPass | None = None
        self.taken = max(1, min(draws, _rows(device) // data))

    def __call__(self, start: Callable[[], Sequence[Tensor]]) -> tuple[Tensor, Tensor]:
        """Return log weights (draws, B) and the mean of what is summed over draws, (B,); float64.

        Args:
            start: seeds the draws and returns the batch; called again where it is taken again.

        Raises:
            torch.OutOfMemoryError: one particle of each datum is too much.
        """
        if self._captured is None and self._device.type == "cuda":
            batch = start()
            self.taken = fitting(lambda count: self._weigh(*batch, count=count), self.taken)
        while True:
            try:
                return self._take(start())
            except torch.OutOfMemoryError as error:
                if self.taken == 1:
                    raise
                shortage = str(error).splitlines()[0]
            self.taken, self._captured = self.taken // 2, None
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            _log.info("Memory is short (%s): %s particles a pass.", shortage, self.taken)

    def _take(self, batch: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        draws, taken, size = self._draws, self.taken, len(batch[0])
        many = self._captured = self._captured or self._capture()
        log_w = torch.empty(draws, size, dtype=torch.float64, device=self._device)
        mean = torch.zeros(size, dtype=torch.float64, device=self._device)
        for start in range(0, draws, taken):
            whole = start + taken <= draws
            total, summed = many(*batch) if whole else self._weigh(*batch, count=draws - start)
            log_w[start : start + taken] = total
            mean += summed / draws
        return log_w, mean

    def _capture(self) -> CapturedPass:
        taken = self.taken

        def weigh(*batch: Tensor) -> list[Tensor]:
            return self._weigh(*batch, count=taken)

        calls = self._batches * (self._draws // taken)
        return CapturedPass(weigh, self._compile, calls, self._programs)


def fitting(call: Callable[[int], Any], wanted: int) -> int:
    """Return how many particles fit the memory of the present CUDA device.

    Args:
        call: runs a pass of so many particles.
        wanted: the most to return.
    """
    if wanted <= 2:
        return wanted
    call(2)  # the first run also makes what stays; leave that out
    one, two = _peak(lambda: call(1)), _peak(lambda: call(2))
    room = min(BYTES_ON_CUDA, _free() // 2)
    fits = 1 + max(0, room - one) // max(1, two - one)
    return wanted if fits >= wanted else 1 << (int(fits).bit_length() - 1)


def _rows(device: torch.device) -> int:
    return ROWS_ON_CUDA if device.type == "cuda" else ROWS_PER_PASS


def _peak(call: Callable[[], Any]) -> int:
    """Return the most bytes that a call holds at once."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    return torch.cuda.max_memory_allocated() - before


def _free() -> int:
    """Return the bytes that are free, those that torch keeps for itself among them."""
    kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return torch.cuda.mem_get_info()[0] + kept

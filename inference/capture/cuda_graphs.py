"""CUDA graphs: the kernels that a captured function launches, recorded and launched at once."""

import logging
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .private import end_capture_mode
from .tracing import Captured, NotCapturable, first_line, unchanged

WARM_UPS = 3
"""Calls before a recording: libraries make their workspaces in the first ones."""

_log = logging.getLogger(__name__)


def recorded(
    function: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor],
    state: Iterable[Tensor],
    parts: Sequence[Captured],
) -> Callable[..., Sequence[Tensor]]:
    """Return a function as a CUDA graph, or as it is if there is no CUDA or it can't be one.

    If it can't, a warning names the reason, and the function's kernels are launched one by one:
    slower, with the same result.

    Args:
        function: what `capture` returned, or several such in a row.
        inputs: tensors like those of later calls.
        state: what the function changes; it is put back.
        parts: what `capture` returned.

    Returns:
        The function; what it returns lives until the next replay of any on the same device.

    Raises:
        RuntimeError: the recording failed, and left the process unable to draw random numbers.
    """
    if not inputs[0].is_cuda:
        return function
    try:
        if reasons := [part.crossing for part in parts if part.crossing]:
            raise NotCapturable(
                f"{reasons[0]} (make the one on the CPU a buffer, or make it where x is)"
            )
        return record(function, inputs, list(state))
    except NotCapturable as error:
        _log.warning("No CUDA graph (%s); launching kernels one by one.", error)
        return function


def record(
    function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], state: Sequence[Tensor]
) -> Callable[..., Sequence[Tensor]]:
    """Record the kernels that a function launches and return a function that launches them at once.

    Raises:
        NotCapturable: the function waits for the device, or CUDA refuses; as for `recorded`.
        RuntimeError: as for `recorded`.
    """
    device = inputs[0].device
    held = [tensor.clone() for tensor in inputs]
    with unchanged(state), torch.cuda.device(device):
        _warm_up(function, held)
        graph = torch.cuda.CUDAGraph()
        with _stream_restored():
            try:
                with torch.cuda.graph(graph, pool=_pool(device).pool()):
                    results = function(*held)
            except Exception as error:
                del graph
                _clean_up(device, error)
                raise NotCapturable(f"recording fails: {first_line(error)}") from error

    def replay(*tensors: Tensor) -> Sequence[Tensor]:
        with torch.cuda.device(device):
            for place, tensor in zip(held, tensors, strict=True):
                place.copy_(tensor)
            graph.replay()
        return results

    return replay


def _warm_up(function: Callable[..., Any], inputs: Sequence[Tensor]) -> None:
    """Call a function as its recording will, the last time so that CUDA refuses to wait."""
    side, main = torch.cuda.Stream(), torch.cuda.current_stream()
    side.wait_stream(main)
    try:
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS - 1):
                function(*inputs)
            with _waiting_refused():
                function(*inputs)
    except RuntimeError as error:
        raise NotCapturable(f"its trial fails: {first_line(error)}{_operation(error)}") from error
    finally:
        main.wait_stream(side)


def _operation(error: Exception) -> str:
    """Return the operation of the graph that raised, in words, or nothing."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        _, found, rest = (frame.line or "").partition("torch.ops.")
        if found:
            return f" (by {rest.partition('(')[0]})"
    return ""


@contextmanager
def _waiting_refused() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@contextmanager
def _stream_restored() -> Iterator[None]:
    """Go back to the present stream: a recording that fails leaves its own behind."""
    before = torch.cuda.current_stream()
    try:
        yield
    finally:
        torch.cuda.set_stream(before)


@cache
def _pool(device: torch.device) -> torch.cuda.CUDAGraph:
    """Return whose memory all recordings on a device share; replays follow one another.

    It is a recording that is never replayed: memory that outlives the last of its recordings, as
    results that somebody keeps do, takes no other one.
    """
    keeper = torch.cuda.CUDAGraph()
    with torch.cuda.graph(keeper):
        torch.zeros(1, device=device)
    return keeper


def _clean_up(device: torch.device, error: Exception) -> None:
    """Leave nothing of a failed recording behind."""
    _pool.cache_clear()  # its memory is still held for the recording
    if not end_capture_mode(device):
        raise RuntimeError(
            f"A CUDA graph could not be recorded ({first_line(error)}), and CUDA's random numbers "
            "can't be drawn any more in this process: start again with compile 'off'."
        ) from error

"""Interrupts: signals that ask training to stop, at a place where it can be saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from .. import distributed


class Interrupted(Exception):  # noqa: N818  (nothing went wrong)
    """A signal asked training to stop; with a run, everything up to ``step`` is saved.

    Args:
        signum: the signal's number.
        step: number of optimiser steps taken.
    """

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"{signal.Signals(signum).name} after step {step:,}")
        self.signum, self.step = signum, step


@contextmanager
def signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying; a second signal of the same kind kills."""
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


def agreed(received: list[int], logged: bool, like: Tensor) -> int:
    """Return the signal to stop at, or 0; processes agree on it, so that none waits for another."""
    if distributed.world() > 1:
        if not logged:
            return 0
        if not distributed.total([like.new_full((1,), float(len(received)))])[0]:
            return 0
        return received[0] if received else signal.SIGTERM
    return received[0] if received else 0

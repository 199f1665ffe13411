"""One thread at a time runs pairs: Pyro's handlers and parameter store belong to the process."""

import threading
from contextlib import ContextDecorator
from types import TracebackType


class Alone(ContextDecorator):
    """Refuses a thread while another one is inside; the same thread may come in again.

    With two inside, the sites of each reach the handlers of the other: duplicate names at best,
    other numbers at worst.

    Raises:
        RuntimeError: another thread is inside.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._thread = ""

    def __enter__(self) -> None:
        """Come in."""
        if not self._lock.acquire(blocking=False):
            raise RuntimeError(
                f"The thread {self._thread!r} of this process fits or evaluates a pair already, "
                "and Pyro's handlers are the process's. Run the second in a process of its own "
                "(multiprocessing), or after the first."
            )
        self._thread = threading.current_thread().name

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Go out."""
        self._lock.release()


ALONE = Alone()
"""Of this process."""

"""Memory of the process: what one step frees is kept for the next."""

import ctypes
import os

KEPT = 1 << 30
"""Free bytes at the end of the heap up to which none of them go back to the system."""

LARGEST = 32 << 20
"""Blocks up to this many bytes come from the heap; it is the most that glibc takes for it."""

_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD in malloc.h

_SAID = ("MALLOC_TRIM_", "MALLOC_MMAP_", "malloc.trim_", "malloc.mmap_")


def keep_freed() -> None:
    """Make glibc keep freed memory, unless the user has set it otherwise; leave other C libraries.

    A step allocates and frees the same tens of megabytes each time. By default glibc hands the end
    of its heap back to the system whenever that is free, and then has it faulted in page by page:
    up to a third of a step with convolutions, and of an evaluation. Whether it does depends on
    what else the process has allocated, so the time of one script varies from run to run.

    The setting is the process's. It holds up to `KEPT` bytes that are free, and none while they are
    in use. ``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_`` and ``GLIBC_TUNABLES`` take
    precedence.
    """
    if any(word in f"{key}={value}" for word in _SAID for key, value in os.environ.items()):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return
    mallopt(_MMAP, LARGEST)
    mallopt(_TRIM, KEPT)

"""Files that are either whole or as they were."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a path next to ``path`` to write to; put it in the place of ``path`` at the end.

    If the block raises or the process dies, ``path`` stays as it was.

    Raises:
        OSError: the disk is full, or the folder can't be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise

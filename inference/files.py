"""Files that are either whole or as they were, and folders that one process writes to."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a path next to ``path`` to write to; put it in the place of ``path`` at the end.

    If the block raises or the process dies, ``path`` stays as it was.

    Raises:
        OSError: the disk is full, or the folder can't be written.
    """
    writer = f"{os.getpid()}-{threading.get_ident()}"  # two may write the same file
    partial = path.with_name(f".{path.name}.{writer}.partial")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        hidden = (None, str(partial), partial)  # a full disk doesn't say where
        if isinstance(error, OSError) and error.errno and error.filename in hidden:
            error.filename, error.filename2 = str(path), None
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def regular(path: Path) -> Path:
    """Return a path that can be read without waiting for anybody.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is a folder, a pipe or a device.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there.")
    if not path.is_file():
        raise ValueError(f"{path} is no regular file.")
    return path


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder. The operating system lets go of it when the process dies.

    Raises:
        BlockingIOError: another process holds it; the message names it and its host.
        OSError: the folder can't be written.
    """
    lock, holder = FileLock(folder / ".lock"), folder / ".writer"
    try:
        lock.acquire(blocking=False)
    except (Timeout, RuntimeError):  # the latter: this process holds it already
        who = "another process"
        with suppress(OSError, ValueError):
            who = regular(holder).read_text()[:200].strip() or who
        raise BlockingIOError(
            f"{folder} is being written by {who}. Wait until it ends, or stop it."
        ) from None
    try:
        with atomic(holder) as partial:  # a link there is replaced, not followed
            partial.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        yield
    finally:
        lock.release()


def is_being_written(folder: Path) -> bool:
    """Return whether a process holds the lock of a folder; nothing is made where there is none."""
    lock = FileLock(folder / ".lock")
    try:
        if not Path(lock.lock_file).exists():
            return False
        lock.acquire(blocking=False)
    except (Timeout, RuntimeError):
        return True
    except OSError:  # as in a folder that can't be written
        return False
    lock.release()
    return False

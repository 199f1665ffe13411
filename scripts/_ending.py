"""How a command ends early: one line that says why, and an exit status."""

import re
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from inference.runs.tables import printable
from inference.training import Interrupted

NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "Storage size")
"""What torch says where there is no room for a tensor."""


@contextmanager
def one_line_errors(
    prog: str, remedy: str = "", diverged: str = "", file: Path | None = None
) -> Iterator[None]:
    """Turn an error that a user can mend (a value, a file, a signal) into a line and exit status.

    Args:
        prog: name of the command.
        remedy: what to do, said after the line.
        diverged: the same where numbers are no longer finite.
        file: code of the user's: whatever that raises is an error that a user can mend.
    """
    try:
        yield
    except Interrupted as stop:
        end(prog, f"stopped by {stop}, saved. {remedy}", 128 + stop.signum)
    except KeyboardInterrupt:
        end(prog, "stopped by SIGINT.", 128 + signal.SIGINT)
    except FloatingPointError as error:
        end(prog, f"{_with_notes(error)} {diverged or remedy}", 2)
    except BrokenPipeError:  # whoever read what is printed has gone: no error of this command
        raise
    except OSError as error:
        end(prog, f"{_with_notes(error)} {remedy}", 2)
    except MemoryError as error:
        end(prog, f"{_with_notes(error) or 'there is not enough memory.'} {remedy}", 2)
    except Exception as error:  # resuming as before ends as before: no remedy
        said = _with_notes(error)
        if (line := line_of(error, file)) is not None:
            end(prog, f"{file}:{line}: {type(error).__name__}: {said}", 2)
        if isinstance(error, RuntimeError) and any(word in said for word in NO_MEMORY):
            found = re.search(r"allocate (\d+) bytes", said)
            asked = f" for {int(found[1]):,} bytes" if found else ""
            end(prog, f"there is not enough memory{asked}: take smaller sizes.", 2)
        if isinstance(error, ValueError) or getattr(error, "__notes__", None):
            end(prog, said, 2)
        raise


def line_of(error: BaseException, file: Path | None) -> int | None:
    """Return the last line of a file that an error went through, or None."""
    if file is None:
        return None
    here = file.resolve()
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).resolve() == here:
        return error.lineno or 1
    frames = traceback.extract_tb(error.__traceback__)
    lines = [each.lineno for each in frames if Path(each.filename).resolve() == here]
    return lines[-1] if lines else None


def end(prog: str, message: str, status: int) -> NoReturn:
    """Print a line and exit."""
    line = printable(f"{prog}: {' '.join(message.split())}")
    print(line, file=sys.stderr)
    sys.exit(status)


def _with_notes(error: BaseException) -> str:
    said = str(error).partition("Trace Shapes:")[0]  # Pyro's table says no more
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        said = f"{error.filename}: {error.strerror}."
    elif isinstance(error, SyntaxError):
        said = error.msg
    return " ".join([said, *getattr(error, "__notes__", ())])

"""Files of code that a run names: which may run, and whether they are what they were."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from inference.runs import Run


def source_of(file: Path | None) -> dict[str, str] | None:
    """Return the text of a file of code and its SHA-256."""
    if file is None:
        return None
    source = file.read_text()
    return {"sha256": hashlib.sha256(source.encode()).hexdigest(), "source": source}


def refuse_changed_code(run: Run, file: Path | None, kind: str = "pair") -> None:
    """Check that a file of code is what it was when the run was made.

    Args:
        run: the run.
        file: that this command would run; None for none.
        kind: what it makes, ``pair`` or ``data``.
    """
    if kind == "pair" and file is not None and run.config.get("pair") is None:
        raise ValueError(f"{run.path} was made from parts, not from a pair file: leave out --pair.")
    then, now = _recorded_hash(run, kind), source_of(file)
    if then and now and then != now["sha256"]:
        raise ValueError(
            f"{file} is not what it was when {run.path} was made; its old text is in "
            f"environment.json there, under {RECORDED[kind]}.source: read it, save it as a file "
            f"and name that by --{kind} FILE."
        )


def remember(file: Path | None) -> None:
    """Note that the user has run a file of code: a run may name it from now on.

    Path and hash of a run are the run's own words; this list is the user's.
    """
    if file is not None:
        with suppress(OSError):  # a home that can't be written: it has to be named again
            known = _known_code()
            known.parent.mkdir(parents=True, exist_ok=True)
            now = source_of(file)
            if now and not _is_known(now["sha256"]):
                with known.open("a") as lines:
                    lines.write(f"{now['sha256']}  {file.resolve()}\n")


def _is_known(sha256: str) -> bool:
    with suppress(OSError, ValueError):
        return any(line.startswith(sha256) for line in _known_code().read_text().splitlines())
    return False


def _known_code() -> Path:
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "lowerbound" / "code.txt"


def recorded_code(run: Run, file: Any, kind: str = "pair", trusted: bool = False) -> Path | None:
    """Return the file of code that a run names itself, if it may run without being named again.

    Args:
        run: the run.
        file: what it names; None for none.
        kind: what it makes, ``pair`` or ``data``.
        trusted: whether the command line trusts the run.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it lies in the run directory, has changed, there is no hash to tell by, or the
            user has never run it.
    """
    if file is None:
        return None
    remedy = f"read it, and name it on the command line by --{kind} FILE"
    if kind == "data":
        remedy = f"read it, and trust the run by --trust {run.path}"
    if not isinstance(file, str):
        raise ValueError(f"{run.path / 'config.yaml'} names no file as {kind}, but {file!r}.")
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(
            f"{file} is not there: name the {kind} of {run.path} by --{kind} FILE."
        )
    if path.resolve().is_relative_to(run.path.resolve()):
        raise ValueError(f"{file} came along inside {run.path}, which is data, no code: {remedy}.")
    for above in path.resolve().parents:
        if (above / "environment.json").exists() and (above / "config.yaml").exists():
            raise ValueError(
                f"{file} lies inside {above}, a run, which is data, no code: {remedy}."
            )
    if _recorded_hash(run, kind) is None:
        raise ValueError(f"{run.path} doesn't record what {file} was when it was made: {remedy}.")
    refuse_changed_code(run, path, kind)
    if not trusted and not _is_known(str(_recorded_hash(run, kind))):
        raise ValueError(f"{file} was never run by you, as far as is known here: {remedy}.")
    return path


RECORDED = {"pair": "pair", "data": "data_file"}
"""Key of environment.json that holds the text of a file, by what the file makes."""


def _recorded_hash(run: Run, kind: str) -> str | None:
    try:
        return str(run.environment[RECORDED[kind]]["sha256"])
    except (OSError, ValueError, LookupError, TypeError):
        return None

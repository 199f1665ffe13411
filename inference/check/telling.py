"""Errors that a pair raises, in words: the line of the pair, the site, the remedy."""

import re
from collections.abc import Iterator
from pathlib import Path
from traceback import walk_tb
from typing import Any

from torch import Tensor

from ..references.attributes import is_foreign_name

_OURS = __name__.rsplit(".", 2)[0] + "."
_PLATE = re.compile(r"Shape mismatch inside plate\('([^']*)'\)")
_DTYPES = re.compile(r"same dtype|scalar types?\b|dtype|FloatTensor|Double|LongTensor")


def raised(what: str, error: Exception, batch: tuple[Tensor, ...]) -> str:
    """Return what an error of a pair says, where it came from and, if it is known, what to do.

    Args:
        what: who raised it, the subject of the sentence.
        error: as it was caught, with its traceback.
        batch: the arguments of the programs.
    """
    place, site = _place(error), _site(error)
    plate = _PLATE.search(str(error))
    if plate and site is not None:
        return _mismatch(what, plate[1], site, len(batch[0]), place)
    text = " ".join(str(error).partition("Trace Shapes:")[0].split())  # Pyro's table says no more
    text = text if len(text) < 300 else f"{text[:300]} ..."
    at = ", ".join(filter(None, (place, f"at site {site['name']!r}" if site else "")))
    said = f"{what} raised {type(error).__name__}: {text}{f' ({at})' if at else ''}"
    if isinstance(error, TypeError) and "positional argument" in text:
        had = "x alone" if len(batch) == 1 else f"x and {len(batch) - 1} more"
        return (
            f"{said}. A batch is x and what is given with it, and a program is called with all of "
            f"that: these data give {had}. Take data that give more, or give it a default."
        )
    if _DTYPES.search(text):
        held = str(batch[0].dtype).removeprefix("torch.")
        return (
            f"{said}. x is {held} here: a view makes floats of torch's default type. Give the data "
            "the view AsIs(keep_dtype=True), --view AsIs --view.keep_dtype true, for their own "
            "type, or convert x in the pair, by x.long() or x.double()."
        )
    return said


def _mismatch(what: str, plate: str, site: Any, size: int, place: str) -> str:
    """Return what to do where a site does not fit its plate."""
    shape = tuple(site["fn"].batch_shape)
    frames = [frame for frame in site["cond_indep_stack"] if frame.name == plate]
    members = frames[0].size if frames else size
    where = f" ({place})" if place else ""
    said = (
        f"{what}: site {site['name']!r} has batch shape {shape}, and plate {plate!r} has {members} "
        f"members{where}. "
    )
    if members != size and shape and shape[-1] == size:
        return (
            f"{said}Write pyro.plate({plate!r}, len(x)), or give the plate subsample_size=len(x)."
        )
    events = len(shape) - 1 - shape.index(members) if members in shape else len(shape)
    return (
        f"{said}Write .to_event({max(events, 1)}) after the distribution: all that belongs to one "
        "datum is event dimensions."
    )


def _frames(error: Exception) -> Iterator[Any]:
    yield from walk_tb(error.__traceback__)


def _place(error: Exception) -> str:
    """Return file and line of the innermost frame that is the pair's own."""
    own = ""
    for frame, line in _frames(error):
        own = own_line(frame, line) or own
    return own


def own_line(frame: Any, line: int) -> str:
    """Return file and line of a frame that is the pair's own; of any other, nothing."""
    home = str(frame.f_globals.get("__name__", ""))
    if is_foreign_name(home) or f"{home}.".startswith(_OURS):
        return ""
    return f"{Path(frame.f_code.co_filename).name}, line {line}"


def _site(error: Exception) -> dict[str, Any] | None:
    """Return Pyro's message of the sample site at which an error came, or None."""
    found = None
    for frame, _ in _frames(error):
        message = frame.f_locals.get("msg")
        if isinstance(message, dict) and message.get("type") == "sample":
            found = message
    return found

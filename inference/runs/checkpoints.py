"""Checkpoints on disk: tensors and plain data, the newest and the one before."""

import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from ..files import atomic, regular

FORMAT = "lowerbound checkpoint 1"

NAMES = ("next.pt", "latest.pt", "previous.pt")
"""Checkpoints of a folder, the newest first."""

SMALL = 2**26
"""Bytes that a checkpoint of any size may hold."""


def save(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint of tensors and plain data; keep the one before.

    Raises:
        OSError: it can't be written; the older ones are safe.
        TypeError: it holds something else.
    """
    latest = folder / "latest.pt"
    plain = _plain({"format": FORMAT, **state})
    with atomic(folder / "next.pt") as partial, partial.open("wb") as file:
        try:
            torch.save(plain, file)
        except RuntimeError as error:  # torch's writer hides what the system said
            said = str(error.__context__ or error).splitlines()[0]
            raise OSError(f"{latest} can't be written, the one before stays: {said}") from error
    if latest.exists():
        latest.replace(folder / "previous.pt")
    (folder / "next.pt").replace(latest)


def load(folder: Path, remedy: str) -> dict[str, Any] | None:
    """Return the newest checkpoint that is whole, or None where there is none.

    A warning names a damaged or foreign one, and this returns the one before it.

    Args:
        folder: where they are.
        remedy: what to do where none is left.

    Raises:
        ValueError: there are checkpoints and none can be read.
    """
    damaged = []
    for name in NAMES:
        path = folder / name
        if not path.exists():
            continue
        try:
            state = _read(path)
        except UnpicklingError:
            damaged.append(f"{path} can't be read (it is damaged, or holds more than data)")
        except Exception as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            damaged.append(f"{path} can't be read ({reason})")
        else:
            if damaged:
                warnings.warn(f"{'; '.join(damaged)}. Using {path} instead.", stacklevel=3)
            return state
    if damaged:
        raise ValueError(f"{'; '.join(damaged)}. No checkpoint is left; {remedy}")
    return None


def size(folder: Path) -> int:
    """Return the bytes on disk of the largest checkpoint of a folder."""
    found = [(folder / name).stat() for name in NAMES if (folder / name).exists()]
    return max((min(each.st_size, 512 * each.st_blocks) for each in found), default=0)


def _read(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(regular(path)) as archive:
        unpacked = sum(each.file_size for each in archive.infolist())
        if unpacked > max(SMALL, 10 * path.stat().st_size):  # torch packs nothing
            raise ValueError("it says that it holds more than it does")
        if (member := archive.testzip()) is not None:  # torch.load leaves the sums unread
            raise ValueError(f"{member} in it has changed since it was written")
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError("it is no checkpoint of lowerbound's")
    for value in _tensors(state):
        held = value.layout is torch.strided and not value.is_quantized and not value.is_meta
        if not held or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError("a tensor in it says that it holds more than it does")
    if "svi" in state:
        for place in ("svi", "svi.weights", "svi.optimizer", "progress", "rng"):
            found: Any = state
            for key in place.split("."):
                found = found.get(key)
                if not isinstance(found, dict):
                    raise ValueError(f"it holds no {place}")
        progress, kept = state["progress"], ("numpy", "torch")
        whole = all(isinstance(progress.get(name), int) for name in ("step", "rows"))
        dicts = (progress.get("best_weights"), state.get("arguments", {}))
        if not whole or not all(isinstance(each, dict) for each in dicts):
            raise ValueError("its progress is none that a fit has")
        if not all(name in state["rng"] for name in kept):
            raise ValueError("it lacks random states")
        for weights in (state["svi"]["weights"], progress["best_weights"]):
            if not all(isinstance(value, Tensor) for value in weights.values()):
                raise ValueError("its weights are no tensors")
        for weights in (state["svi"]["weights"], progress["best_weights"]):
            if (name := not_finite(weights)) is not None:
                raise ValueError(f"{name} in it has a NaN")
    return state


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _tensors(each)


def not_finite(tensors: Mapping[str, Tensor], infinite: bool = False) -> str | None:
    """Return the name of the first tensor with a NaN in it, or None.

    Args:
        tensors: by name.
        infinite: whether an infinite value counts too; a mask may hold some.
    """
    for name, value in tensors.items():
        bad = value.isnan() | value.isinf() if infinite else value.isnan()
        if bad.any():
            return name
    return None


def refuse_infinite(parameters: Mapping[str, Tensor]) -> None:
    """Check parameters that were loaded: none that is saved is infinite.

    Raises:
        ValueError: one is not finite.
    """
    if (name := not_finite(parameters, infinite=True)) is not None:
        raise ValueError(f"The parameter {name} in its checkpoint is not finite.")


def _plain(value: Any) -> Any:
    """Return the same value without subclasses of plain types, which loading refuses.

    Raises:
        TypeError: something in it is neither a tensor nor plain data.
    """
    if isinstance(value, dict):
        return {_plain(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return (list if isinstance(value, list) else tuple)(map(_plain, value))
    if value is None or isinstance(value, Tensor | bool):
        return value
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(f"Expected tensors and plain data in a checkpoint; got {type(value).__name__}.")

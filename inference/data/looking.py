"""One look at data when they are loaded: what they are, and the first value that can't be right."""

import hashlib
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

BLOCK = 4096
"""Data that are looked at, or hashed, at a time."""


def as_values(values: Any, what: str) -> Tensor:
    """Return values as a tensor (N, ...).

    Args:
        values: a tensor, or an array of numbers.
        what: the name to give them in an error.

    Raises:
        TypeError: they are neither.
        ValueError: they are one number, not N of something.
    """
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "biuf":
            raise TypeError(f"Expected numbers as {what}; got an array of {values.dtype}.")
        if not values.dtype.isnative:  # of another machine's byte order
            values = values.astype(values.dtype.newbyteorder("="))
        if values.dtype.kind == "u" and (size := values.dtype.itemsize) > 1:
            if size == 8 and values.size and values.max() > np.iinfo(np.int64).max:
                raise ValueError(f"{what} holds {values.max()}, beyond 63 bits: take floats.")
            values = values.astype(np.int32 if size == 2 else np.int64)  # torch lacks unsigned ones
        values = torch.from_numpy(np.asarray(values, order="C"))
    if not isinstance(values, Tensor):
        raise TypeError(
            f"Expected {what} as a tensor or an array (N, ...); got {type(values).__name__}. "
            "torch.as_tensor makes one of a list or a data frame's values."
        )
    if values.is_sparse or values.layout is not torch.strided:
        raise TypeError(
            f"Expected {what} as a dense tensor; got {values.layout}. Take .to_dense()."
        )
    if values.dim() == 0:
        raise ValueError(f"Expected {what} (N, ...), a row for each datum; got one number.")
    return values


def first_wrong(values: Tensor, wrong: Tensor, name: str, start: int = 0) -> str | None:
    """Return the first place where values are wrong, as ``train[1000, 0, 3] is nan``, or None.

    Args:
        values: (N, ...).
        wrong: booleans of the same shape.
        name: of the values.
        start: index of the first of them.
    """
    if not wrong.any():
        return None
    place = wrong.flatten().to(torch.uint8).argmax()  # the first of the largest
    index = [int(i) for i in torch.unravel_index(place, wrong.shape)]
    value = values[tuple(index)].item()
    return f"{name}{[index[0] + start, *index[1:]]} is {value:g}"


def not_allowed(view: Any, read: Callable[[slice], Tensor], count: int) -> str | None:
    """Return the first value that a view is not for, as ``[3, 0] is nan, and ...``, or None.

    Args:
        view: of the values.
        read: returns some of them.
        count: number N of data.
    """
    for start in range(0, count, BLOCK):
        some = read(slice(start, start + BLOCK))
        if found := first_wrong(some, ~view.allows(some), "", start):
            return f"{found}, and {view} takes {view.takes}"
    return None


def whole(stored: Tensor, largest: float = math.inf) -> Tensor:
    """Return where values are whole numbers from 0 to the largest."""
    inside = (stored >= 0) & (stored <= largest)
    if not stored.is_floating_point():
        return inside
    return inside & (stored == stored.round()) & stored.isfinite()


def digest(splits: Iterable[Any]) -> str:
    """Return the SHA-256 of splits: values, masks, what is given, and views; 16 hex digits."""
    found = hashlib.sha256()
    for split in splits:
        mask = () if split.mask is None else (split.mask,)
        for values in (split.stored, *mask, *split.given):
            found.update(f"{split.view!r} {values.dtype} {tuple(values.shape)}".encode())
            for start in range(0, len(values), BLOCK):
                some = values[start : start + BLOCK].cpu().contiguous()
                found.update(some.numpy().tobytes())
    return found.hexdigest()[:16]

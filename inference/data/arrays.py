"""A data set made of arrays: split by a seed, with the view that dtype and range suggest."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .looking import BLOCK, as_values, first_wrong, whole
from .records import Dataset, Split
from .rows import MappedRows, Rows
from .standardised import Standardised
from .views import AnyCounts, Binary, View
from .views_levels import Grey, Levels

PARTS = ("train", "valid", "test")

NUMBERS = {
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16,
    torch.float32, torch.float64,
}  # fmt: skip
"""Types of numbers that are taken."""

Values = Tensor | Rows


def from_arrays(
    x: Any,
    y: Any,
    given: Mapping[str, Any],
    view: View | None,
    split: Sequence[float],
    seed: int,
    name: str,
) -> Dataset:
    """Return a data set of arrays; see `Dataset.from_arrays`."""
    named = {"x": x, **({} if y is None else {"y": y}), **given}
    parts, protocol = _parts(named, _shares(split), seed, name)
    masks = {part: _mask(values) for part, values in parts.items()}
    if any(mask is not None for mask in masks.values()):
        for part, values in parts.items():
            mask = masks[part]
            values["mask"] = torch.ones(values["x"].shape).bool() if mask is None else mask
    train = _seen(parts["train"]["x"], parts["train"].get("mask"))
    made = (view or default_view(train)).fitted(train)  # type: ignore[arg-type]
    splits = {
        part: Split(
            values.pop("x"),  # type: ignore[arg-type]
            made,
            mask=values.pop("mask", None),  # type: ignore[arg-type]
            labels=values.get("y"),  # type: ignore[arg-type]
            given=tuple(values.values()),  # type: ignore[arg-type]
        )
        for part, values in parts.items()
    }
    return Dataset(name, **splits, protocol=protocol)


def default_view(x: Values) -> View:
    """Return the view that the type and the range of values suggest.

    =====================================  =================================
    0 and 1                                `Binary`
    bytes                                  `Levels`, 0, ..., 255
    whole numbers from 0 on                `AnyCounts`
    fractions in [0, 1]                    `Grey`
    other numbers                          `Standardised`
    =====================================  =================================

    Args:
        x: training values (N, *event_shape).
    """
    low, high, are_whole = math.inf, -math.inf, True
    for start in range(0, len(x), BLOCK):
        some = x[start : start + BLOCK]
        known = some[some.isfinite()]
        if known.numel():
            low, high = min(low, known.min().item()), max(high, known.max().item())
            are_whole = are_whole and bool(whole(known).all())
    if are_whole and high <= 1:
        return Binary()
    if x.dtype == torch.uint8:
        return Levels(255)
    if are_whole:
        return AnyCounts()
    return Grey(1) if low >= 0 and high <= 1 else Standardised()


def _mask(values: Mapping[str, Values]) -> Tensor | None:
    """Return where x is observed, as its mask and its NaN say; None where all of it is."""
    x, mask = values["x"], values.get("mask")
    if isinstance(x, Rows):
        kind = "An array that stays on disk has" if x.on_disk else "Sparse rows have"
        if mask is not None:
            raise ValueError(f"{kind} no missing entries: leave the mask out.")
        for start in range(0, len(x) if x.on_disk and x.dtype.is_floating_point else 0, BLOCK):
            some = x[start : start + BLOCK]
            if found := first_wrong(some, some.isnan(), "x", start):
                raise ValueError(
                    f"{found}: {kind} no missing entries. Fill them in, or read the file into "
                    "memory (--data.on_disk false)."
                )
        return None
    known = ~x.isnan()
    if isinstance(mask, Tensor) and not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError("Expected a mask of 0 and 1, True where x is observed.")
    if not isinstance(mask, Tensor):
        return None if known.all() else known
    if mask.shape != x.shape:
        raise ValueError(
            f"Expected a mask of the shape of x, {tuple(x.shape)}; got {tuple(mask.shape)}."
        )
    return known & mask.bool()


def _seen(train: Values, mask: Values | None) -> Values:
    """Return training values for a view to learn from: NaN where missing, 0 among bytes."""
    if isinstance(train, Rows) or not isinstance(mask, Tensor):
        return train
    if train.dtype == torch.uint8:
        return train.masked_fill(~mask, 0)
    return train.double().masked_fill(~mask, math.nan)


def _parts(
    named: Mapping[str, Any], shares: Sequence[float], seed: int, name: str
) -> tuple[dict[str, dict[str, Values]], str]:
    """Return the arrays of each split by name, and how they came about."""
    if not isinstance(named["x"], Mapping):
        arrays = {key: _values(value, key) for key, value in named.items()}
        size = len(arrays["x"])
        _same_length(arrays, size, name)
        order = _order(size, seed)
        ends = _sizes(size, shares, name)
        places = dict(zip(PARTS, order.split(ends), strict=True))
        if isinstance(arrays["x"], Rows) and arrays["x"].on_disk:  # read from front to back
            places = {part: at.sort().values for part, at in places.items()}
        said = " / ".join(f"{n:,}" for n in ends)
        return (
            {part: {k: _take(v, at) for k, v in arrays.items()} for part, at in places.items()},
            f"{said} of the order given, permuted with NumPy's RandomState({seed})",
        )
    found: dict[str, dict[str, Values]] = {}
    for part in PARTS:
        rows = {k: v[part] for k, v in named.items() if isinstance(v, Mapping) and part in v}
        if lacking := [key for key in named if key not in rows] if "x" in rows else []:
            raise ValueError(f"{name}: there is x of {part}, and no {lacking[0]} of it.")
        if "x" in rows:
            found[part] = {key: _values(value, f"{key} of {part}") for key, value in rows.items()}
            _same_length(found[part], len(found[part]["x"]), f"{name}, {part}")
    if not {"train", "test"} <= found.keys():
        raise ValueError(
            f"{name}: of train, valid and test there is {', '.join(found) or 'none'}. Give all x, "
            "to be split; or train and test, and valid if there is one."
        )
    if "valid" in found:
        return found, "as given"
    train, size = found["train"], len(found["train"]["x"])
    count = max(1, round(size * shares[1] / (shares[0] + shares[1])))
    if count >= size:
        raise ValueError(f"{name}: {size} training data are too few to split some off for valid.")
    order = _order(size, seed)
    kept = {key: _take(value, order[count:]) for key, value in train.items()}
    held = {key: _take(value, order[:count]) for key, value in train.items()}
    said = f"test as given; {count:,} of train, by NumPy's RandomState({seed}), are valid"
    return {"train": kept, "valid": held, "test": found["test"]}, said


def _values(value: Any, name: str) -> Values:
    if isinstance(value, Rows):
        return value
    if isinstance(value, np.memmap):
        return MappedRows(value)
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    found = as_values(np.asarray(value) if isinstance(value, list) else value, name)
    if not len(found):
        raise ValueError(f"There are no data: {name} has no rows.")
    if found.dtype not in NUMBERS or found.is_quantized or found.device.type == "meta":
        raise TypeError(f"Expected {name} of 8 to 64 bits, real and on the CPU; got {found.dtype}.")
    if not found.numel():
        raise ValueError(f"There are no data: {name} has shape {tuple(found.shape)}.")
    found = found.detach()
    return found.to(torch.uint8) if found.dtype == torch.bool and name.startswith("x") else found


def _same_length(arrays: Mapping[str, Values], size: int, name: str) -> None:
    for key, value in arrays.items():
        if len(value) != size:
            raise ValueError(f"{name}: x has {size:,} rows, and {key} has {len(value):,}.")


def _take(values: Values, places: Tensor) -> Values:
    return values.take(places) if isinstance(values, Rows) else values[places]


def _order(size: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).permutation(size))


def _shares(split: Sequence[float]) -> Sequence[float]:
    if len(split) != 3 or min(split) <= 0 or not math.isclose(sum(split), 1, abs_tol=1e-6):
        raise ValueError(
            f"Expected three shares of train, valid and test that add up to 1; got {tuple(split)}."
        )
    return split


def _sizes(size: int, shares: Sequence[float], name: str) -> list[int]:
    valid, test = (max(1, round(size * share)) for share in shares[1:])
    if size - valid - test < 1:
        raise ValueError(f"{name}: {size} data are too few for train, valid and test.")
    return [size - valid - test, valid, test]

"""Comparing the results of a captured function with those of the function itself."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def first_difference(
    expected: Mapping[str, Tensor],
    found: Sequence[Tensor],
    tolerance: float,
    floor: float = 0.0,
    order: float = 2.0,
) -> str | None:
    """Name the first result that differs by more than rounding, and say how.

    Two NaN, or twice the same infinity, are equal: a function that goes wrong both eagerly and
    captured is captured correctly.

    Args:
        expected: what the function returned, by name.
        found: what its graph returned, in the same order.
        tolerance: largest norm of a difference, as a part of the norm of what is expected.
        floor: what that norm counts as where it is smaller.
        order: of the norm; infinity is the largest element.

    Returns:
        A name and the difference, or None if nothing differs.
    """
    for (name, a), b in zip(expected.items(), found, strict=True):
        a, b = a.detach().double(), b.detach().double()
        equal = (a == b) | (a.isnan() & b.isnan())
        finite = a.masked_fill(~a.isfinite(), 0.0)
        size = max(_norm(finite, order), floor)
        error = _norm((a - b).masked_fill(equal, 0.0), order)
        if error <= tolerance * size:
            continue
        if error < float("inf"):
            return f"{name} (by {error:.2g}, of {size:.2g})"
        who = "the captured one" if a.isfinite().all() else "the eager one"
        return f"{name} ({who} has NaN or infinities where the other has none)"
    return None


def _norm(values: Tensor, order: float) -> float:
    return float(torch.linalg.vector_norm(values, order)) if values.numel() else 0.0

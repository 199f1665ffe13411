"""New data for a trained pair: of the kind that its data set has, or refused in words."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .files import numeric
from .looking import as_values
from .records import Dataset, Split
from .rows import Rows
from .sources import Source, arrays_of


class NewRows(NamedTuple):
    """New data as they were given.

    Args:
        values: x (N, *event_shape), as the data set stores it, or `Rows`.
        given: what comes with it, (N, ...) each.
        mask: True where x is observed, if that was said.
    """

    values: Any
    given: tuple[Tensor, ...] = ()
    mask: Tensor | None = None


def new_rows(x: Any, source: Source) -> NewRows:
    """Return new data, of an array, a tensor, a frame, a file, or a tuple (x, *given).

    Args:
        x: the data, or the path of a file or folder.
        source: how the run read its own: the columns, label and size of images that it took.

    Raises:
        TypeError: it is nothing of these.
        ValueError: a file can't be read, or holds several splits.
    """
    if isinstance(x, tuple):
        values, *given = x
        return NewRows(numbers(values), tuple(map(numbers, given)))
    if isinstance(x, str | Path):
        found = arrays_of(replace(source, source=str(x)))
        if isinstance(found["x"], Mapping):
            raise ValueError(f"{x} holds x in splits: expected one array x of new data.")
    elif hasattr(x, "select_dtypes"):
        label = source.label if source.label in x.columns else None
        found = numeric(x, source.columns, label)
    else:
        return NewRows(numbers(x))
    values, mask = numbers(found.pop("x")), found.pop("mask", None)
    given = tuple(map(numbers, found.values()))
    return NewRows(values, given, None if mask is None else torch.as_tensor(mask).bool())


def fresh(x: Any, data: Dataset, source: Source) -> Split:
    """Return new data as a split with the view of a data set.

    Args:
        x: as `new_rows` takes it; or a `Split`, which has its own view.
        data: what the pair was trained on.
        source: how that was read.

    Raises:
        TypeError: it is nothing of these.
        ValueError: a datum has another shape, a value is not one that the view takes, or less comes
            with x than in the data set.
    """
    train = data.train
    if not isinstance(x, Split):
        rows = new_rows(x, source if train.mask is None else replace(source, on_disk=False))
        if not len(rows.values):
            raise ValueError("There are no data: x has no rows.")
        for each in rows.given:
            if len(each) != len(rows.values):
                raise ValueError(
                    f"x has {len(rows.values):,} rows, and what comes with it {len(each):,}."
                )
        if train.mask is None and rows.mask is not None and not rows.mask.all():
            raise ValueError(
                f"The mask leaves out entries of x, and {data.name} has none missing, so that the "
                "pair takes whole data: fill them in first (impute)."
            )
        given = rows.given if isinstance(x, tuple) else rows.given[: len(train.given)]
        mask = None
        if train.mask is not None:
            mask = ~rows.values.isnan() if rows.mask is None else rows.mask
        x = Split(rows.values, train.view, given=given, mask=mask)
    if x.event_shape != train.event_shape:
        raise ValueError(
            f"A datum of x has the shape {x.event_shape}, and those of {data.name} have "
            f"{train.event_shape}. Give x as (N, {', '.join(map(str, train.event_shape))})."
        )
    if len(x.given) != len(train.given):
        raise ValueError(
            f"In a batch of {data.name} {len(train.given)} more tensors come with x; got "
            f"{len(x.given)}. Give (x, ...) with a row of each for each datum."
        )
    if found := x.wrong("x"):
        raise ValueError(f"{found}. Give x as {data.name} stores it.")
    return x


def numbers(values: Any) -> Any:
    """Return an array, a tensor or a column of numbers as a tensor (N, ...)."""
    if isinstance(values, Rows):
        return values
    return as_values(values.to_numpy() if hasattr(values, "to_numpy") else values, "x")

"""New data for a trained pair: of the kind that its data set has, or refused in words."""

from typing import Any

from torch import Tensor

from .looking import as_values
from .records import Dataset, Split


def fresh(x: Any, data: Dataset) -> Split:
    """Return new data as a split with the view of a data set.

    Args:
        x: x (N, *event_shape) as the data set stores it: a tensor, an array or a frame; a tuple
            (x, *given) where a batch has more; or a `Split`, which has its own view.
        data: what the pair was trained on.

    Raises:
        TypeError: it is nothing of these.
        ValueError: a datum has another shape, a value is not one that the view takes, or other
            things come with x than in the data set.
    """
    train = data.train
    if not isinstance(x, Split):
        values, *given = x if isinstance(x, tuple) else (x,)
        x = Split(numbers(values), train.view, given=tuple(map(numbers, given)))
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


def numbers(values: Any) -> Tensor:
    """Return a tensor, an array or a frame of numbers as a tensor (N, ...)."""
    return as_values(values.to_numpy() if hasattr(values, "to_numpy") else values, "x")

"""Data are looked at once: what can't be right is named by split, index and value."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from inference.data import Binary, Dataset, Split
from inference.data.views import (
    AnyCounts,
    AsIs,
    Binarised,
    Counts,
    Dequantised,
    Grey,
    Levels,
    View,
    Words,
)  # fmt: skip

VIEWS: list[tuple[View, float, list[float]]] = [
    (AsIs(), 2.5, [float("nan"), float("inf")]),
    (Binary(), 1.0, [-1.0, 0.5, 2.0, float("nan")]),
    (Binarised(255), 0.5, [-1.0, 256.0, float("nan")]),
    (Counts(5), 5.0, [-1.0, 0.5, 6.0, float("nan")]),
    (Grey(255), 0.5, [-0.1, 256.0, float("inf")]),
    (Levels(3), 3.0, [4.0, 0.5, float("nan")]),
    (Dequantised(255), 255.0, [256.0, -1.0, 1.5]),
    (AnyCounts(), 1e6, [-1.0, 0.5, float("inf")]),
    (Words(), 7.0, [-1.0, 0.5, float("nan")]),
]


def made(parts: dict[str, Tensor], view: View) -> Dataset:
    train, valid, test = (Split(each, view) for each in parts.values())
    return Dataset("mine", train, valid, test)


def values(size: int = 1200) -> Tensor:
    return torch.zeros(size, 1, 4, 5)


@pytest.mark.parametrize(("view", "good", "bad"), VIEWS, ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_first_wrong_value_is_named(view: View, good: float, bad: list[float], split: str) -> None:
    parts = {name: values() for name in ("train", "valid", "test")}
    parts[split][7] = good
    made(parts, view)
    for value in bad:
        parts[split][1000, 0, 3, 4] = value
        parts[split][1001] = value
        with pytest.raises(ValueError, match="^mine: ") as error:
            made(parts, view)
        assert f"{split}[1000, 0, 3, 4] is {value:g}, and {view} takes " in str(error.value)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.float64])
def test_types_of_values(dtype: torch.dtype) -> None:
    split = Split(torch.ones(9, 3, dtype=dtype), Binary())
    assert Dataset("mine", split, split, split).train.x(slice(2)).tolist() == [[1.0] * 3] * 2


def test_arrays_are_taken() -> None:
    array: Any = np.ones((9, 3), np.float32)[::-1]
    numbers: Any = np.arange(9)
    split = Split(array, labels=numbers, given=(numbers,))
    data = Dataset("mine", split, split, split)
    assert data.train.batch(slice(2))[0].shape == (2, 3)
    assert data.to("cpu").content_hash == data.content_hash


WRONG: list[tuple[str, type[Exception], Any]] = [
    ("got list", TypeError, lambda: Split([[1.0]])),  # type: ignore[arg-type]
    ("got an array of <U1", TypeError, lambda: Split(np.array(["a"]))),  # type: ignore[arg-type]
    ("got an array of object", TypeError, lambda: Split(np.array([None]))),  # type: ignore[arg-type]
    ("got an array of datetime64", TypeError, lambda: Split(np.zeros(2, "M8[s]"))),  # type: ignore[arg-type]
    ("got one number", ValueError, lambda: Split(torch.tensor(1.0))),
    ("to_dense", TypeError, lambda: Split(torch.eye(3).to_sparse())),
    ("3 data and 2 rows of labels", ValueError, lambda: Split(values(3), labels=torch.ones(2))),
    ("3 data and 4 rows of given", ValueError, lambda: Split(values(3), given=(torch.ones(4),))),
    ("given as a tuple; got list", TypeError, lambda: Split(values(3), given=[values(3)])),  # type: ignore[arg-type]
    (
        "valid as a Split",
        TypeError,
        lambda: Dataset("d", Split(values(3)), values(3), Split(values(3))),  # type: ignore[arg-type]
    ),
    (
        r"shape of a datum is \(1, 4, 5\) in train and \(2,\) in test",
        ValueError,
        lambda: Dataset("d", Split(values(3)), Split(values(3)), Split(torch.ones(3, 2))),
    ),
    (
        "type of a datum is torch.float32 in train and torch.float64 in valid",
        ValueError,
        lambda: Dataset("d", Split(values(3)), Split(values(3).double()), Split(values(3))),
    ),
    (
        r"test.given\[0\]\[2, 1\] is nan",
        ValueError,
        lambda: Dataset(
            "d",
            Split(values(3)),
            Split(values(3)),
            Split(values(3), given=(torch.tensor([[1, 1], [1, 1], [1, float("nan")]]),)),
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("words", "kind", "make"), WRONG, ids=[w for w, *_ in WRONG])
def test_what_is_no_data_is_refused(words: str, kind: type[Exception], make: Any) -> None:
    with pytest.raises(kind, match=words):
        make()

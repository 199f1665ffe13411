"""Data are looked at once: what can't be right is named by split, index and value."""

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from inference.data import (
    AnyCounts,
    AsIs,
    Binarised,
    Binary,
    Counts,
    Dataset,
    Dequantised,
    Grey,
    Levels,
    Split,
    View,
    Words,
)
from inference.data.supported import outside

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


SPLITS = ("train", "valid", "test")


def made(parts: dict[str, Tensor], view: View) -> Dataset:
    train, valid, test = (Split(each, view) for each in parts.values())
    return Dataset("mine", train, valid, test)


def values(size: int = 1200) -> Tensor:
    return torch.zeros(size, 1, 4, 5)


@pytest.mark.parametrize(("view", "good", "bad"), VIEWS, ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("split", SPLITS)
def test_first_wrong_value_is_named(view: View, good: float, bad: list[float], split: str) -> None:
    parts = {name: values() for name in SPLITS}
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


LIKELIHOODS: list[tuple[str, list[float]]] = [
    ("Bernoulli", [-1.0, 0.5, 2.0]),
    ("Poisson", [-1.0, 0.5]),
    ("Laplace", []),
    ("Beta", [-0.5, 1.5]),
    ("ContinuousBernoulli", [-0.5, 1.5]),
]


@pytest.mark.parametrize(("family", "bad"), LIKELIHOODS, ids=lambda each: str(each))
def test_data_beyond_the_first_batch_lie_in_the_support(family: str, bad: list[float]) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            p = z.sigmoid()[:, None, None, None].expand(x.shape)
            made = {
                "Bernoulli": lambda: dist.Bernoulli(p),
                "Poisson": lambda: dist.Poisson(p),
                "Laplace": lambda: dist.Laplace(p, 1.0),
                "Beta": lambda: dist.Beta(1 + p, 2.0),
                "ContinuousBernoulli": lambda: dist.ContinuousBernoulli(p),
            }[family]()
            pyro.sample("x", made.to_event(3), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.flatten(1).mean(1), 1.0))

    good = values(5000) + (0.5 if family == "Beta" else 0.0)
    state = torch.get_rng_state()
    assert outside(model, guide, Dataset("d", Split(good), Split(good), Split(good))) is None
    if family == "Bernoulli":  # a view that draws leaves the random states alone too
        grey = Split(255 * values(), Binarised(255))
        assert outside(model, guide, Dataset("d", grey, grey, grey)) is None
    for value in bad:
        for part in ("train", "valid", "test"):
            wrong = good.clone()
            wrong[4700, 0, 3, 4] = value
            splits = {name: Split(wrong if name == part else good) for name in SPLITS}
            data = Dataset("d", splits["train"], splits["valid"], splits["test"])
            said = outside(model, guide, data)
            assert said is not None
            assert f"'x': {part}[4700, 0, 3, 4] is {value:g}, outside the support of" in said
            assert family in said
    assert torch.equal(torch.get_rng_state(), state)

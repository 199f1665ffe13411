"""Data sets: splits, views, hashes, where files are looked for."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from inference.data import (
    DATASETS,
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
    Words,
    data_root,
    load,
)
from inference.data.listing import LISTED
from inference.programs import as_tuple

from .conftest import needs

FILES = {
    "digits": (),
    "digits-counts": (),
    "digits-gray": (),
    "digits-labelled": (),
    "digits-levels": (),
    "digits-semi": (),
    "mnist": ("MNIST/raw/train-images-idx3-ubyte",),
    "mnist-gray": ("MNIST/raw/train-images-idx3-ubyte",),
    "mnist-labelled": ("MNIST/raw/train-images-idx3-ubyte",),
    "mnist-levels": ("MNIST/raw/train-images-idx3-ubyte",),
    "mnist-semi": ("MNIST/raw/train-images-idx3-ubyte",),
    "mnist-fixed-test": ("MNIST/raw/train-images-idx3-ubyte",),
    "mnist-static": ("mnist_static_larochelle/mnist_static_larochelle.npz",),
    "fashion-mnist": ("FashionMNIST/raw/train-images-idx3-ubyte",),
    "fashion-levels": ("FashionMNIST/raw/train-images-idx3-ubyte",),
    "fashion-dequantised": ("FashionMNIST/raw/train-images-idx3-ubyte",),
    "omniglot": ("omniglot_28x28/omniglot_28x28.npz",),
    "frey-faces": ("frey_faces/frey_faces.npz",),
    "frey-levels": ("frey_faces/frey_faces.npz",),
    "frey-dequantised": ("frey_faces/frey_faces.npz",),
    "newsgroups": ("20newsgroups_etm/20newsgroups_etm.npz",),
    "single-cell": ("single_cell/mouse_bladder_2100.npz",),
}
SIZES = {
    "digits": (1397, 200, 200, (1, 8, 8)),
    "digits-counts": (1397, 200, 200, (1, 8, 8)),
    "digits-gray": (1397, 200, 200, (1, 8, 8)),
    "digits-labelled": (1397, 200, 200, (1, 8, 8)),
    "digits-levels": (1397, 200, 200, (1, 8, 8)),
    "digits-semi": (1397, 200, 200, (1, 8, 8)),
    "mnist": (50_000, 10_000, 10_000, (1, 28, 28)),
    "mnist-gray": (50_000, 10_000, 10_000, (1, 28, 28)),
    "mnist-labelled": (50_000, 10_000, 10_000, (1, 28, 28)),
    "mnist-levels": (50_000, 10_000, 10_000, (1, 28, 28)),
    "mnist-semi": (50_000, 10_000, 10_000, (1, 28, 28)),
    "mnist-fixed-test": (50_000, 10_000, 10_000, (1, 28, 28)),
    "mnist-static": (50_000, 10_000, 10_000, (1, 28, 28)),
    "fashion-mnist": (50_000, 10_000, 10_000, (1, 28, 28)),
    "fashion-levels": (50_000, 10_000, 10_000, (1, 28, 28)),
    "fashion-dequantised": (50_000, 10_000, 10_000, (1, 28, 28)),
    "omniglot": (23_000, 1345, 8115, (1, 28, 28)),
    "frey-faces": (1565, 200, 200, (1, 28, 20)),
    "frey-levels": (1565, 200, 200, (1, 28, 20)),
    "frey-dequantised": (1565, 200, 200, (1, 28, 20)),
    "newsgroups": (11_214, 100, 7531, (3072,)),
    "single-cell": (1700, 200, 200, (20_670,)),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=pytest.mark.slow if name in ("mnist-labelled", "mnist-semi") else ()
        )
        for name in DATASETS
    ],
)
def test_data_set(name: str, files: Path) -> None:
    needs(files, *FILES[name])
    data = load(name)
    *sizes, event_shape = SIZES[name]
    assert [len(data.split(s)) for s in ("train", "valid", "test")] == sizes
    assert data.event_shape == event_shape
    assert LISTED[name][:3] == (event_shape, tuple(sizes), data.train.view)
    assert data.name == name
    assert data.protocol
    assert data.content_hash == load(name).content_hash
    units = {split.view.unit for split in (data.train, data.valid, data.test)}
    assert units == {data.unit}
    for split in (data.train, data.valid, data.test):
        x = split.x(torch.arange(20))
        assert x.shape == (20, *event_shape)
        assert x.dtype == torch.float32
        assert (x >= 0).all()
        if "nats of P(x), x in {0, 1}" in data.unit:
            assert ((x == 0) | (x == 1)).all()
        elif "density" in data.unit:
            assert (x <= 1).all()
            assert (x > 0).any()
        elif "levels" in data.unit:
            assert (x <= 1).all()
            assert (x > 0).any()
            assert x.unique().numel() > 10
        elif "counts" in data.unit:
            assert (x == x.round()).all()
            assert x.max() > 1
        if split.labels is not None:
            assert len(split.labels) == len(split)


def test_labels_are_given_with_x() -> None:
    told, few = load("digits-labelled"), load("digits-semi")
    x, y = told.train.batch(torch.tensor([3, 1]))
    assert x.shape == (2, 1, 8, 8)
    assert told.train.labels is not None
    assert torch.equal(y, told.train.labels[[3, 1]])
    (given,) = few.train.given
    assert torch.equal(given[given >= 0], told.train.labels[given >= 0])
    assert given[given >= 0].bincount().tolist() == [10] * 10
    assert all((split.given[0] == -1).all() for split in (few.valid, few.test))
    assert as_tuple(few.train.sample(7))[0].shape == (7, 1, 8, 8)
    hashes = {load(name).content_hash for name in ("digits", "digits-labelled", "digits-semi")}
    assert len(hashes) == 3


def test_every_data_set_is_in_the_table() -> None:
    assert DATASETS.keys() == FILES.keys() == SIZES.keys()


def test_splits_are_apart() -> None:
    data = load("digits")
    rows = [
        set(map(bytes, s.stored.flatten(1).numpy())) for s in (data.train, data.valid, data.test)
    ]
    assert not rows[0] & rows[1]
    assert not rows[0] & rows[2]
    assert not rows[1] & rows[2]


def test_binarised_draws_anew_with_the_pixels_probability() -> None:
    """10,000 draws for each of 17 levels: |z| < 4.5, wrong once in 8,000."""
    stored = torch.arange(17, dtype=torch.uint8).repeat(10_000, 1)
    x = Binarised(16)(stored)
    p = torch.arange(17) / 16
    assert torch.equal(x[:, 0], torch.zeros(10_000))
    assert torch.equal(x[:, 16], torch.ones(10_000))
    z = (x.mean(0) - p)[1:16] / (p * (1 - p) / 10_000).sqrt()[1:16]
    assert z.abs().max() < 4.5
    assert not torch.equal(x, Binarised(16)(stored))


def test_fixed_test_is_drawn_once(files: Path) -> None:
    needs(files, *FILES["mnist"])
    first, second = load("mnist-fixed-test"), load("mnist-fixed-test")
    places = torch.arange(100)
    assert torch.equal(first.test.x(places), second.test.x(places))
    assert torch.equal(first.valid.x(places), first.valid.x(places))
    assert not torch.equal(first.train.x(places), first.train.x(places))
    grey = load("mnist").test.stored.float() / 255
    difference = first.test.stored.float().mean() - grey.mean()
    assert abs(difference) < 4 * 0.5 / grey.numel() ** 0.5


def test_content_hash_sees_values_and_views() -> None:
    stored = torch.arange(12, dtype=torch.uint8).reshape(4, 3)
    one = Split(stored, Counts(16))
    data = Dataset("a", one, one, one)
    assert data.content_hash == Dataset("b", one, one, one).content_hash
    other = Split(stored, Grey(16))
    assert data.content_hash != Dataset("a", other, one, one).content_hash
    changed = Split(stored + 1, Counts(16))
    assert data.content_hash != Dataset("a", one, one, changed).content_hash


def test_views() -> None:
    stored = torch.tensor([[0, 8, 16]], dtype=torch.uint8)
    assert Counts(16)(stored).tolist() == [[0, 8, 16]]
    assert Grey(16)(stored).tolist() == [[0, 0.5, 1]]
    assert Binary()(stored > 8).tolist() == [[0, 0, 1]]
    assert AsIs()(stored).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_views_leave_what_is_stored_and_can_be_undone(dtype: torch.dtype) -> None:
    stored = torch.tensor([[0, 1], [1, 0]], dtype=dtype)
    levels = 1
    for view in (
        AsIs(), Binary(), Binarised(levels), Counts(levels), Grey(levels), Levels(levels),
        Dequantised(levels), AnyCounts(), Words(),
    ):  # fmt: skip
        before = stored.clone()
        undone = view.undo(view(stored))
        assert torch.equal(stored, before), view
        torch.testing.assert_close(undone, stored.float(), atol=0.5, rtol=0)
    for view in (Binarised(16), Grey(16), Levels(16)):
        assert view.undo(view(stored * 16)).tolist() == [[0, 16], [16, 0]]


def test_dequantised_values_fill_their_bins() -> None:
    """Inside (0, 1), also where rounding would reach 1; the mean of 10,000 has |z| < 4.5."""
    stored = torch.tensor([0, 128, 255], dtype=torch.uint8).repeat(10_000, 1)
    x = Dequantised(255)(stored)
    assert ((x > 0) & (x < 1)).all()
    assert ((x * 256).floor() - stored).abs().max() <= 1
    z = ((x * 256).mean(0) - stored[0] - 0.5) / (1 / 12 / 10_000) ** 0.5
    assert z.abs().max() < 4.5
    assert not torch.equal(x, Dequantised(255)(stored))


def test_field_units() -> None:
    """Uniform models: log2(n) bits an element of n levels, perplexity V for V words."""
    stored = torch.randint(0, 256, (5, 2, 3), dtype=torch.uint8)
    uniform = torch.full((5,), -6 * math.log(256), dtype=torch.float64)
    for view in (Levels(255), Counts(255)):
        assert view.field_units(stored, uniform) == pytest.approx({"bits_per_dim": 8})
    assert Dequantised(255).field_units(stored, 0 * uniform) == pytest.approx({"bits_per_dim": 8})
    counts = torch.randint(0, 9, (5, 7), dtype=torch.int16)
    counts[2] = 0  # an empty document
    x = counts.double()
    flat = torch.full((7,), 1 / 7, dtype=torch.float64)
    log_px = torch.stack(
        [torch.distributions.Multinomial(int(row.sum()), flat).log_prob(row) for row in x]
    )
    assert Words().field_units(counts, log_px) == pytest.approx({"perplexity": 7})
    assert AsIs().field_units(stored, uniform) == Grey(255).field_units(stored, uniform) == {}


def test_newsgroups_is_the_file(files: Path) -> None:
    """Tokens of each split as its source counts them."""
    needs(files, *FILES["newsgroups"])
    data = load("newsgroups")
    tokens = [int(data.split(s).stored.sum(dtype=torch.int64)) for s in ("train", "valid", "test")]
    assert tokens == [919_850, 8_334, 594_276]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="Unknown data set 'mnst': did you mean mnist"):
        load("mnst")
    with pytest.raises(ValueError, match="Expected split train, valid or test; got 'dev'"):
        load("digits").split("dev")


def test_root_is_the_argument_the_environment_or_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOWERBOUND_DATA", str(tmp_path / "named"))
    assert data_root(tmp_path / "given") == tmp_path / "given"
    assert data_root() == tmp_path / "named"
    monkeypatch.delenv("LOWERBOUND_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data_root() == tmp_path / "lowerbound"


def test_missing_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"frey_faces.npz is not there.*--data_root"):
        load("frey-faces", tmp_path)


def test_files_with_code_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "frey_faces"
    folder.mkdir()
    np.savez(folder / "frey_faces.npz", x=np.array([print], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        load("frey-faces", tmp_path)

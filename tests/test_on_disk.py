"""Arrays that stay on disk, and batches from elsewhere: the numbers are those in memory."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import guides
from guides import Amortized, DiagonalNormal, MaskedAmortized
from inference import SVI, Dataset, Split, Trace, evaluate, fit, load_run
from inference.data import Binarised, MappedRows, Standardised, Stream, Streams, View
from inference.runs import Run
from models import MLP, VAE, Bernoulli, MaskedVAE, Normal, StandardNormal

from .test_runs import Stop, new_run, without_seconds
from .test_scripts import call

QUIET: dict[str, Any] = {"show_progress": False}


def mapped(folder: Path, values: np.ndarray, name: str = "x") -> np.memmap:
    np.save(folder / f"{name}.npy", values)
    return np.load(folder / f"{name}.npy", mmap_mode="r")


@pytest.mark.parametrize(
    "kind", [np.uint8, np.bool_, np.uint16, ">f4", "<f8", np.int64, np.float16], ids=str
)
def test_rows_are_those_of_the_array(kind: Any, tmp_path: Path) -> None:
    values = np.random.RandomState(0).randint(0, 2, (50, 2, 3)).astype(kind)
    rows = MappedRows(mapped(tmp_path, values))
    whole = torch.from_numpy(values.astype(np.float64))
    some, few = torch.tensor([7, 3, 3, 49]), rows.take(torch.tensor([40, 2, 9]))
    assert rows.shape == whole.shape
    assert rows[:].dtype == rows.dtype == few.dtype
    for found, expected in (
        (rows[some], whole[some]),
        (rows[5:20:3], whole[5:20:3]),
        (rows[:], whole),
        (few[:], whole[[2, 9, 40]]),
        (few[torch.tensor([2, 0])], whole[[40, 2]]),
        (few[1:], whole[[9, 40]]),
    ):
        assert torch.equal(found.double(), expected)


def test_a_file_that_became_shorter_is_an_error_and_no_crash(tmp_path: Path) -> None:
    rows = MappedRows(mapped(tmp_path, np.zeros((1000, 50))))
    with (tmp_path / "x.npy").open("rb+") as file:
        file.truncate(1000)
    with pytest.raises(OSError, match="has become shorter"):
        rows[torch.tensor([999])]


def pair(likelihood: Any, **options: Any) -> SVI:
    pyro.set_rng_seed(0)
    p_x = likelihood((5,))
    model = VAE(StandardNormal(2), MLP(2, p_x.parameter_shape), p_x)
    return SVI(model, Amortized(guides.MLP((5,), 4), DiagonalNormal(2)), **options)


def same_weights(one: SVI, other: SVI) -> None:
    for name, value in one.weights().items():
        assert torch.equal(value, other.weights()[name]), name


@pytest.mark.parametrize("how", ["off", "graph"])
@pytest.mark.parametrize("kind", ["bits drawn anew", "reals", "reals, some missing"])
def test_training_on_disk_is_training_in_memory(kind: str, how: Any, tmp_path: Path) -> None:
    """Steps, validations, bounds and densities of the data as given, to the same bits."""
    random = np.random.RandomState(1)
    values: np.ndarray = random.randn(90, 5)
    view: View = Standardised().fitted(torch.from_numpy(values[:60]))
    if kind == "bits drawn anew":
        values, view = random.randint(0, 17, (90, 5)).astype(np.uint8), Binarised(16)
    mask = torch.from_numpy(random.rand(90, 5) < 0.8) if "missing" in kind else None
    bounds = {"train": slice(0, 60), "valid": slice(60, 75), "test": slice(75, 90)}
    runs = []
    for on_disk in (False, True):
        splits: dict[str, Any] = {
            name: Split(
                mapped(tmp_path, values[at], name) if on_disk else torch.from_numpy(values[at]),  # type: ignore[arg-type]
                view,
                mask=None if mask is None else mask[at],
            )
            for name, at in bounds.items()
        }
        data = Dataset("five", **splits)
        assert data.train.on_disk == on_disk
        svi = pair(Bernoulli if view == Binarised(16) else Normal, compile=how)
        if mask is not None:
            svi = masked(how)
        trace = fit(svi, data, epochs=6, batch_size=8, log_every=2, **QUIET)
        found = evaluate(svi.model, svi.guide, data.test, particles=5, **QUIET)
        runs.append((svi, trace, data, found))
    (svi, trace, data, found), (other, traced, on_disk, bound) = runs
    assert without_seconds(trace) == without_seconds(traced)
    same_weights(svi, other)
    assert torch.equal(found.log_px, bound.log_px)
    assert data.content_hash == on_disk.content_hash


def masked(how: Any) -> SVI:
    pyro.set_rng_seed(0)
    p_x = Normal((5,))
    model = MaskedVAE(StandardNormal(2), MLP(2, p_x.parameter_shape), p_x)
    guide = MaskedAmortized(guides.MLP(MaskedAmortized.sees((5,)), 4), DiagonalNormal(2))
    return SVI(model, guide, compile=how)


def test_a_split_on_disk_has_the_rows_of_the_one_in_memory(tmp_path: Path) -> None:
    values = np.random.RandomState(0).rand(50, 3)
    whole = Dataset.from_arrays(values)
    data = Dataset.from_arrays(mapped(tmp_path, values), y=np.arange(50))
    for name in ("train", "valid", "test"):
        split, rows = data.split(name), whole.split(name).stored
        assert split.on_disk
        assert torch.equal(split.stored[:].sort(0).values, rows.sort(0).values)
        assert torch.equal(split.stored[:], torch.from_numpy(values)[split.given[0]])
    assert whole.train.view == data.train.view


@pytest.mark.parametrize("on_disk", ["true", "null"])
def test_the_commands(on_disk: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.data.files.ON_DISK", 100)
    x = np.random.RandomState(0).randint(0, 2, (60, 4)).astype(np.uint8)
    mapped(tmp_path, x)
    file, run = tmp_path / "x.npy", tmp_path / "run"
    words = ["--data", file, "--data.on_disk", on_disk, "--epochs", 2, "--batch_size", 8]
    call("train", *words, "--run", run)
    call("evaluate", run, "--particles", 3)
    opened = load_run(run)
    assert opened.data.train.on_disk
    assert opened.encode(file).shape == (60, 50)
    assert torch.equal(opened.encode(file), opened.encode(x))
    call("apply", run, file, "--what", "reconstruct", "--out", tmp_path / "again.npz")
    full = opened.impute(file, mask=torch.rand(60, 4) < 0.8, particles=3)
    assert full.x.shape == (60, 4)


def test_what_is_missing_on_disk_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.zeros((60, 4))
    x[41, 2] = np.nan
    mapped(tmp_path, x)
    with pytest.raises(SystemExit):
        call("train", "--data", tmp_path / "x.npy", "--data.on_disk", "true")
    said = capsys.readouterr().err
    assert "2] is nan: An array that stays on disk has no missing entries" in said
    assert "--data.on_disk false" in said
    np.savez(tmp_path / "x.npz", x=x)
    with pytest.raises(SystemExit):
        call("train", "--data", tmp_path / "x.npz", "--data.on_disk", "true")
    assert "--data.on_disk means nothing for" in capsys.readouterr().err


class Again:
    """An iterable of batches with a length that is no loader."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return 6

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.x.split(10))


class Endless(IterableDataset[Tensor]):
    """A data set without places."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.zeros(12, 5))


def sources(x: Tensor) -> dict[str, Any]:
    return {
        "a loader": DataLoader(TensorDataset(x), 10),
        "a loader that shuffles": DataLoader(TensorDataset(x), 10, shuffle=True),
        "a last batch that is smaller": DataLoader(TensorDataset(x), 13, shuffle=True),
        "a loader with a generator": DataLoader(
            TensorDataset(x), 10, shuffle=True, generator=torch.Generator()
        ),
        "a loader with workers": DataLoader(TensorDataset(x), 10, shuffle=True, num_workers=1),
        "a list": Stream([*x.split(10)], size=60),
        "an iterable": Stream(Again(x), size=60),
    }


SOURCES = [*sources(torch.zeros(60, 5))]
X = torch.bernoulli(torch.rand(60, 5, generator=torch.Generator().manual_seed(0)))


def test_steps_on_a_stream_are_those_of_its_batches() -> None:
    """In order, they are the steps that a loop over the batches takes."""
    svi, other = pair(Bernoulli), pair(Bernoulli)
    other.data_size = 60
    for each in (svi, other):
        each.prepare(X[:10])
    pyro.set_rng_seed(0)
    trace = fit(svi, Streams(Stream([*X.split(10)], 60), Split(X[:20])), epochs=3, **QUIET)
    pyro.set_rng_seed(0)
    for _ in range(3):
        for batch in X.split(10):
            other.step(batch)
    same_weights(svi, other)
    assert [row.step for row in trace.split("valid")] == [6, 12, 18]


@pytest.mark.parametrize("name", [n for n in SOURCES if "generator" not in n])
def test_a_stream_resumes_to_the_same_bits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {
        "epochs": 3, "valid": Split(X[:20]), "log_every": 2, "checkpoint_every": 0.0, **QUIET,
    }  # fmt: skip
    pyro.set_rng_seed(2)
    whole = pair(Bernoulli)
    expected = fit(whole, sources(X)[name], run=new_run(tmp_path / "whole"), **options)
    run, step, deaths = new_run(tmp_path / "broken"), SVI.step, 0

    def fragile(self: SVI, *args: Any, **kwargs: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken > 5:
            raise Stop
        return step(self, *args, **kwargs)

    monkeypatch.setattr(SVI, "step", fragile)
    again, trace = whole, Trace()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        while True:
            taken, again = 0, pair(Bernoulli)
            try:
                trace = fit(again, sources(X)[name], run=Run(run.path), **options)
                break
            except Stop:
                deaths += 1
    assert deaths > 1
    told = [each for each in said if "exact only if" in str(each.message)]
    assert bool(told) == (name in ("a list", "an iterable"))
    assert without_seconds(trace) == without_seconds(expected)
    same_weights(again, whole)


def test_what_is_no_stream_is_refused_in_words() -> None:
    svi, x = pair(Bernoulli), torch.zeros(12, 5)
    loader = DataLoader(TensorDataset(x), 4)
    wrong: list[tuple[Any, Any, str]] = [
        (loader, None, r"valid=others"),
        (3, loader, "as a DataLoader or a list; got int"),
        (iter(loader), loader, "can be gone through in each epoch"),
        (DataLoader(Endless(), 4), loader, "has no length"),
        ([x], loader, r"Stream\(batches, size=N\)"),
        ([], loader, "has no batches"),
        (Stream([["a"]], 1), loader, "A batch holds a str"),
        (Dataset("d", Split(x), Split(x), Split(x)), loader, "has its own valid"),
    ]
    for data, valid, said in wrong:
        with pytest.raises((TypeError, ValueError), match=said):
            fit(svi, data, valid=valid, epochs=1, **QUIET)

"""Data that people bring: every form trained, evaluated, opened and drawn; the rest refused."""

import json
import math
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import scipy.sparse
import torch
import yaml
from PIL import Image
from torch import Tensor

from inference import Run, evaluate, load_run
from inference.data import (
    AnyCounts,
    AsIs,
    Binarised,
    Binary,
    Dataset,
    Grey,
    Levels,
    Source,
    SparseRows,
    Split,
    Standardised,
    View,
    default_view,
    open_data,
)
from inference.data.listing import LISTED
from inference.data.named import DATASETS
from inference.training import SVI, fit
from models import VAE

from .conftest import not_drawing

undrawn = pytest.mark.usefixtures("undrawn")

RNG = np.random.RandomState(3)

REALS = RNG.randn(50, 4) * [1, 10, 0.1, 5] + [0, 100, 3, -7]
COUNTS = RNG.poisson(1.0, (50, 6))
BITS = RNG.rand(50, 1, 4, 4) > 0.5
BYTES = RNG.randint(0, 256, (50, 1, 4, 4)).astype(np.uint8)
LABELS = np.arange(50) % 3


def parts(x: Any) -> dict[str, Any]:
    return {"x_train": x[:30], "x_valid": x[30:40], "x_test": x[40:]}


def npz(path: Path, **arrays: Any) -> None:
    np.savez(path, **arrays)


def frame(path: Path, write: Callable[[pd.DataFrame, Path], Any]) -> None:
    table = pd.DataFrame(dict(zip("abcd", REALS.T, strict=True)))
    table["kind"] = [["x", "y", "z"][n] for n in LABELS]
    write(table, path)


def folder(path: Path) -> None:
    for n, image in enumerate(BYTES):
        kind = path / "ab"[n % 2]
        kind.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(kind / f"{n}.png")


def cells(path: Path) -> None:
    obs = pd.DataFrame({"batch": LABELS.astype(str)}, index=pd.Index(map(str, range(50))))
    counts = scipy.sparse.csr_matrix(COUNTS.astype(np.float32))
    anndata.AnnData(counts, obs=obs).write_h5ad(path)


def csr(path: Path) -> None:
    x = scipy.sparse.csr_matrix(COUNTS)
    npz(path, indptr=x.indptr, indices=x.indices, data=x.data, shape=x.shape, labels=LABELS)


def train_csr(path: Path) -> None:
    arrays: dict[str, Any] = {"vocab": np.array([f"w{n}" for n in range(6)])}
    for part, rows in (("train", COUNTS[:30]), ("valid", COUNTS[30:40]), ("test", COUNTS[40:])):
        x = scipy.sparse.csr_matrix(rows)
        arrays |= {f"{part}_indptr": x.indptr, f"{part}_indices": x.indices, f"{part}_data": x.data}
    npz(path, **arrays)


CODE = """
import numpy as np
from inference.data import Dataset
def data(root):
    return Dataset.from_arrays(np.random.RandomState(0).randn(50, 3), name="made")
"""

FORMS: dict[str, tuple[str, Callable[[Path], Any], list[str], type[View], tuple[int, ...]]] = {
    "npz": ("a.npz", lambda p: npz(p, **parts(BITS)), [], Binary, (1, 4, 4)),
    "npz, one x": ("a.npz", lambda p: npz(p, x=BYTES), ["--view", "Grey"], Grey, (1, 4, 4)),
    "npz, labels": ("a.npz", lambda p: npz(p, x=REALS, y=LABELS), [], Standardised, (4,)),
    "npy": ("a.npy", lambda p: np.save(p, BYTES), [], Levels, (1, 4, 4)),
    "pt": ("a.pt", lambda p: torch.save(torch.tensor(REALS), p), [], Standardised, (4,)),
    "pt, dict": (
        "a.pt", lambda p: torch.save({k: torch.tensor(v) for k, v in parts(BYTES).items()}, p),
        ["--view", "Binarised"], Binarised, (1, 4, 4),
    ),
    "safetensors": (
        "a.safetensors", lambda p: safetensors.torch.save_file({"x": torch.tensor(REALS)}, p),
        ["--view", "AsIs"], AsIs, (4,),
    ),
    "rows, sparse": ("a.npz", csr, [], AnyCounts, (6,)),
    "splits, sparse": ("a.npz", train_csr, [], AnyCounts, (6,)),
    "scipy": (
        "a.npz", lambda p: scipy.sparse.save_npz(p, scipy.sparse.csr_matrix(COUNTS)), [],
        AnyCounts, (6,),
    ),
    "csv": (
        "a.csv", lambda p: frame(p, lambda t, p: t.to_csv(p, index=False)), [], Standardised, (4,)
    ),
    "tsv": (
        "a.tsv", lambda p: frame(p, lambda t, p: t.to_csv(p, sep="\t", index=False)),
        ["--data.columns", "[a,b]", "--data.label", "kind"], Standardised, (2,),
    ),
    "parquet": (
        "a.parquet", lambda p: frame(p, lambda t, p: t.to_parquet(p)), [], Standardised, (4,)
    ),
    "images": ("pictures", folder, ["--data.size", "4"], Levels, (1, 4, 4)),
    "h5ad": ("a.h5ad", cells, [], AnyCounts, (6,)),
    "py": ("a.py", lambda p: p.write_text(CODE), [], Standardised, (3,)),
}  # fmt: skip

TINY = [
    "--encoder.hidden",
    "[8]",
    "--decoder.hidden",
    "[8]",
    "--latent_dim",
    "2",
    "--batch_size",
    "10",
    "--epochs",
    "2",
]


def call(script: str, *words: object) -> None:
    import_module(f"scripts.{script}").main(list(map(str, words)))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_trained_evaluated_opened_and_drawn(form: str, tmp_path: Path) -> None:
    name, write, words, view, shape = FORMS[form]
    path, run = tmp_path / name, tmp_path / "run"
    write(path)
    call("check", "--data", path, *words, *TINY[:-4])
    with not_drawing():  # the pictures of training are those of sample
        call("train", "--data", path, *words, *TINY, "--run", run)
        call("evaluate", run, "--particles", 3)
    call("sample", run, "--rows", 2, "--columns", 2)
    opened = load_run(run)
    assert isinstance(opened.data.train.view, view)
    assert opened.data.event_shape == shape
    assert [len(opened.data.split(part)) for part in ("train", "valid", "test")] in (
        [40, 5, 5], [30, 10, 10],
    )  # fmt: skip
    x = opened.data.test
    assert opened.encode(x).shape == (len(x), 2)
    file = tmp_path / "new.npz"
    np.savez(file, x=x.x(slice(None)) if isinstance(x.stored, SparseRows) else x.stored)
    for what in ("encode", "reconstruct", "score", "impute", "sample"):
        out = tmp_path / f"{what}.csv"
        call("apply", run, file, "--what", what, "--out", out, "--particles", 3)
        assert len(pd.read_csv(out)) == (64 if what == "sample" else len(x))
    assert math.isfinite((Run(run).evaluation or {})["log_px"])
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["source"] == str(path)
    assert config["data"]["split"] == [0.8, 0.1, 0.1]


@undrawn
def test_what_lies_in_the_file_comes_out_of_it(tmp_path: Path) -> None:
    kept = torch.cat([split.stored for split in splits(Dataset.from_arrays(REALS))])
    assert torch.equal(kept.sort(0).values, torch.tensor(REALS).sort(0).values)
    for form in ("rows, sparse", "scipy", "h5ad"):
        name, write, *_ = FORMS[form]
        write(tmp_path / name)
        data = open_data(Source(str(tmp_path / name)))
        assert isinstance(data.train.stored, SparseRows)
        dense = Dataset.from_arrays(COUNTS)
        for mine, other in zip(splits(data), splits(dense), strict=True):
            assert torch.equal(mine.x(slice(None)), other.x(slice(None)))
            places = torch.tensor([3, 0, 3])
            assert torch.equal(mine.x(places), other.x(places))
    (tmp_path / "pictures").mkdir()
    folder(tmp_path / "pictures")
    data = open_data(Source(str(tmp_path / "pictures")))
    rows = torch.cat([split.stored for split in splits(data)]).flatten(1).tolist()
    assert sorted(rows) == sorted(BYTES.reshape(50, -1).tolist())
    assert {int(split.given[0].max()) for split in splits(data)} == {1}


def splits(data: Dataset) -> list[Split]:
    return [data.train, data.valid, data.test]


@pytest.mark.parametrize(
    ("x", "view"),
    [
        (torch.tensor([[True, False]]), Binary()),
        (torch.tensor([[0.0, 1.0]]), Binary()),
        (torch.tensor([[0, 200]], dtype=torch.uint8), Levels(255)),
        (torch.tensor([[0, 7]]), AnyCounts()),
        (torch.tensor([[0.0, 7.0]]), AnyCounts()),
        (torch.tensor([[0.0, 0.5]]), Grey(1)),
        (torch.tensor([[-1.0, 0.5]]), Standardised()),
        (torch.tensor([[-1, 5]]), Standardised()),
        (torch.tensor([[0.5, math.nan]]), Grey(1)),
    ],
)
def test_default_view_follows_type_and_range(x: Tensor, view: View) -> None:
    assert default_view(x) == view
    assert view.fitted(x).fitted(x) == view.fitted(x)


def test_levels_of_a_view_come_from_the_training_values() -> None:
    assert Grey().fitted(torch.tensor([3, 9])) == Grey(9)
    assert Levels().fitted(torch.tensor([3], dtype=torch.uint8)) == Levels(255)
    assert Binarised().fitted(torch.tensor([0.2])) == Binarised(1)
    data = Dataset.from_arrays({"train": [[4]] * 3, "valid": [[2]], "test": [[1]]}, view=Grey())
    assert data.valid.x(slice(None)).item() == 0.5


def test_standardised_densities_are_those_of_the_data_as_given() -> None:
    """log p of the same normal: once of z-scores, once in the data's own units."""
    from guides import Amortized, DiagonalNormal
    from models import MLP, Normal, StandardNormal

    data = Dataset.from_arrays(REALS, seed=1)
    view = data.train.view
    assert isinstance(view, Standardised)
    x = data.train.x(slice(None))
    torch.testing.assert_close(x.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.var(0, correction=0), torch.ones(4))
    torch.testing.assert_close(view.undo(x), data.train.stored.float())
    torch.testing.assert_close(view.undo(x.expand(2, *x.shape))[1], data.train.stored.float())

    torch.manual_seed(0)
    likelihood = Normal((4,), 0.7, learn_scale=False)
    model = VAE(StandardNormal(2), MLP(2, likelihood.parameter_shape, [8]), likelihood)
    guide = Amortized(torch.nn.Linear(4, 4), DiagonalNormal(2))
    found = evaluate(model, guide, data.test, particles=5, show_progress=False)
    plain = evaluate(
        model, guide, Split(data.test.x(slice(None))), particles=5, show_progress=False
    )
    log_det = -torch.tensor(view.scale).double().log().sum()
    for name in ("elbo", "log_px", "curve"):
        expected = getattr(plain, name) + log_det
        torch.testing.assert_close(getattr(found, name), expected, atol=1e-6, rtol=0)
    same = Dataset("x", *(Split(s.x(slice(None))) for s in splits(data)))  # type: ignore[arg-type]
    rows = []
    for each in (data, same):
        torch.manual_seed(0)
        for module in (*model.decoder.modules(), *guide.modules()):
            if isinstance(module, torch.nn.Linear):
                module.reset_parameters()
        rows.append(fit(SVI(model, guide), each, epochs=2, batch_size=10).rows)
    for mine, other in zip(*rows, strict=True):
        assert mine.elbo == pytest.approx(other.elbo + log_det.item(), abs=1e-4)
        assert mine.reconstruction == pytest.approx(other.reconstruction + log_det.item(), abs=1e-4)
        assert mine.kl == pytest.approx(other.kl, abs=1e-4)


@undrawn
def test_evaluation_in_depth_is_of_the_data_as_given(tmp_path: Path) -> None:
    """A scale of 1,000 moves every bound by the same log 1,000 for each of 4 columns."""
    found = []
    for scale in (1, 1000):
        path, run = tmp_path / f"{scale}.npy", tmp_path / f"run{scale}"
        np.save(path, REALS * scale)
        call("train", "--data", path, *TINY, "--run", run)
        words = [
            "--particles",
            "5",
            "--ais",
            "4",
            "--bdmc",
            "4",
            "--gaps",
            "4",
            "--chains",
            "2",
            "--distributions",
            "5",
        ]
        call("evaluate", run, *words)
        found.append(json.loads((run / "evaluation.json").read_text()))
    one, thousand = found
    shift = -4 * math.log(1000)
    places = (
        ["elbo"], ["log_px"], ["ais", "log_px"], ["bdmc", "lower"], ["bdmc", "upper"],
        ["gaps", "elbo"], ["gaps", "log_px"], ["curve", "5"],
    )  # fmt: skip
    for place in places:
        a, b = one, thousand
        for key in place:
            a, b = a[key], b[key]
        assert b == pytest.approx(a + shift, abs=2e-3), place
    assert thousand["distortion"] == pytest.approx(one["distortion"] - shift, abs=2e-3)


def test_a_run_reads_new_files_as_it_read_its_own(tmp_path: Path) -> None:
    write = FORMS["tsv"][1]
    write(tmp_path / "a.tsv")
    words = ["--data.columns", "[b,a]", "--data.label", "kind", "--data.seed", 5]
    call("train", "--data", tmp_path / "a.tsv", *words, *TINY, "--run", tmp_path / "run")
    run, table = load_run(tmp_path / "run"), pd.read_csv(tmp_path / "a.tsv", sep="\t")
    z = run.encode(REALS[:, [1, 0]])
    assert torch.equal(run.encode(tmp_path / "a.tsv"), z)
    assert torch.equal(run.encode(table), z)
    assert torch.equal(run.encode(table.drop(columns="kind")), z)
    call("apply", tmp_path / "run", tmp_path / "a.tsv", "--draws", 3, "--out", tmp_path / "z.npz")
    assert np.load(tmp_path / "z.npz")["z"].shape == (3, 50, 2)


def test_listing_names_every_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(LISTED) == set(DATASETS)
    with pytest.raises(SystemExit) as ended:
        call("train", "--data", "list")
    assert ended.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) == len(DATASETS) + 1


WRONG: dict[str, tuple[str, Callable[[Path], Any], list[str], str]] = {
    "truncated": ("a.npz", lambda p: p.write_bytes(whole(p)[:200]), [], "a.npz can't be read"),
    "empty": ("a.npz", lambda p: p.write_bytes(b""), [], "Expected an npz file with an array x"),
    "no x": ("a.npz", lambda p: npz(p, images=REALS, y=LABELS), [], "a.npz has no x. Expected"),
    "text": ("a.npz", lambda p: npz(p, x=np.array(["a", "b"])), [], "numbers as x; got an array"),
    "objects": (
        "a.npz", lambda p: npz(p, x=np.array([{}, {}], object)), [], "a.npz can't be read (Object",
    ),
    "complex": ("a.npy", lambda p: np.save(p, REALS + 1j), [], "Expected"),
    "one number": ("a.npy", lambda p: np.save(p, np.array(3.0)), [], "row for each datum; got one"),
    "no rows": ("a.npy", lambda p: np.save(p, REALS[:0]), [], "There are no data: x has no rows"),
    "two rows": ("a.npy", lambda p: np.save(p, REALS[:2]), [], "2 data are too few"),
    "terabytes": ("a.npy", lambda p: p.write_bytes(claim()), [], "a.npy can't be read"),
    "lengths": ("a.npz", lambda p: npz(p, x=REALS, y=LABELS[:7]), [], "50 rows, and y has 7"),
    "no test": ("a.npz", lambda p: npz(p, x_train=REALS), [], "of train, valid and test there is"),
    "shapes": (
        "a.npz", lambda p: npz(p, x_train=REALS, x_test=REALS[:, :2]), [], "shape of a datum is",
    ),
    "not a tensor": ("a.pt", lambda p: torch.save([1, 2], p), [], "it holds a list"),
    "code": ("a.pt", lambda p: torch.save(Run, p), [], "a.pt can't be read"),
    "no safetensors": ("a.safetensors", lambda p: p.write_text("x"), [], "can't be read"),
    "no column": (
        "a.csv", lambda p: p.write_text("a,b\n1,2\n"), ["--data.columns", "[a,z]"],
        "has no column 'z'; it has a, b",
    ),
    "no numbers": (
        "a.csv", lambda p: p.write_text("a,b\n1,u\n"), ["--data.columns", "[b]"],
        "column 'b' holds no numbers ('u')",
    ),
    "words alone": ("a.csv", lambda p: p.write_text("a,b\nu,v\n"), [], "no numeric columns"),
    "no table": ("a.csv", lambda p: p.write_text(""), [], "Expected a table with a header"),
    "no parquet": ("a.parquet", lambda p: p.write_text("x"), [], "a.parquet can't be read"),
    "no images": ("pictures", lambda p: p.mkdir(), [], "has no PNG or JPEG files"),
    "ragged": ("pictures", lambda p: ragged(p), [], "make them alike by --data.size N"),
    "no image": (
        "pictures", lambda p: (p.mkdir(), (p / "a.png").write_text("x")), [], "a.png can't be read"
    ),
    "no cells": ("a.h5ad", lambda p: p.write_text("x"), [], "a.h5ad can't be read"),
    "no kind": ("a.xyz", lambda p: p.write_text("x"), [], "no kind of data file"),
    "no function": ("a.py", lambda p: p.write_text("x = 1"), [], "no function data(root)"),
    "no data set": (
        "a.py", lambda p: p.write_text("def data(root): return 3"), [], "returned int; expected a",
    ),
    "raises": ("a.py", lambda p: p.write_text("def data(root): 1 / 0"), [], "division by zero"),
    "label of an npy": (
        "a.npy", lambda p: np.save(p, REALS), ["--data.label", "y"],
        "--data.label means nothing for",
    ),
    "shares": (
        "a.npy", lambda p: np.save(p, REALS), ["--data.split", "[0.5,0.1,0.1]"],
        "three shares of train, valid and test that add up to 1",
    ),
    "view": (
        "a.npy", lambda p: np.save(p, REALS), ["--view", "Binary"], "Binary() takes 0 and 1",
    ),
}  # fmt: skip


def whole(path: Path) -> bytes:
    npz(path, x=REALS)
    return path.read_bytes()


def claim() -> bytes:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 8), }".ljust(117)
    return b"\x93NUMPY\x01\x00\x76\x00" + header + b"\n" + bytes(100)


def ragged(path: Path) -> None:
    path.mkdir()
    for n, size in enumerate((4, 5)):
        Image.new("L", (size, size)).save(path / f"{n}.png")


@pytest.mark.parametrize("case", WRONG)
def test_what_can_not_be_data_is_one_line(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, write, words, said = WRONG[case]
    write(tmp_path / name)
    with pytest.raises(SystemExit) as ended:
        call("train", "--data", tmp_path / name, *words, "--run", tmp_path / "run")
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert said in error, error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_misspelt_file_is_told_by_its_neighbours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wine.csv").write_text("a\n1\n")
    with pytest.raises(SystemExit):
        call("train", "--data", tmp_path / "wine.cvs")
    assert f"did you mean {tmp_path / 'wine.csv'}?" in capsys.readouterr().err


def test_options_mean_nothing_for_named_sets(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call("train", "--data", "digits", "--data.seed", 3)
    assert "--data.seed means nothing for a named set" in capsys.readouterr().err


@undrawn
def test_a_file_that_changed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, run = tmp_path / "a.npy", tmp_path / "run"
    np.save(path, REALS)
    call("train", "--data", path, *TINY, "--run", run)
    np.save(path, REALS + 1)
    with pytest.raises(SystemExit):
        call("evaluate", run)
    assert "was trained on a with the hash" in capsys.readouterr().err


@undrawn
def test_code_that_makes_data_is_that_of_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, run = tmp_path / "a.py", tmp_path / "run"
    path.write_text(CODE)
    call("train", "--data", path, *TINY, "--run", run)
    path.write_text(CODE + "\nopen('ran', 'w')")
    for words in (["evaluate", run], ["sample", run], ["train", "--resume", run]):
        with pytest.raises(SystemExit):
            call(str(words[0]), *words[1:])
        assert "a.py is not what it was when" in capsys.readouterr().err
    path.rename(run / "a.py")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(str(path), str(run / "a.py")))
    with pytest.raises(SystemExit):
        call("evaluate", run)
    assert "came along inside" in capsys.readouterr().err

"""Where data come from: a named set, a file, a folder of images, or Python that makes them."""

import importlib.util
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..files import regular
from . import files
from .arrays import from_arrays
from .named import DATASETS, data_root, load
from .records import Dataset
from .views import View

TABLES = (".csv", ".tsv", ".parquet")

KINDS = (".npz", ".npy", ".pt", ".safetensors", *TABLES, ".h5ad", ".py")
"""Endings of the files that can be opened."""


@dataclass(frozen=True)
class Source:
    """Data to open.

    Args:
        source: name of a data set (``list`` shows them), or a path: FILE.npz, .npy, .pt or
            .safetensors with an array x, or x_train, x_valid and x_test; FILE.csv, .tsv or .parquet
            with numeric columns; a folder of PNG or JPEG images, whose subfolders are labels;
            FILE.h5ad with counts; FILE.py that defines data(root) -> Dataset.
        columns: of a table; by default all that are numeric.
        label: column of a table, or of obs in FILE.h5ad, that is the label y and not in x.
        size: side that images are scaled to.
        grey: whether images are read without colours.
        split: shares of train, valid and test, where a file has one x.
        seed: of the permutation before the split.
        on_disk: whether the array of FILE.npy stays there and rows are read as they are needed; by
            default one of 1 GiB and more does.
    """

    source: str = "digits"
    columns: list[str] | None = None
    label: str | None = None
    size: int | None = None
    grey: bool = False
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0
    on_disk: bool | None = None

    @property
    def path(self) -> Path | None:
        """The file or folder; None for a named set."""
        return None if self.source in DATASETS else Path(self.source)

    @property
    def name(self) -> str:
        """The data set's name, or the file's without its ending."""
        return self.source if self.path is None else self.path.stem

    @property
    def is_code(self) -> bool:
        """Whether opening it runs a file."""
        return self.path is not None and self.path.suffix == ".py"


def open_data(source: Source, view: View | None = None, root: Path | None = None) -> Dataset:
    """Open data, on the CPU.

    Args:
        source: what to open.
        view: how stored values become x; None is the named set's own, or what `default_view` says.
        root: folder of the files of named sets; see `data_root`.

    Raises:
        ValueError: no set has the name, a file can't be read or does not hold what it should, or
            an option does not belong to the kind of source.
        FileNotFoundError: there is no such file.
    """
    path = source.path
    if path is not None and not path.exists():
        raise FileNotFoundError(_unknown(source.source))
    _refuse_options(source)
    if path is None or source.is_code:
        data = load(source.source, root) if path is None else _made(path, data_root(root))
        if not isinstance(data, Dataset):
            raise ValueError(
                f"data() in {path} returned {type(data).__name__}; expected a Dataset, as "
                "Dataset.from_arrays(x) makes one."
            )
        return data if view is None else _viewed(data, view)
    found = arrays_of(source)
    x, y = found.pop("x"), found.pop("y", None)
    try:
        return from_arrays(x, y, found, view, source.split, source.seed, source.name)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def arrays_of(source: Source) -> dict[str, Any]:
    """Return x and what comes with it, y, lengths and mask, as a file or a folder has them.

    Raises:
        ValueError: it can't be read, or holds something else.
        FileNotFoundError: it is not there.
    """
    path = Path(source.source)
    if not path.exists():
        raise FileNotFoundError(_unknown(source.source))
    if path.is_dir():
        return files.images(path, source.size, source.grey)
    kind = path.suffix.lower()
    if kind in TABLES:
        return files.table(path, source.columns, source.label)
    if kind == ".h5ad":
        return files.h5ad(path, source.label)
    readers: dict[str, Callable[[Path], dict[str, Any]]] = {
        ".npz": files.npz,
        ".npy": lambda path: files.npy(path, source.on_disk),
        ".pt": files.pt,
        ".safetensors": files.safetensors,
    }
    if kind not in readers:
        raise ValueError(
            f"{path} is no kind of data file: expected one that ends in {', '.join(KINDS)}, or a "
            "folder of images."
        )
    return files.by_part(readers[kind](path), path)


def _refuse_options(source: Source) -> None:
    """Refuse what would be ignored."""
    path, plain = source.path, Source()
    kind = "" if path is None else "folder" if path.is_dir() else path.suffix.lower()
    known = {
        "columns": kind in TABLES,
        "label": kind in (*TABLES, ".h5ad"),
        "size": kind == "folder",
        "grey": kind == "folder",
        "split": kind not in ("", ".py"),
        "seed": kind not in ("", ".py"),
        "on_disk": kind == ".npy",
    }
    for name, belongs in known.items():
        if not belongs and getattr(source, name) != getattr(plain, name):
            what = "a named set" if path is None else f"{path}"
            raise ValueError(f"--data.{name} means nothing for {what}: leave it out.")


def _viewed(data: Dataset, view: View) -> Dataset:
    fitted = view.fitted(data.train.stored)
    train, valid, test = (
        replace(split, view=fitted) for split in (data.train, data.valid, data.test)
    )
    return replace(data, train=train, valid=valid, test=test)


def _made(path: Path, root: Path) -> Any:
    """Return what data(root) of a Python file makes; an error of its own names its own line."""
    try:
        return _function(path)(root)
    except (Exception, SystemExit) as error:
        if isinstance(error, SyntaxError):
            raise ValueError(f"{path}, line {error.lineno}: {error.msg}") from error
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        if not lines:
            raise
        said = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}, line {lines[-1]}: {said}") from error


def _function(path: Path) -> Callable[[Path], Any]:
    spec = importlib.util.spec_from_file_location(path.stem, regular(path))
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(found := getattr(module, "data", None)):
        raise ValueError(f"{path} defines no function data(root) -> Dataset.")
    return found


def _unknown(name: str) -> str:
    folder = Path(name).parent
    files_there = [str(folder / each.name) for each in folder.iterdir()] if folder.is_dir() else []
    if name in DATASETS:
        return f"{name!r} is a named set, and a file is due here: write its data to one."
    if near := get_close_matches(name, [*DATASETS, *files_there], 1):
        return f"There is no data set and no file {name!r}: did you mean {near[0]}?"
    return (
        f"There is no data set and no file {name!r}. --data list shows the sets; a file ends in "
        f"{', '.join(KINDS)}."
    )

"""Arrays out of files that people have. No file can execute code; a damaged one is named."""

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch

from ..files import regular
from .rows import ON_DISK, MappedRows
from .sparse import SparseRows

ARRAYS = "an array x, to be split, or x_train, x_valid and x_test; y, lengths and mask beside them"
"""What a file of arrays should hold."""

KINDS = ["number", "bool"]
"""Types of the columns of a table that are numbers."""

IMAGES = frozenset({".png", ".jpg", ".jpeg"})

BESIDE = ("y", "lengths", "mask")
"""What may come with x in a file."""


class DamagedError(ValueError):
    """A file can't be read; the message has its path, the reason, and what was expected in it."""


@contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Name the file, and what was expected in it, where it can't be read.

    Raises:
        DamagedError: it can't.
    """
    try:
        yield
    except (
        OSError, ValueError, TypeError, EOFError, KeyError, IndexError, MemoryError, RuntimeError,
        OverflowError, zipfile.BadZipFile, zlib.error, UnpicklingError, SyntaxError, AssertionError,
    ) as error:  # fmt: skip
        if isinstance(error, (FileNotFoundError, DamagedError)):
            raise
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise DamagedError(f"{path} can't be read ({said}). Expected {expected}.") from error


def npz(path: Path) -> dict[str, Any]:
    """Return the arrays of an npz file that count, compressed sparse rows put together."""
    with reading(path, f"an npz file with {ARRAYS}"):
        with np.load(regular(path), allow_pickle=False) as file:
            names = set(file.files)
            found = {name: file[name] for name in file.files if _counts(name, names)}
        return _together(found)


def npy(path: Path, on_disk: bool | None = None) -> dict[str, Any]:
    """Return x (N, *event_shape) of an npy file; a large one, or where asked for, on disk."""
    with reading(path, "an npy file with the array x (N, ...)"):
        mapped = np.load(regular(path), allow_pickle=False, mmap_mode="r")  # as long as it claims
        if path.stat().st_size >= ON_DISK if on_disk is None else on_disk:
            return {"x": MappedRows(mapped)}
        return {"x": np.load(path, allow_pickle=False)}


def pt(path: Path) -> dict[str, Any]:
    """Return a tensor x, or a dict of tensors, that torch saved."""
    with reading(path, f"a tensor x (N, ...), or a dict of tensors with {ARRAYS}; no other object"):
        if zipfile.is_zipfile(regular(path)):
            with zipfile.ZipFile(path) as archive:
                if (member := archive.testzip()) is not None:  # torch.load leaves the sums unread
                    raise ValueError(f"{member} in it has changed since it was written")
        found = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(found, torch.Tensor):
            return {"x": found}
        if not isinstance(found, Mapping) or not all(isinstance(k, str) for k in found):
            raise ValueError(f"it holds a {type(found).__name__}")
        return _together({k: v for k, v in found.items() if _counts(k, set(found))})


def safetensors(path: Path) -> dict[str, Any]:
    """Return the tensors of a safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with reading(path, f"a safetensors file with {ARRAYS}"):
        try:
            found = load_file(regular(path))
        except SafetensorError as error:
            raise ValueError(str(error)) from error
        return _together({k: v for k, v in found.items() if _counts(k, set(found))})


def table(path: Path, columns: list[str] | None, label: str | None) -> dict[str, Any]:
    """Return the numeric columns of a table as x (N, D), a label's as y; empty cells are NaN."""
    return numeric(_frame(path), columns, label, str(path))


def column_names(path: Path, columns: list[str] | None, label: str | None) -> list[str]:
    """Return the names of a table's columns that are x, in their order."""
    frame = _frame(path).rename(columns=lambda name: str(name).strip())
    return columns or [*frame.drop(columns=[label] if label else []).select_dtypes(KINDS).columns]


def _frame(path: Path) -> Any:
    import pandas as pd

    readers: dict[str, Callable[[], Any]] = {
        ".csv": lambda: pd.read_csv(path),
        ".tsv": lambda: pd.read_csv(path, sep="\t"),
        ".parquet": lambda: pd.read_parquet(path),
    }
    with reading(path, "a table with a header and numeric columns"):
        regular(path)
        try:
            return readers[path.suffix.lower()]()
        except ImportError as error:
            raise ValueError("parquet needs pyarrow: pip install 'lowerbound[parquet]'") from error
    raise AssertionError  # of no use but to a type checker: an error has been raised


def numeric(
    frame: Any, columns: list[str] | None, label: str | None, path: str = "the frame"
) -> dict[str, Any]:
    """Return the numeric columns of a frame as x (N, D), a label's as y; empty cells are NaN."""
    import pandas as pd

    frame = frame.rename(columns=lambda name: str(name).strip())
    for name in [*(columns or ()), *([label] if label else ())]:
        if name not in frame.columns:
            raise ValueError(f"{path} has no column {name!r}; it has {', '.join(frame.columns)}.")
    found: dict[str, Any] = {}
    if label:
        codes, _ = pd.factorize(frame[label], sort=True)
        found["y"] = codes.astype(np.int64)
        frame = frame.drop(columns=label)
    if columns:
        frame = frame[columns]
        if wrong := [c for c in frame.columns if not pd.api.types.is_numeric_dtype(frame[c])]:
            raise ValueError(
                f"{path}: column {wrong[0]!r} holds no numbers ({frame[wrong[0]].iloc[0]!r}). "
                "Leave it out of --data.columns, or name it as --data.label."
            )
    chosen = frame.select_dtypes(KINDS)
    if not chosen.shape[1] or not len(chosen):
        raise ValueError(f"{path} has no numeric columns with data in them.")
    whole = all(np.issubdtype(kind, np.integer) for kind in chosen.dtypes)
    missing = {} if whole else {"na_value": np.nan}  # which no integer can be
    found["x"] = chosen.to_numpy(np.int64 if whole else np.float64, **missing)
    return found


def count_images(folder: Path, most: int) -> int:
    """Return the number of images below a folder; one more than the most where there are more.

    A folder with very many other files counts as one with too many images.
    """
    found = 0
    for number, path in enumerate(folder.rglob("*")):
        found += path.suffix.lower() in IMAGES
        if found > most or number > 10_000 + 4 * most:
            return most + 1
    return found


def images(folder: Path, size: int | None, grey: bool) -> dict[str, Any]:
    """Return the PNG and JPEG files below a folder as bytes (N, C, H, W); its subfolders are y."""
    from PIL import Image

    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGES)
    if not paths:
        raise ValueError(f"{folder} has no PNG or JPEG files in it or in its subfolders.")
    pixels, modes = [], set()
    for path in paths:
        with reading(path, "a PNG or JPEG image"), Image.open(regular(path)) as image:
            modes.add(image.mode)
            shown = image.convert("L" if grey or image.mode in ("1", "L") else "RGB")
            if size:
                shown = shown.resize((size, size), Image.Resampling.BILINEAR)
            pixels.append(np.asarray(shown))
    first = pixels[0].shape
    for path, each in zip(paths, pixels, strict=True):
        if each.shape != first:
            raise ValueError(
                f"{path} is {_shape(each.shape)}, and {paths[0]} is {_shape(first)}: make them "
                "alike by --data.size N, and --data.grey where some have colours."
            )
    x = np.stack(pixels)
    x = x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2)
    kinds = [str(path.parent.relative_to(folder)) for path in paths]
    names = sorted(set(kinds))
    labels = {"y": np.array([names.index(kind) for kind in kinds])} if len(names) > 1 else {}
    return {"x": np.ascontiguousarray(x), **labels}


def h5ad(path: Path, label: str | None) -> dict[str, Any]:
    """Return the counts of an AnnData file, sparse where they are, and a column of obs as y."""
    try:
        import anndata
    except ImportError as error:
        raise ValueError(f"{path} needs anndata: pip install 'lowerbound[single-cell]'.") from error
    with reading(path, "an AnnData file with counts X"):
        cells = anndata.read_h5ad(regular(path))
        x: Any = cells.X
        if x is None:
            raise ValueError("it has no X")
        if hasattr(x, "tocsr"):
            x = x.tocsr()
            x = SparseRows(x.indptr, x.indices, x.data, x.shape[1])
    column = label or ("batch" if "batch" in cells.obs else None)
    if column is None:
        return {"x": x}
    if column not in cells.obs:
        raise ValueError(f"{path} has no {column!r} in obs; it has {', '.join(cells.obs.columns)}.")
    import pandas as pd

    return {"x": x, "y": pd.factorize(cells.obs[column], sort=True)[0].astype(np.int64)}


def by_part(found: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return arrays named x_train, y_train, ... as mappings from train, valid and test.

    Raises:
        ValueError: there is no x.
    """
    if "x" in found:
        return {name: found[name] for name in ("x", *BESIDE) if name in found}
    parts = {
        name: {part: found[f"{name}_{part}"] for part in _PARTS if f"{name}_{part}" in found}
        for name in ("x", *BESIDE)
    }
    if not parts["x"]:
        names = ", ".join(found) or "nothing"
        raise ValueError(f"{path} has no x. Expected {ARRAYS}; found {names}.")
    return {name: each for name, each in parts.items() if each}


_PARTS = ("train", "valid", "test")

_SPARSE = ("indptr", "indices", "data", "shape")


def _counts(name: str, names: set[str]) -> bool:
    """Whether an array of a file is one that we read."""
    stem = name.rpartition("_")[0] if name.endswith(tuple(f"_{part}" for part in _PARTS)) else name
    sparse = name.rpartition("_")[2] in _SPARSE
    return stem in ("x", *BESIDE) or sparse or (name == "vocab" and "train_indptr" in names)


def _together(found: dict[str, Any]) -> dict[str, Any]:
    """Put compressed sparse rows together: of x by no prefix, of x_train by train_ or x_train_."""
    dense = {k: v for k, v in found.items() if k.rpartition("_")[2] not in (*_SPARSE, "vocab")}
    for name in [k for k in found if k.endswith("indptr")]:
        prefix = name.removesuffix("indptr")
        stem = prefix.rstrip("_").removeprefix("x_")
        indptr, indices, data = (found[f"{prefix}{each}"] for each in _SPARSE[:3])
        if f"{prefix}shape" in found:
            columns = int(found[f"{prefix}shape"][1])
        elif "vocab" in found:
            columns = len(found["vocab"])
        else:
            columns = 1 + max(
                int(v.max()) for k, v in found.items() if k.endswith("indices") and len(v)
            )
        dense["x" if stem in ("", "x") else f"x_{stem}"] = SparseRows(
            indptr, indices, data, columns
        )
    return dense


def _shape(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]}" + (" in colour" if len(shape) == 3 else " grey")

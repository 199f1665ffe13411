"""Reading data files: arrays of an npz file, torchvision's images, compressed sparse rows."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .files import reading
from .records import Dataset, Split
from .views import View


def data_root(root: Path | None = None) -> Path:
    """Return the folder of the data files: the argument, the environment's, or the user's cache."""
    if root is not None:
        return root
    if named := os.environ.get("LOWERBOUND_DATA"):
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "lowerbound"


def to_dense(rows: list[np.ndarray], columns: int) -> Tensor:
    """Return a compressed sparse matrix (indptr, indices, data) of counts whole, two bytes each."""
    indptr, indices, data = rows
    dense = np.zeros((len(indptr) - 1, columns), np.int16)
    dense[np.repeat(np.arange(len(dense)), np.diff(indptr)), indices] = data
    return torch.from_numpy(dense)


def torchvision_images(name: str, kind: str, root: Path, view: View) -> Dataset:
    """Return a data set of torchvision's; download it unless its files are under the root.

    Raises:
        FileNotFoundError: the files are not there and can't be downloaded.
    """
    import torchvision  # seconds of import time, and it fails with a CPU-only torch build

    def half(train: bool) -> Any:
        try:
            return getattr(torchvision.datasets, kind)(root, train=train, download=True)
        except (RuntimeError, OSError) as error:
            raise FileNotFoundError(
                f"{kind} is not under {root / kind / 'raw'} and could not be downloaded "
                f"({error}). Put its four IDX files there, or name another root with --data_root "
                "or LOWERBOUND_DATA."
            ) from error

    train, test = half(train=True), half(train=False)
    images = with_channel(train.data)
    return Dataset(
        name,
        Split(images[:50_000], view, train.targets[:50_000]),
        Split(images[50_000:], view, train.targets[50_000:]),
        Split(with_channel(test.data), view, test.targets),
        "first 50,000 train, last 10,000 of the training file valid, the 10,000 of the test file",
    )


def read_arrays(path: Path, names: tuple[str, ...]) -> list[np.ndarray]:
    """Read arrays of an npz file, which can't hold code.

    Raises:
        FileNotFoundError: it is not there.
        DamagedError: it can't be read, or lacks one.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there; it should hold the arrays {', '.join(names)}. Put it there, or "
            "name another root with --data_root or LOWERBOUND_DATA."
        )
    expected = f"the arrays {', '.join(names)}"
    with reading(path, expected), np.load(path, allow_pickle=False) as file:
        return [file[name] for name in names]


def with_channel(array: Any) -> Tensor:
    """Return one-channel images (N, 1, height, width)."""
    return torch.as_tensor(array).unsqueeze(1)


def fixed_order(size: int) -> Tensor:
    """Return a permutation that no release of NumPy will change."""
    return torch.from_numpy(np.random.RandomState(0).permutation(size))


def sklearn_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the scans of digits that scikit-learn holds, (1797, 8, 8), 0 to 16, and their labels.

    They are read from its file where it has one, since importing it takes longer than all else.
    """
    found = find_spec("sklearn")
    for folder in found.submodule_search_locations or () if found else ():
        if (file := Path(folder, "datasets", "data", "digits.csv.gz")).is_file():
            table = np.loadtxt(file, delimiter=",")
            return table[:, :-1].reshape(-1, 8, 8).astype(np.uint8), table[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return np.asarray(images, np.uint8).reshape(-1, 8, 8), np.asarray(labels)

"""What was measured of a run, read back from its files."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..files import regular
from .documents import need, read_json


def read_evaluation(path: Path) -> dict[str, Any]:
    """Return the means of an evaluation.

    Raises:
        ValueError: the file is damaged, or holds what no evaluation has.
    """
    found = read_json(path)
    counts = dict.fromkeys(("particles", "repeats", "count", "seed"), int)
    means = dict.fromkeys(("elbo", "log_px", "rate", "distortion", "log_px_se"), (int, float))
    need(found, path, split=str, **counts, **means)
    for name in ("split", "particles", "log_px"):
        if found[name] != found[name]:
            raise ValueError(f"{path}: {name} is nan. Evaluate the run again.")
    return found


def read_values(path: Path) -> dict[str, np.ndarray]:
    """Return the values of each datum of an evaluation, by name.

    Raises:
        ValueError: the file is damaged, or holds what no evaluation has.
    """
    try:
        with np.load(regular(path), allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
        if "log_px" not in found or found["log_px"].ndim != 1:
            raise ValueError("it has no log_px of each datum")
        for name, value in found.items():
            if value.dtype.kind not in "iuf" or (name == "log_px" and np.isnan(value).any()):
                raise ValueError(f"{name} holds no numbers")
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} can't be read: {error}. Evaluate the run again.") from error
    return found

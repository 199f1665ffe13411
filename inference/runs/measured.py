"""What was measured of a run, read back from its files."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ..files import regular
from .documents import need, read_json

LARGEST = 2**30
"""Bytes of the values of an evaluation, unpacked, that are read at all."""

NEEDED = ("log_px", "log_px_mc_se", "elbo", "curve", "steps")
"""Arrays that every evaluation has."""


def read_evaluation(path: Path) -> dict[str, Any]:
    """Return the means of an evaluation.

    Raises:
        ValueError: the file is damaged, or holds what no evaluation has.
    """
    found = read_json(path)
    counts = dict.fromkeys(("particles", "repeats", "count", "seed"), int)
    means = dict.fromkeys(("elbo", "log_px", "rate", "distortion", "log_px_se"), (int, float))
    share = {"k_hat_share_above_0.7": (int, float, type(None))}
    need(found, path, split=str, **counts, **means, **share)
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
        with zipfile.ZipFile(regular(path)) as archive:
            if sum(each.file_size for each in archive.infolist()) > LARGEST:
                raise ValueError("it says that it holds more than an evaluation does")
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
        if lacking := [name for name in NEEDED if name not in found]:
            raise ValueError(f"it has no {lacking[0]}")
        if found["log_px"].ndim != 1 or not found["log_px"].size:
            raise ValueError("log_px has not a value for each datum")
        count, places = len(found["log_px"]), found["steps"].shape
        shapes = dict.fromkeys(("elbo", "rate", "log_px_mc_se", "ess", "k_hat"), (count,))
        for name, shape in {**shapes, "curve": (*places, count)}.items():
            if name in found and found[name].shape != shape:
                raise ValueError(f"{name} has the shape {found[name].shape}, not {shape}")
        if len(places) != 1 or not places[0] or found.get("by_repeat", found["elbo"]).ndim != 1:
            raise ValueError("steps or by_repeat is no list")
        for name, value in found.items():
            if value.dtype.kind not in "iuf" or (name == "log_px" and np.isnan(value).any()):
                raise ValueError(f"{name} holds no numbers")
    except Exception as error:  # of any kind that a damaged archive or header has
        raise ValueError(f"{path} can't be read: {error}. Evaluate the run again.") from error
    return found

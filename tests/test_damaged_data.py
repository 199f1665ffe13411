"""Damaged files of the named data sets: one sentence with the file and what was expected in it."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from inference import load

FILES = {
    "mnist-static": "mnist_static_larochelle/mnist_static_larochelle.npz",
    "omniglot": "omniglot_28x28/omniglot_28x28.npz",
    "frey-faces": "frey_faces/frey_faces.npz",
    "newsgroups": "20newsgroups_etm/20newsgroups_etm.npz",
    "single-cell": "single_cell/mouse_bladder_2100.npz",
}
"""Data sets of one file, and a mnist whose four files follow below."""

NAMES = {
    "mnist-static": ["x_train", "x_valid", "x_test"],
    "omniglot": ["x_background", "x_evaluation"],
    "frey-faces": ["x"],
    "newsgroups": ["vocab", "train_indptr", "train_indices", "train_data"],
    "single-cell": ["indptr", "indices", "data", "shape", "labels"],
}


def arrays(path: Path, names: list[str], value: np.ndarray) -> None:
    np.savez(path, **dict.fromkeys(names, value))  # type: ignore[arg-type]


def claims_terabytes(path: Path, names: list[str]) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (2000000000000,), }"
    member = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + header.ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(f"{name}.npy", member)


def truncated(path: Path, names: list[str]) -> None:
    arrays(path, names, np.zeros((100, 8), np.uint8))
    path.write_bytes(path.read_bytes()[:300])


def flipped(path: Path, names: list[str]) -> None:
    np.savez_compressed(path, **dict.fromkeys(names, np.arange(5000)))  # type: ignore[arg-type]
    bits = bytearray(path.read_bytes())
    bits[len(bits) // 2 // len(names)] ^= 255
    path.write_bytes(bits)


DAMAGE: dict[str, Callable[[Path, list[str]], object]] = {
    "empty": lambda path, names: path.write_bytes(b""),
    "text": lambda path, names: path.write_text("404 not found"),
    "truncated": truncated,
    "flipped": flipped,
    "folder": lambda path, names: path.mkdir(),
    "pipe": lambda path, names: os.mkfifo(path),
    "other arrays": lambda path, names: arrays(path, ["a", "b"], np.zeros(3)),
    "strings": lambda path, names: arrays(path, names, np.array(["a", "b"])),
    "objects": lambda path, names: arrays(path, names, np.array([{}, {}], object)),
    "one number": lambda path, names: arrays(path, names, np.array(3)),
    "no rows": lambda path, names: arrays(path, names, np.zeros((0, 28, 28))),
    "nan": lambda path, names: arrays(path, names, np.full((60, 28, 28), np.nan)),
    "negative": lambda path, names: arrays(path, names, np.full((60, 28, 28), -1)),
    "terabytes": claims_terabytes,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_damage_is_a_sentence(name: str, damage: str, tmp_path: Path) -> None:
    path = tmp_path / FILES[name]
    path.parent.mkdir()
    DAMAGE[damage](path, NAMES[name])
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        load(name, tmp_path)
    said = str(error.value)
    assert str(tmp_path) in said
    assert "xpected" in said or "should hold" in said
    assert "\n" not in said


IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte")


@pytest.mark.parametrize("content", [b"", b"404", b"\x00\x00\x08\x03" + b"\xff" * 12, b"\x00" * 9])
def test_damaged_images_are_a_sentence(content: bytes, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in (*IDX, "t10k-labels-idx1-ubyte"):
        (raw / name).write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match="xpected the whole files of mnist"):
        load("mnist", tmp_path)

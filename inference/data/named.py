"""The data sets by name: where their files are, how they split, how pixels become x."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..nearest import did_you_mean
from .files import reading
from .reading import (
    data_root,
    fixed_order,
    read_arrays,
    sklearn_digits,
    to_dense,
    torchvision_images,
    with_channel,
)
from .records import Dataset, Split
from .views import AnyCounts, Binarised, Binary, View, Words
from .views_levels import Counts, Dequantised, Grey, Levels

FIXED_TEST_SEED = 777
"""Seed of the one draw of valid and test in ``mnist-fixed-test``."""


def load(name: str, root: Path | None = None) -> Dataset:
    """Load a data set on the CPU.

    >>> from inference import load
    >>> data = load("digits")
    >>> len(data.train), data.event_shape
    (1397, (1, 8, 8))

    Args:
        name: one of `DATASETS`.
        root: folder of the files; None takes the environment variable ``LOWERBOUND_DATA``, else
            ``lowerbound`` in the user's cache folder.

    Raises:
        ValueError: the name is unknown.
        FileNotFoundError: a file is missing and can't be downloaded.
        DamagedError: a file is cut, or holds something else.
    """
    if name not in DATASETS:
        raise ValueError(f"Unknown data set {name!r}: {did_you_mean(name, sorted(DATASETS))}")
    folder = data_root(root)
    with reading(
        folder, f"the whole files of {name}; remove those there, and put them there again"
    ):
        found = DATASETS[name](folder)
        if empty := [each for each in ("train", "valid", "test") if not len(found.split(each))]:
            raise ValueError(f"{empty[0]} has no data")
    return found


def digits(_: Path) -> Dataset:
    """8x8 scans of handwritten digits from scikit-learn, re-binarised at each access."""
    return _digits("digits", Binarised(16))


def digits_counts(_: Path) -> Dataset:
    """8x8 scans of handwritten digits from scikit-learn, as ink counts 0..16."""
    return _digits("digits-counts", Counts(16))


def digits_gray(_: Path) -> Dataset:
    """8x8 scans of handwritten digits from scikit-learn, as grey values in [0, 1]."""
    return _digits("digits-gray", Grey(16))


def digits_labelled(_: Path) -> Dataset:
    """8x8 scans of handwritten digits, re-binarised, each with its label: batches (x, y)."""
    return _with_labels("digits-labelled", _digits("digits", Binarised(16)))


def digits_semi(_: Path) -> Dataset:
    """8x8 scans of handwritten digits, re-binarised, 100 of the training labels given."""
    return _with_labels("digits-semi", _digits("digits", Binarised(16)), per_class=10)


def digits_levels(_: Path) -> Dataset:
    """8x8 scans of handwritten digits from scikit-learn, as 17 grey levels."""
    return _digits("digits-levels", Levels(16))


def mnist(root: Path) -> Dataset:
    """MNIST, re-binarised at each access, test too."""
    return torchvision_images("mnist", "MNIST", root, Binarised(255))


def mnist_gray(root: Path) -> Dataset:
    """MNIST as grey values in [0, 1], for continuous likelihoods."""
    return torchvision_images("mnist-gray", "MNIST", root, Grey(255))


def mnist_labelled(root: Path) -> Dataset:
    """MNIST, re-binarised at each access, each image with its label: batches (x, y)."""
    return _with_labels("mnist-labelled", mnist(root))


def mnist_semi(root: Path) -> Dataset:
    """MNIST, re-binarised at each access, 100 of the training labels given: batches (x, y)."""
    return _with_labels("mnist-semi", mnist(root), per_class=10)


def mnist_levels(root: Path) -> Dataset:
    """MNIST as 256 grey levels, for masses of whole levels."""
    return torchvision_images("mnist-levels", "MNIST", root, Levels(255))


def mnist_fixed_test(root: Path) -> Dataset:
    """MNIST, train re-binarised at each access, valid and test drawn once."""
    data = mnist(root)
    generator = torch.Generator().manual_seed(FIXED_TEST_SEED)

    def draw(split: Split) -> Split:
        uniform = torch.rand(split.stored.shape, generator=generator) * 255
        return Split((uniform < split.stored).to(torch.uint8), Binary(), split.labels)

    protocol = (
        f"first 50,000 train, re-binarised at each access; last 10,000 valid and the 10,000 test "
        f"drawn once, seed {FIXED_TEST_SEED}"
    )
    return Dataset("mnist-fixed-test", data.train, draw(data.valid), draw(data.test), protocol)


def mnist_static(root: Path) -> Dataset:
    """MNIST binarised once and for all (Salakhutdinov and Murray 2008; Larochelle's files)."""
    name = "mnist_static_larochelle"
    arrays = read_arrays(root / name / f"{name}.npz", ("x_train", "x_valid", "x_test"))
    train, valid, test = (Split(with_channel(x), Binary()) for x in arrays)
    return Dataset("mnist-static", train, valid, test, "50,000 / 10,000 / 10,000 as in the files")


def fashion_mnist(root: Path) -> Dataset:
    """Fashion-MNIST as grey values in [0, 1]."""
    return torchvision_images("fashion-mnist", "FashionMNIST", root, Grey(255))


def fashion_levels(root: Path) -> Dataset:
    """Fashion-MNIST as 256 grey levels, for masses of whole levels."""
    return torchvision_images("fashion-levels", "FashionMNIST", root, Levels(255))


def fashion_dequantised(root: Path) -> Dataset:
    """Fashion-MNIST as grey values spread over their levels, for densities on (0, 1)."""
    return torchvision_images("fashion-dequantised", "FashionMNIST", root, Dequantised(255))


def omniglot(root: Path) -> Dataset:
    """OMNIGLOT at 28x28, re-binarised at each access; not the pixels of Burda et al."""
    names = ("x_background", "x_evaluation")
    path = root / "omniglot_28x28" / "omniglot_28x28.npz"
    characters = np.concatenate(read_arrays(path, names))  # (1623, 20, 28, 28)
    labels = torch.arange(len(characters))

    def drawers(first: int, last: int) -> tuple[Tensor, Tensor]:
        images = with_channel(characters[:, first:last].reshape(-1, *characters.shape[2:]))
        return images, labels.repeat_interleave(last - first)

    train, test = drawers(0, 15), drawers(15, 20)
    order = fixed_order(len(train[0]))
    train_places, valid_places = order[1345:], order[:1345]
    view = Binarised(255)
    return Dataset(
        "omniglot",
        Split(train[0][train_places], view, train[1][train_places]),
        Split(train[0][valid_places], view, train[1][valid_places]),
        Split(test[0], view, test[1]),
        "all characters: drawers 1-15 train less 1,345 at random for valid, drawers 16-20 test; "
        "re-binarised at each access",
    )


def frey_faces(root: Path) -> Dataset:
    """Frey faces, 28x20, as grey values in [0, 1]."""
    return _frey("frey-faces", root, Grey(255))


def frey_levels(root: Path) -> Dataset:
    """Frey faces, 28x20, as 256 grey levels, for masses of whole levels."""
    return _frey("frey-levels", root, Levels(255))


def frey_dequantised(root: Path) -> Dataset:
    """Frey faces, 28x20, as grey values spread over their levels, for densities on (0, 1)."""
    return _frey("frey-dequantised", root, Dequantised(255))


def newsgroups(root: Path) -> Dataset:
    """20 Newsgroups, bags of 3,072 words, as prepared for the Embedded Topic Model."""
    path = root / "20newsgroups_etm" / "20newsgroups_etm.npz"
    (words,) = read_arrays(path, ("vocab",))

    def split(name: str) -> Split:
        names = tuple(f"{name}_{part}" for part in ("indptr", "indices", "data"))
        return Split(to_dense(read_arrays(path, names), len(words)), Words())

    protocol = "11,214 / 100 / 7,531 documents as in the files, test documents whole"
    return Dataset("newsgroups", split("train"), split("valid"), split("test"), protocol)


def single_cell(root: Path) -> Dataset:
    """Molecule counts of 20,670 genes in cells of a mouse bladder, 16 labels."""
    path = root / "single_cell" / "mouse_bladder_2100.npz"
    indptr, indices, data, shape, labels = read_arrays(
        path, ("indptr", "indices", "data", "shape", "labels")
    )
    counts, kinds = (
        to_dense([indptr, indices, data], int(shape[1])),
        torch.from_numpy(labels).long(),
    )
    order, view = fixed_order(len(counts)), AnyCounts()
    train, valid, test = (
        Split(counts[places], view, kinds[places].long())
        for places in (order[:1700], order[1700:1900], order[1900:])
    )
    protocol = "1,700 / 200 / 200 of the file's order permuted with NumPy's RandomState(0)"
    return Dataset("single-cell", train, valid, test, protocol)


DATASETS: dict[str, Callable[[Path], Dataset]] = {
    "digits": digits,
    "digits-counts": digits_counts,
    "digits-gray": digits_gray,
    "digits-labelled": digits_labelled,
    "digits-levels": digits_levels,
    "digits-semi": digits_semi,
    "fashion-dequantised": fashion_dequantised,
    "fashion-levels": fashion_levels,
    "fashion-mnist": fashion_mnist,
    "frey-dequantised": frey_dequantised,
    "frey-faces": frey_faces,
    "frey-levels": frey_levels,
    "mnist": mnist,
    "mnist-fixed-test": mnist_fixed_test,
    "mnist-gray": mnist_gray,
    "mnist-labelled": mnist_labelled,
    "mnist-levels": mnist_levels,
    "mnist-semi": mnist_semi,
    "mnist-static": mnist_static,
    "newsgroups": newsgroups,
    "omniglot": omniglot,
    "single-cell": single_cell,
}


def _digits(name: str, view: View) -> Dataset:
    images, labels = sklearn_digits()
    images, labels = with_channel(images), torch.from_numpy(labels)
    order = fixed_order(len(images))
    train, valid, test = (
        Split(images[places], view, labels[places])
        for places in (order[:1397], order[1397:1597], order[1597:])
    )
    protocol = "1,397 / 200 / 200 of scikit-learn's order permuted with NumPy's RandomState(0)"
    return Dataset(name, train, valid, test, protocol)


def _with_labels(name: str, data: Dataset, per_class: int | None = None) -> Dataset:
    """Return the data with their labels in the batches, -1 for one that is not given.

    Args:
        name: of the new data set.
        data: whose splits have labels 0, 1, ...
        per_class: how many labels of each class are given, the first in the order of train, and
            none of valid and test, where log p(x) is wanted; None gives all.
    """

    def told(split: Split, count: int | None) -> Split:
        labels = split.labels
        if labels is None:
            raise ValueError(f"{data.name} has no labels.")
        if count is None:
            return replace(split, given=(labels,))
        number = F.one_hot(labels).cumsum(0).gather(1, labels.unsqueeze(1)).squeeze(1)
        return replace(split, given=(labels.where(number <= count, -1),))

    if per_class is None:
        counts, said = (None, None, None), "all labels given"
    else:
        counts = (per_class, 0, 0)
        said = f"labels of the first {per_class} training data of each class given, no others"
    train, valid, test = map(told, (data.train, data.valid, data.test), counts)
    return Dataset(name, train, valid, test, f"{data.protocol}; {said}")


def _frey(name: str, root: Path, view: View) -> Dataset:
    (frames,) = read_arrays(root / "frey_faces" / "frey_faces.npz", ("x",))
    parts = (slice(1565), slice(1565, 1765), slice(1765, None))
    train, valid, test = (Split(with_channel(frames[part]), view) for part in parts)
    protocol = "frames in video order, 1,565 / 200 / 200: neighbours are near-duplicates"
    return Dataset(name, train, valid, test, protocol)

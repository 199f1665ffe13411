"""The named sets as a table, without loading any."""

from typing import NamedTuple

from .named import DATASETS
from .views import AnyCounts, Binarised, Binary, View, Words
from .views_levels import Counts, Dequantised, Grey, Levels


class Listed(NamedTuple):
    """What is known of a named set before it is loaded.

    Args:
        event_shape: of a datum.
        sizes: of train, valid and test.
        view: how stored values become x.
        origin: where its files come from.
    """

    event_shape: tuple[int, ...]
    sizes: tuple[int, int, int]
    view: View
    origin: str


_DIGITS = (1, 8, 8), (1397, 200, 200), "scikit-learn"
_MNIST = (1, 28, 28), (50_000, 10_000, 10_000), "downloaded, or MNIST/raw"
_FASHION = (1, 28, 28), (50_000, 10_000, 10_000), "downloaded, or FashionMNIST/raw"
_FREY = (1, 28, 20), (1565, 200, 200), "frey_faces/frey_faces.npz"


def _of(family: tuple[tuple[int, ...], tuple[int, int, int], str], view: View) -> Listed:
    shape, sizes, origin = family
    return Listed(shape, sizes, view, origin)


LISTED = {
    "digits": _of(_DIGITS, Binarised(16)),
    "digits-counts": _of(_DIGITS, Counts(16)),
    "digits-gray": _of(_DIGITS, Grey(16)),
    "digits-labelled": _of(_DIGITS, Binarised(16)),
    "digits-levels": _of(_DIGITS, Levels(16)),
    "digits-semi": _of(_DIGITS, Binarised(16)),
    "fashion-dequantised": _of(_FASHION, Dequantised(255)),
    "fashion-levels": _of(_FASHION, Levels(255)),
    "fashion-mnist": _of(_FASHION, Grey(255)),
    "frey-dequantised": _of(_FREY, Dequantised(255)),
    "frey-faces": _of(_FREY, Grey(255)),
    "frey-levels": _of(_FREY, Levels(255)),
    "mnist": _of(_MNIST, Binarised(255)),
    "mnist-fixed-test": _of(_MNIST, Binarised(255)),
    "mnist-gray": _of(_MNIST, Grey(255)),
    "mnist-labelled": _of(_MNIST, Binarised(255)),
    "mnist-levels": _of(_MNIST, Levels(255)),
    "mnist-semi": _of(_MNIST, Binarised(255)),
    "mnist-static": _of(
        (_MNIST[0], _MNIST[1], "mnist_static_larochelle/mnist_static_larochelle.npz"), Binary()
    ),
    "newsgroups": _of(
        ((3072,), (11_214, 100, 7531), "20newsgroups_etm/20newsgroups_etm.npz"), Words()
    ),
    "omniglot": _of(
        ((1, 28, 28), (23_000, 1345, 8115), "omniglot_28x28/omniglot_28x28.npz"), Binarised(255)
    ),
    "single-cell": _of(
        ((20_670,), (1700, 200, 200), "single_cell/mouse_bladder_2100.npz"), AnyCounts()
    ),
}


def listing() -> str:
    """Return a line for each named set: name, x, sizes, unit, and where its files come from."""
    rows = [("name", "x", "train / valid / test", "log p(x) in", "from")]
    for name in DATASETS:
        one = LISTED[name]
        shape = "x".join(map(str, one.event_shape))
        sizes = " / ".join(f"{size:,}" for size in one.sizes)
        rows.append((name, shape, sizes, one.view.unit, one.origin))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )

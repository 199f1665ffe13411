"""Data: records, views, and the sets by name. They know tensors and files."""

from .named import DATASETS, data_root, load
from .records import Dataset, Split
from .views import AnyCounts, AsIs, Binarised, Binary, View, Words
from .views_levels import Counts, Dequantised, Grey, Levels, bits_per_dim

__all__ = [
    "DATASETS",
    "AnyCounts",
    "AsIs",
    "Binarised",
    "Binary",
    "Counts",
    "Dataset",
    "Dequantised",
    "Grey",
    "Levels",
    "Split",
    "View",
    "Words",
    "bits_per_dim",
    "data_root",
    "load",
]

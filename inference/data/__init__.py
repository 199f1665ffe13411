"""Data: records, views, sets by name, files. They know tensors and files."""

from .arrays import default_view
from .named import DATASETS, data_root, load
from .records import Dataset, Split
from .rows import MappedRows
from .sources import Source, open_data
from .sparse import SparseRows
from .standardised import Standardised
from .streams import Stream, Streams
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
    "MappedRows",
    "Source",
    "SparseRows",
    "Split",
    "Standardised",
    "Stream",
    "Streams",
    "View",
    "Words",
    "bits_per_dim",
    "data_root",
    "default_view",
    "load",
    "open_data",
]

"""Capture: a function of tensors as one graph, replayed or compiled. It knows tensors alone."""

from ..precision import Precision
from .captured_pass import CapturedPass
from .products import MatrixProducts
from .tracing import Compile, NotCapturable, capture

__all__ = [
    "CapturedPass",
    "Compile",
    "MatrixProducts",
    "NotCapturable",
    "Precision",
    "capture",
]

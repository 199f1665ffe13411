"""Capture: a function of tensors as one graph, replayed or compiled. It knows tensors alone."""

from ..precision import Precision
from .backends import Backend, Graph, Inductor
from .captured_pass import CapturedPass
from .choosing import Compile, Setting, choose
from .products import MatrixProducts
from .tracing import NotCapturable, capture

__all__ = [
    "Backend",
    "CapturedPass",
    "Compile",
    "Graph",
    "Inductor",
    "MatrixProducts",
    "NotCapturable",
    "Precision",
    "Setting",
    "capture",
    "choose",
]

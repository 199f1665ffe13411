"""Amortized guides q(z|x) and their parts: encoders and posterior families."""

from .amortized import Amortized
from .counts import LogMLP
from .families import DiagonalNormal, Family
from .networks import MLP, Encoder

__all__ = ["MLP", "Amortized", "DiagonalNormal", "Encoder", "Family", "LogMLP"]

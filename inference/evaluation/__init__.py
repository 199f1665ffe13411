"""Evaluation: bounds, annealing, gaps, diagnostics, drawing. It knows objectives, capture, data."""

from .annealing import Annealed, ais, bdmc
from .bounds import evaluate
from .diagnostics import Diagnostics, SiteDiagnostics, diagnose
from .gaps import inference_gaps
from .generate import encode, interpolations, prior_samples, reconstructions
from .validation import Validation, Validator

__all__ = [
    "Annealed",
    "Diagnostics",
    "SiteDiagnostics",
    "Validation",
    "Validator",
    "ais",
    "bdmc",
    "diagnose",
    "encode",
    "evaluate",
    "inference_gaps",
    "interpolations",
    "prior_samples",
    "reconstructions",
]

"""Evaluation: bounds, annealing, gaps, diagnostics, drawing. It knows objectives, capture, data."""

from .annealing import Annealed, ais, bdmc
from .bounds import evaluate
from .diagnostics import Diagnostics, SiteDiagnostics, diagnose
from .gaps import inference_gaps
from .generate import (
    decode,
    encode,
    interpolations,
    posterior_means,
    prior_samples,
    reconstructions,
)
from .imputation import Imputation, impute
from .validation import Validation, Validator

__all__ = [
    "Annealed",
    "Diagnostics",
    "Imputation",
    "SiteDiagnostics",
    "Validation",
    "Validator",
    "ais",
    "bdmc",
    "decode",
    "diagnose",
    "encode",
    "evaluate",
    "impute",
    "inference_gaps",
    "interpolations",
    "posterior_means",
    "prior_samples",
    "reconstructions",
]

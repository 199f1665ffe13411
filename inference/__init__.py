"""Inference on pairs of Pyro programs: log weights, objectives, SVI, evaluation, runs, data.

Its rooms import one way, each only those before it: ``references`` (what programs refer to), the
core in this folder (it reads two programs), ``check`` (their faults), ``capture`` (graphs of tensor
operations), ``objectives`` (bounds and gradient estimators), ``data`` (records, views, named sets),
``evaluation`` (bounds, annealing, gaps, diagnostics), ``training`` (SVI, `fit`, traces, schedules),
``runs`` (the directory, comparison, pictures).
"""

from . import objectives
from .capture import Compile, Precision
from .check import Finding, check
from .data import Dataset, Split, load
from .data_plate import DataSize
from .evaluation import diagnose, evaluate
from .kl_weight import KLWeight
from .log_weights import LogWeights, log_weights
from .objectives import *  # noqa: F403  (a new one is exported there alone)
from .runs import OpenRun, Run, load_run, load_runs
from .training import (
    SVI,
    Constant,
    Cosine,
    Cyclic,
    Exponential,
    Linear,
    Observer,
    Schedule,
    Trace,
    fit,
)

__version__ = "0.2.0"

__all__ = [
    "SVI",
    "Compile",
    "Constant",
    "Cosine",
    "Cyclic",
    "DataSize",
    "Dataset",
    "Exponential",
    "Finding",
    "KLWeight",
    "Linear",
    "LogWeights",
    "Observer",
    "OpenRun",
    "Precision",
    "Run",
    "Schedule",
    "Split",
    "Trace",
    "check",
    "diagnose",
    "evaluate",
    "fit",
    "load",
    "load_run",
    "load_runs",
    "log_weights",
]
__all__ += objectives.__all__

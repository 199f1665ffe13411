"""Runs: the directory, pictures, comparison. They know all the rest."""

from .comparison import compare
from .facts import environment
from .figures import save_curve, save_trace
from .frames import Comparison, load_runs
from .gallery import save_pictures
from .loading import load_run
from .opened import OpenRun
from .run import Run, restore

__all__ = [
    "Comparison",
    "OpenRun",
    "Run",
    "compare",
    "environment",
    "load_run",
    "load_runs",
    "restore",
    "save_curve",
    "save_pictures",
    "save_trace",
]

"""Runs: the directory, pictures, comparison. They know all the rest."""

from .comparison import compare
from .figures import save_curve, save_trace
from .gallery import save_pictures
from .run import Run, environment, restore

__all__ = [
    "Run",
    "compare",
    "environment",
    "restore",
    "save_curve",
    "save_pictures",
    "save_trace",
]

"""Training: SVI, its steps, `fit`, traces, schedules. It knows everything but runs."""

from .loop import Interrupted, fit
from .schedules import Constant, Cyclic, Linear, Schedule
from .svi import SVI
from .trace import Row, Trace

__all__ = [
    "SVI",
    "Constant",
    "Cyclic",
    "Interrupted",
    "Linear",
    "Row",
    "Schedule",
    "Trace",
    "fit",
]

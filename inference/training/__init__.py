"""Training: SVI, its steps, `fit`, traces, schedules, observers. It knows everything but runs."""

from .boards import TensorBoard
from .interrupts import Interrupted
from .loop import fit
from .observers import Observer, Plan, Record
from .scheduled import Scheduled
from .schedules import Constant, Cosine, Cyclic, Exponential, Linear, Schedule
from .selection import Select
from .svi import SVI
from .trace import Row, Trace

__all__ = [
    "SVI",
    "Constant",
    "Cosine",
    "Cyclic",
    "Exponential",
    "Interrupted",
    "Linear",
    "Observer",
    "Plan",
    "Record",
    "Row",
    "Schedule",
    "Scheduled",
    "Select",
    "TensorBoard",
    "Trace",
    "fit",
]

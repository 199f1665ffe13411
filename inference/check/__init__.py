"""Check: the faults of a pair in words. It reads two programs, and knows no objective."""

from .pair import Finding, View, check
from .units import unit_of

__all__ = ["Finding", "View", "check", "unit_of"]

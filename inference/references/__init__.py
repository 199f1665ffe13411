"""References: what programs refer to, and whether it has changed. It knows no statement of Pyro's.

>>> from functools import partial
>>> from inference.references import modules
>>> from torch import nn
>>> list(modules(partial(nn.Linear(2, 1))).values())
[Linear(in_features=2, out_features=1, bias=True)]
"""

from .reachable import Reachable
from .reads import Reads, modules

__all__ = ["Reachable", "Reads", "modules"]

"""Looking at a pair without leaving parameters behind."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyro

from .programs import Program
from .stores import param_store


@contextmanager
def borrowed_parameters(model: Program) -> Iterator[None]:
    """Put the parameter store of this model back as it was.

    A program draws the values that its `pyro.param`s start from as it first comes to them: those
    drawn while it is only looked at, under a fixed seed, would be the same for every seed.
    """
    with param_store(model):
        before = pyro.get_param_store().get_state()
    try:
        yield
    finally:
        with param_store(model):
            pyro.get_param_store().clear()  # set_state adds to what is there
            pyro.get_param_store().set_state(before)

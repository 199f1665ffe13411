"""Handlers that give Pyro's own ELBOs the scales of a mean over data, or none."""

from collections.abc import Collection
from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from ..sites import subsampled


class Shared(Messenger):
    """Scale some sites, as their terms are shared between more data than a batch has.

    Args:
        names: of the sites.
        part: what to multiply their terms by.
    """

    def __init__(self, names: Collection[str], part: float) -> None:
        super().__init__()
        self.names, self.part = names, part

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.names:
            msg["scale"] = msg["scale"] * self.part


class Unscaled(Messenger):
    """Undo what ``poutine.scale`` does in a program; what plates scale stays."""

    def _pyro_sample(self, msg: Any) -> None:
        if not site_is_subsample(msg):
            msg["scale"] = subsampled(msg["cond_indep_stack"])

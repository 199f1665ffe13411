"""What programs read besides their arguments: modules, and whether anything of it has changed."""

from collections.abc import Callable
from types import MethodType
from typing import Any

import numpy as np
from torch import Tensor, nn

from .attributes import new_attribute
from .functions import ABSENT, contents
from .reachable import MOST, MOST_BYTES, PLAIN, Reachable, memory, pairs


def modules(program: Callable[..., Any]) -> dict[str, nn.Module]:
    """Return the outermost modules that a program is, is a method of, or refers to.

    They are found through partials, handlers, decorators, closures, defaults, globals that its code
    names, attributes of objects, containers, and the functions that it calls in turn; never inside
    torch, Pyro, NumPy or the standard library.

    Args:
        program: a model or a guide.

    Returns:
        The modules by the place where they are found, the same in each process: ``""`` for the
        program itself or the owner of a method, ``decoder`` for what its code calls so.
    """
    found = Reachable([("", program)]).modules
    inside = {id(m) for root in found.values() for m in root.modules() if m is not root}
    return {name: module for name, module in found.items() if id(module) not in inside}


class Reads:
    """A snapshot of all that programs read besides their arguments.

    Numbers and strings are compared by value, tensors, modules and functions by identity, small
    containers by their items, small NumPy arrays by content, random generators by their state. A
    tensor also counts as changed when it is frozen, unfrozen, or given another memory. What torch
    and Pyro keep for themselves is left out.

    Args:
        *programs: the model, the guide, the objective, the source of the data; they name the
            places.
    """

    def __init__(self, *programs: Callable[..., Any]) -> None:
        extra = (f"program {place}" for place in range(5, len(programs) + 1))
        labels = ("model", "guide", "objective", "source", *extra)
        self._roots = [*zip(labels, programs, strict=False)]
        self._read()

    def _read(self) -> None:
        found = Reachable(self._roots)
        self._items, self._cells, self._slots = found.items, found.cells, found.slots
        self._sizes, self._states, self._tensors = found.sizes, found.states, found.tensors

    def tensors(self) -> list[tuple[Tensor, str]]:
        """Return the tensors that are read, each with its place."""
        return [(tensor, place) for tensor, *_, place in self._tensors]

    def changed(self) -> str | None:
        """Return the place of the first thing that has changed; None if nothing has."""
        anew = False
        for container, key, value, place in self._items:
            try:
                now = container[key]
            except (LookupError, TypeError):  # it is gone
                return place
            if now is not value:
                if not _same(now, value):
                    return place
                anew = anew or not isinstance(now, PLAIN)
        for cell, value, place in self._cells:
            now = contents(cell)
            if now is not value:
                if not _same(now, value):
                    return place
                anew = anew or not isinstance(now, PLAIN)
        for owner, name, value, place in self._slots:
            now = getattr(owner, name, ABSENT)
            if now is not value and not _same(now, value):
                return place
        for tensor, learns, where, place in self._tensors:
            if tensor.requires_grad is not learns or memory(tensor) != where:
                return place
        for state, value, place in self._states:
            if state() != value:
                return place
        for container, size, place, owner in self._sizes:
            if len(container) != size:
                name = None if owner is None else new_attribute(owner, container, self._items)
                if owner is None or name is not None:
                    return f"{place}.{name}" if name else place
        if anew:  # an equal container in the place of another: its items count from now on
            self._read()
        return None


def _same(now: Any, then: Any, depth: int = 3) -> bool:
    """Whether a value that is found again equals the old one."""
    if now is then:
        return True
    if type(now) is not type(then):
        return False
    if isinstance(now, PLAIN):
        return now == then or (now != now and then != then)  # nan
    if isinstance(now, MethodType):
        return now.__self__ is then.__self__ and now.__func__ is then.__func__
    if isinstance(now, np.ndarray):
        return (
            now.nbytes <= MOST_BYTES and now.shape == then.shape and now.tobytes() == then.tobytes()
        )
    if isinstance(now, set | frozenset):
        return len(now) <= MOST and now == then
    if isinstance(now, list | tuple | dict) and depth and len(now) == len(then) <= MOST:
        both = zip(pairs(now), pairs(then), strict=True)
        return all(a == b and _same(v, w, depth - 1) for (a, v), (b, w) in both)
    return False

"""Whose parameters are whose: the module of a program, and its store of Pyro's parameters."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import pyro
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import constraints

Program = Callable[..., Any]
"""A model or a guide: a callable on the batch that makes Pyro's statements."""


def owner(program: Program) -> nn.Module | None:
    """Return the module that a program is, or is a method of; None for a plain function."""
    module = getattr(program, "__self__", program)
    return module if isinstance(module, nn.Module) else None


def unwrapped(program: Program) -> Program:
    """Return the program inside partials and handlers, as in ``poutine.scale(model, 0.5)``."""
    while owner(program) is None:
        if isinstance(program, partial):
            handled = bool(program.args) and isinstance(program.args[0], Messenger)
            inside: Any = program.args[1] if handled else program.func
        else:  # poutine.reparam and poutine.trace have handlers of their own; AutoReparam decorates
            inside = getattr(program, "__wrapped__", getattr(program, "fn", None))
        if not callable(inside):
            break
        program = inside
    return program


_stores: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()


@contextmanager
def param_store(model: Program) -> Iterator[None]:
    """Run with the Pyro parameter store of this model.

    A module has a store of its own, so that two pairs in one process never meet in Pyro's global
    one, which would hand the parameters of the first to the second where their names are equal. A
    plain function has no other home for its parameters than the global store.
    """
    module = owner(model)
    with _keeping_frozen():
        if module is None:
            yield
            return
        with pyro.get_param_store().scope(_store(module)):
            yield


def stored(model: Program) -> Mapping[str, Tensor]:
    """Return what the parameter store of this model holds, unconstrained, by name."""
    module = owner(model)
    if module is None:
        return dict(pyro.get_param_store().named_parameters())
    return _store(module)["params"]


def _store(module: nn.Module) -> Any:
    return _stores.setdefault(module, {"params": {}, "constraints": {}})


@contextmanager
def _keeping_frozen() -> Iterator[None]:
    """Keep a frozen ``nn.Parameter`` frozen when Pyro stores it.

    Pyro sets ``requires_grad`` of whatever it stores, even if a PyroModule only announces a
    parameter of its own. A plain tensor is an initial value and learns.
    """
    store = pyro.get_param_store()
    plain = store.setdefault

    def setdefault(name: str, value: Any, constraint: Any = constraints.real) -> Tensor:
        fixed = isinstance(value, nn.Parameter) and not value.requires_grad
        if not fixed or name in store:
            return plain(name, value, constraint)
        made: Any = plain(name, value, constraint)
        made.unconstrained().requires_grad_(False)
        return store[name]

    vars(store)["setdefault"] = setdefault  # of the instance: `pyro.param` asks it
    try:
        yield
    finally:
        if getattr(plain, "__self__", None) is store:
            del vars(store)["setdefault"]
        else:
            vars(store)["setdefault"] = plain  # one of these contexts is around this one

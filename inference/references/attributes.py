"""Attributes: those that a program's author gives an object, and those that others keep there."""

import sys
from collections.abc import Iterable, Mapping
from types import FunctionType
from typing import Any

from pyro.nn import PyroModule
from torch import nn
from torch.distributions import Distribution, Transform

_FOREIGN = {"torch", "pyro", "numpy", "scipy", "builtins", *sys.stdlib_module_names} - {"__main__"}
_KEPT_BY_TORCH = {*vars(PyroModule())} - {"training"}


def new_attribute(
    owner: Any, held: Mapping[str, Any], items: Iterable[tuple[Any, Any, Any, str]]
) -> str | None:
    """Return an attribute that an object or a class has beside those remembered.

    Lazy properties and what Python keeps for a class are left out.

    Args:
        owner: whose attributes they are.
        held: the attributes.
        items: those remembered: container, key, value and place.
    """
    known = {key for container, key, *_ in items if container is held}
    for name in held.keys() - known:
        if isinstance(owner, type):
            if is_own(name):
                return name
        elif not kept_by_torch(owner, name) and not is_lazy(type(owner), name):
            return name
    return None


def is_own(name: str) -> bool:
    """Whether a class has an attribute of that name from its author, not from Python."""
    return name == "__call__" or not name.startswith(("__", "_abc_"))


def kept_by_torch(owner: Any, name: str) -> bool:
    """Whether torch or Pyro keeps that attribute of an object for itself."""
    if isinstance(owner, nn.Module) and name in _KEPT_BY_TORCH:
        return True
    if isinstance(owner, Transform | Distribution) and (
        name == "_inv" or name.startswith("_cached")
    ):
        return True
    return name.startswith("_pyro_")


def is_lazy(cls: type, name: str) -> bool:
    """Whether the class makes that attribute when it is first read, and keeps it."""
    made = getattr(cls, name, None) if name not in vars(cls) else vars(cls)[name]
    kind = type(made)
    lazy = hasattr(kind, "__get__") and not hasattr(kind, "__set__")
    return lazy and not isinstance(made, FunctionType)


def slots_of(cls: type) -> list[str]:
    """Return the names of the slots that a class and its bases declare."""
    found: list[str] = []
    for each in cls.__mro__:
        slots = () if is_foreign(each) else vars(each).get("__slots__", ())
        found += [slots] if isinstance(slots, str) else [*slots]
    return [name for name in found if not name.startswith("__")]


def is_foreign(value: Any) -> bool:
    """Whether a class or function is of torch, Pyro, NumPy or the standard library."""
    return is_foreign_name(getattr(value, "__module__", None) or "")


def is_foreign_name(module: str) -> bool:
    """Whether a module of that name is one of those."""
    return module.split(".")[0] in _FOREIGN

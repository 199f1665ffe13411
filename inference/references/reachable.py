"""What can be reached from programs: modules, attributes, closures, globals, tensors, by place."""

import random
import sys
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from inspect import getattr_static
from itertools import chain, count
from types import CellType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from .attributes import is_foreign, is_foreign_name, is_own, kept_by_torch, slots_of
from .functions import ABSENT, contents, defaults_of, functions_of, names_of

MOST = 64
"""Items up to which a container is looked into; of a longer one, its length is known."""

MOST_BYTES = 1 << 13
"""Bytes up to which a NumPy array is known by content; a larger one by identity."""

PLAIN = (bool, int, float, complex, str, bytes, type(None), range, slice, torch.dtype, torch.device)
"""Types of values that are the same where they are equal."""

_OURS = __name__.rsplit(".", 2)[0] + "."
"""The package around this room: what an objective calls of it has caches of its own."""
_SIMPLE = (*PLAIN, FunctionType, list, tuple, dict)
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks")


class Reachable:
    """Everything that can be reached from some programs, breadth first, as it is now.

    Args:
        roots: programs by their names.

    Attributes:
        modules: by place.
        items: container, key, value and place.
        cells: of closures: cell, contents and place.
        slots: owner, attribute, value and place, of what is in no container.
        sizes: container, number of items, place, and the object whose attributes they are.
        states: function that reads the state of an object, the state and the place.
        tensors: tensor, whether it requires a gradient, where its memory is, and the place.
    """

    def __init__(self, roots: Sequence[tuple[str, Any]]) -> None:
        self.modules: dict[str, nn.Module] = {}
        self.items: list[tuple[Any, Any, Any, str]] = []
        self.cells: list[tuple[CellType, Any, str]] = []
        self.slots: list[tuple[Any, str, Any, str]] = []
        self.sizes: list[tuple[Any, int, str, Any]] = []
        self.states: list[tuple[Callable[[], Any], Any, str]] = []
        self.tensors: list[tuple[Tensor, bool, int, str]] = []
        self._next: deque[tuple[str, Any]] = deque(roots)
        self._seen: dict[int, Any] = {}  # holds them, so that no identity is used twice
        self._globals: set[tuple[int, str]] = set()
        while self._next:
            path, value = self._next.popleft()
            if not isinstance(value, PLAIN) and id(value) not in self._seen:
                self._seen[id(value)] = value
                self._visit(path, value)

    def _go(self, path: str, name: Any, value: Any) -> None:
        self._next.append((".".join(filter(None, (path, str(name)))), value))

    def _item(
        self, container: Any, key: Any, value: Any, path: str, place: str | None = None
    ) -> None:
        """Remember one item, and look into it later."""
        self.items.append(
            (container, key, value, place or ".".join(filter(None, (path, str(key)))))
        )
        self._go(path, key, value)

    def _visit(self, path: str, value: Any) -> None:
        if isinstance(value, nn.Module):
            self._module(path, value)
        elif isinstance(value, Tensor):
            self.tensors.append((value, value.requires_grad, memory(value), path))
        elif isinstance(value, partial):
            self._next.append((path, value.func))  # the parts of a partial are fixed
            for name, part in (*enumerate(value.args), *value.keywords.items()):
                # Pyro's handlers are partials of a function of its own.
                self._go("", path, part) if is_foreign(value.func) else self._go(path, name, part)
        elif isinstance(value, MethodType):
            self._next += [(path, value.__self__), (path, value.__func__)]
        elif isinstance(value, FunctionType):
            self._function(path, value)
        elif isinstance(value, type):
            self._class(path, value)
        elif isinstance(value, Mapping | list | tuple | deque | set | frozenset):
            self._container(path, value)
        elif state := _state(value):
            self.states.append((state, state(), path))
        elif callable(value) and (wrapped := getattr_static(value, "__wrapped__", None)):
            self._next.append((path, wrapped))  # not one that __getattr__ makes anew at each look
        elif isinstance(value, Messenger):
            for name, held in vars(value).items():
                if name[0] != "_" and isinstance(held, (*PLAIN, Tensor, dict, list, tuple)):
                    self._item(vars(value), name, held, path)
        elif not isinstance(value, ModuleType):
            self._object(path, value)

    def _module(self, path: str, module: nn.Module) -> None:
        self.modules.setdefault(_free(path, self.modules), module)
        for held in (module._parameters, module._buffers, module._modules):  # noqa: SLF001
            self.sizes.append((held, len(held), path, None))
            for name, value in held.items():
                self._item(held, name, value, path)
        for name in _HOOKS:
            hooks = getattr(module, name)
            self.sizes.append((hooks, len(hooks), f"{path}.{name}", None))
            for hook in hooks.values():
                self._go(path, name, hook)
        if isinstance(module, PyroModule):
            for held in (module._pyro_params, module._pyro_samples):  # noqa: SLF001
                self.sizes.append((held, len(held), path, None))
                for name, value in held.items():
                    self._item(held, name, value, path)
        self._object(path, module)

    def _object(self, path: str, value: Any) -> None:
        foreign = is_foreign(type(value)) and not isinstance(value, SimpleNamespace | Namespace)
        if foreign and not isinstance(value, nn.Module):
            if type(value).__module__.startswith("pyro.") and callable(value):
                self._next.append((path, getattr(value, "fn", None)))  # as of poutine.trace(fn)
            return
        held = getattr(value, "__dict__", {})
        for name, attribute in held.items():
            if kept_by_torch(value, name):
                continue
            if foreign and (name[0] == "_" or not isinstance(attribute, _SIMPLE)):
                continue
            self._item(held, name, attribute, path)
        if foreign:
            return
        if held:
            self.sizes.append((held, len(held), path, value))
        for name in slots_of(type(value)):
            attribute = getattr(value, name, ABSENT)
            self.slots.append((value, name, attribute, f"{path}.{name}"))
            self._go(path, name, attribute)
        self._class(path, type(value))

    def _class(self, path: str, cls: type) -> None:
        for each in cls.__mro__:
            if is_foreign(each) or (each is not cls and id(each) in self._seen):
                continue
            self._seen[id(each)] = each
            held = vars(each)
            self.sizes.append((held, len(held), each.__name__, each))
            for name, value in held.items():
                if is_own(name):
                    self.items.append((held, name, value, f"{each.__name__}.{name}"))
                    for inner in functions_of(value):
                        self._go(path, name, inner)

    def _container(self, path: str, value: Any) -> None:
        self.sizes.append((value, len(value), path, None))
        if len(value) > MOST:
            if any(isinstance(v, nn.Module) for _, v in pairs(value)):
                self._next += ((f"{path}.{k}", v) for k, v in pairs(value))
        elif isinstance(value, set | frozenset):
            if all(isinstance(item, PLAIN) for item in value):
                self.states.append((partial(set, value), set(value), path))
        else:
            for key, item in pairs(value):
                self._item(value, key, item, path, f"{path}[{key!r}]")

    def _function(self, path: str, function: FunctionType) -> None:
        home = function.__globals__.get("__name__", "")
        foreign = is_foreign_name(home) or f"{home}.".startswith(_OURS)
        label = path or function.__qualname__
        names, cells = function.__code__.co_freevars, function.__closure__ or ()
        for name, cell in zip(names, cells, strict=True):
            value = contents(cell)
            if not foreign:
                self.cells.append((cell, value, f"closure {name!r} of {label}"))
            if not foreign or callable(value):
                self._go("" if foreign else path, path if foreign else name, value)
        if wrapped := getattr(function, "__wrapped__", None):
            self._next.append((path, wrapped))
        if foreign:
            return
        for name in ("__code__", "__defaults__", "__kwdefaults__"):
            if (value := getattr(function, name)) is not None:
                self.slots.append((function, name, value, f"{name.strip('_')} of {label}"))
        for name, value in defaults_of(function):
            self._go(path, name, value)
        for name, value in (function.__kwdefaults__ or {}).items():
            place = f"default {name!r} of {label}"
            self._item(function.__kwdefaults__, name, value, path, place)
        for key, value in vars(function).items():
            if key != "__wrapped__":
                self._item(vars(function), key, value, label)
        self._named(path, label, function)

    def _named(self, path: str, label: str, function: FunctionType) -> None:
        """Go on to the globals that a function's code names, and to what it takes from modules."""
        names, attributes, imported = names_of(function.__code__)
        held = function.__globals__
        for name in filter(str.isidentifier, names):  # pytest writes @pytest_ar into an assert
            value = held.get(name, ABSENT)
            if isinstance(value, ModuleType):
                self._from_module(value, attributes, path, name, label)
            elif value is not ABSENT:
                self._global(held, name, path, name, label)
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        within = {name: contents(cell) for name, cell in cells}
        package = held.get("__package__")
        for name in imported:  # relative to its package, or not
            within[name] = sys.modules.get(f"{package}.{name}") or sys.modules.get(name)
        for name, value in within.items():
            if isinstance(value, ModuleType):
                self._from_module(value, attributes, path, name, label)

    def _from_module(
        self, module: ModuleType, attributes: Sequence[str], path: str, name: str, label: str
    ) -> None:
        """Go on to what code names of a module, and of modules in it: ``package.settings.x``."""
        if is_foreign_name(module.__name__) or f"{module.__name__}.".startswith(_OURS):
            return
        for attribute in attributes:
            value, place = vars(module).get(attribute, ABSENT), f"{name}.{attribute}"
            if isinstance(value, ModuleType):
                if place.count(".") < 3:
                    self._from_module(value, attributes, path, place, label)
            elif value is not ABSENT:
                self._global(vars(module), attribute, path, place, label)

    def _global(self, held: dict[str, Any], key: str, path: str, name: str, label: str) -> None:
        value = held[key]
        if (id(held), key) not in self._globals:
            self._globals.add((id(held), key))
            self.items.append((held, key, value, f"global {name!r} of {label}"))
        self._go(path, name, value)


def pairs(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the keys or places of a container, each with its item."""
    yield from value.items() if isinstance(value, Mapping) else enumerate(value)


def _state(value: Any) -> Callable[[], Any] | None:
    """Return what reads the state of an object that changes in itself."""
    if isinstance(value, np.ndarray) and value.nbytes <= MOST_BYTES and value.dtype != object:
        return value.tobytes
    if isinstance(value, np.random.Generator):
        return lambda: repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return lambda: repr(value.get_state(legacy=False))
    if isinstance(value, random.Random):
        return value.getstate
    return partial(repr, value) if isinstance(value, count) else None


def memory(tensor: Tensor) -> int:
    """Return where a tensor keeps its values; 0 for one without memory of its own."""
    try:
        return tensor.data_ptr()
    except (RuntimeError, ValueError):  # the latter of a lazy module's, before its first run
        return 0


def _free(path: str, taken: Mapping[str, Any]) -> str:
    names = chain([path], (f"{path}-{number}" for number in count(2)))
    return next(name for name in names if name not in taken)

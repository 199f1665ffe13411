"""Functions looked into: the names in their code, their closures, what a class makes of them."""

import dis
from collections.abc import Iterator
from functools import cached_property, lru_cache
from types import CellType, CodeType, FunctionType
from typing import Any

ABSENT: Any = object()
"""In the place of a value that is not there."""

_GLOBALS = ("LOAD_GLOBAL", "LOAD_NAME")
_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM")
_IMPORTS = ("IMPORT_NAME",)


@lru_cache(maxsize=4096)
def names_of(code: CodeType) -> tuple[tuple[str, ...], ...]:
    """Return what code names, that of inner functions included.

    Args:
        code: of a function.

    Returns:
        Names of globals, of attributes, and of modules that it imports, each in its order.
    """
    found: tuple[dict[str, None], ...] = {}, {}, {}
    for instruction in dis.get_instructions(code):
        for names, operations in zip(found, (_GLOBALS, _ATTRIBUTES, _IMPORTS), strict=True):
            if instruction.opname in operations:
                names[str(instruction.argval)] = None
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            for names, inner in zip(found, names_of(constant), strict=True):
                names.update(dict.fromkeys(inner))
    return tuple(map(tuple, found))


def contents(cell: CellType) -> Any:
    """Return what a closure holds, or `ABSENT`."""
    try:
        return cell.cell_contents
    except ValueError:
        return ABSENT


def defaults_of(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield the arguments of a function that have a default, each with it."""
    values, code = function.__defaults__ or (), function.__code__
    yield from zip(code.co_varnames[code.co_argcount - len(values) :], values, strict=False)


def functions_of(value: Any) -> list[Any]:
    """Return the functions behind what a class body holds, or the value itself."""
    if isinstance(value, staticmethod | classmethod):
        return [value.__func__]
    if isinstance(value, property):
        return [f for f in (value.fget, value.fset) if f is not None]
    return [value.func] if isinstance(value, cached_property) else [value]

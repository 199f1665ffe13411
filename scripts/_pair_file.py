"""A pair out of a Python file of the user's."""

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inference.files import regular
from inference.nearest import nearest
from scripts._ending import line_of

Shape = tuple[int, ...]

NAMES = ("pair", "model")
"""Functions that a file may define."""


def programs_of(path: Path, event_shape: Shape) -> tuple[Any, ...]:
    """Return the programs that a file makes for data of one shape: model and guide, or a model.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no Python file, raises, ends the process, or makes something else; the
            message has the file's own line.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder: --pair takes a Python file.")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: --pair takes a Python file.")
    function = _run(path, lambda: _function(path))
    made = _run(path, lambda: function(event_shape), function)
    single = function.__name__ == "model" if hasattr(function, "__name__") else False
    programs = tuple(made) if isinstance(made, (tuple, list)) else (made,)
    wanted = (
        "a model, a function or a module"
        if single
        else "a model and a guide, two functions or modules"
    )
    if len(programs) not in ((1,) if single else (1, 2)) or not all(map(callable, programs)):
        _close(made)
        shown = ", ".join(type(each).__name__ for each in programs) or "nothing"
        if len(programs) > 2:
            shown = f"{len(programs)} things"
        raise ValueError(
            f"{path}:{_first_line(function)}: {function.__name__}(event_shape) returned {shown}, "
            f"not {wanted}."
        )
    return programs


def _function(path: Path) -> Callable[[Shape], Any]:
    spec = importlib.util.spec_from_file_location(path.stem, regular(path))
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file: --pair takes one that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.path.append(str(path.resolve().parent))  # it may import its neighbours
    spec.loader.exec_module(module)
    for name in NAMES:
        if callable(found := getattr(module, name, None)):
            return found
        if found is not None:
            raise ValueError(f"{path}: {name} is {found!r}, no function of the data's shape.")
    defined = [name for name, value in vars(module).items() if inspect.isfunction(value)]
    near = next((each for each in defined if nearest(each, NAMES)), None)
    raise ValueError(
        f"{path} defines no function pair(event_shape) -> (model, guide), and no "
        f"model(event_shape) -> model{f'; did you mean {near} by that?' if near else '.'}"
    )


def _run(path: Path, call: Callable[[], Any], function: Any = None) -> Any:
    """Call the user's code; whatever it raises becomes a `ValueError` with its line."""
    try:
        return call()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        line = line_of(error, path)
        if line is None and function is None and isinstance(error, (ValueError, OSError)):
            raise
        at = f"{path}:{line or _first_line(function)}"
        if isinstance(error, SystemExit):
            raise ValueError(f"{at}: it ends the process ({error!r}).") from error
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ValueError(f"{at}: {type(error).__name__}: {said}") from error


def _first_line(function: Any) -> int:
    code = getattr(inspect.unwrap(function), "__code__", None) if function is not None else None
    return code.co_firstlineno if code else 1


def _close(made: Any) -> None:
    if inspect.iscoroutine(made):
        made.close()  # else Python warns that nobody waited for it

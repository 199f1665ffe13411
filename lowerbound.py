"""The packages of this checkout by their names in a wheel: lowerbound.models and the others.

The modules are the same, whatever they are called.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGES = ("models", "guides", "inference", "scripts")

__path__: list[str] = []  # what is below is found by `_Alias` alone


class _Alias(MetaPathFinder, Loader):
    """Import lowerbound.a.b as a.b."""

    def __init__(self) -> None:
        self._own: dict[str, Any] = {}

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Return how to import a module of the project."""
        package, _, rest = fullname.partition(".")
        known = package == "lowerbound" and rest.split(".")[0] in PACKAGES
        return ModuleSpec(fullname, self) if known else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module by its own name."""
        module = import_module(spec.name.partition(".")[2])
        self._own[spec.name] = module.__spec__, module.__loader__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give it back what it was imported by; it has run."""
        name = module.__spec__.name if module.__spec__ else ""
        if name in self._own:
            module.__spec__, module.__loader__ = self._own.pop(name)


if __name__ == "__main__":
    from scripts._commands import main

    main()
else:
    sys.meta_path.insert(0, _Alias())  # before what would find a second copy by a folder

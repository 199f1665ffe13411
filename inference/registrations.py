"""How often parameters and layers are registered in the modules of this process."""

from functools import cache

import torch
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)


class _Count:
    value = 0

    def note(self, *_: object) -> None:
        # The hook is everybody's: torch.compile would compile a program that registers layers
        # anew at each call, for the number that it has seen here.
        if not torch.compiler.is_compiling():
            self.value += 1


@cache
def _counted() -> _Count:
    counted = _Count()
    register_module_parameter_registration_hook(counted.note)
    register_module_module_registration_hook(counted.note)
    return counted


def registrations() -> int:
    """Return a number that grows when any module is given a parameter or a layer."""
    return _counted().value

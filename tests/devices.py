"""Pairs on torch's `meta` device, and what would wait for a GPU there: seen without one."""

import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from inference.programs import as_tuple
from inference.stores import owner

from .pairs import Pair

META = torch.device("meta")


def on_meta(make: Callable[[], Pair], monkeypatch: pytest.MonkeyPatch) -> Pair:
    """Return a pair whose tensors and batch have shapes and no values.

    What reads values by its nature is left out: validation of arguments, and the trial of whether
    the pair carries particles, which the table knows.
    """
    pair = make()
    for program in (pair.model, pair.guide):
        for module in modules(program):
            module.to(META)
    x = tuple(tensor.to(META) for tensor in as_tuple(pair.x))
    monkeypatch.setattr(pyro, "validation_enabled", lambda _=True: nullcontext())
    core = importlib.import_module("inference.log_weights")
    monkeypatch.setattr(core, "_try_particles", lambda *_: pair.carries_particles)
    pyro.clear_param_store()
    pyro.enable_validation(False)
    return pair._replace(x=x if isinstance(pair.x, tuple) else x[0])


def modules(program: Any) -> list[nn.Module]:
    module = owner(program)
    if module is not None:
        return [module]
    held = inspect.getclosurevars(program).nonlocals.values()
    return [value for value in held if isinstance(value, nn.Module)]


class Waits(Exception):  # noqa: N818  (a finding)
    """A device would wait for the CPU here."""


@contextmanager
def refusing_copies() -> Iterator[None]:
    """Raise `Waits` where Python numbers or a CPU tensor are copied to the device."""
    with _RefuseNumbers(), _RefuseTensors():
        yield


class _RefuseNumbers(TorchFunctionMode):
    """torch.tensor(0.5, device=cuda) is a copy that waits, torch.full((), 0.5, ...) is none."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        makes = func in (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)
        if makes and found.is_meta and found.numel() and not isinstance(args[-1], Tensor):
            raise Waits(f"{func.__name__}({args[-1]})")
        return found


class _RefuseTensors(TorchDispatchMode):
    """A CPU tensor of no dimensions is an argument of a kernel; any other would be copied."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]
        if any(t.is_meta for t in made):
            indexes = func in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default)
            copies = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
            for tensor in given:
                if not tensor.is_meta and (tensor.dim() or indexes or copies):
                    raise Waits(f"{func} of a CPU tensor {tuple(tensor.shape)}")
        return found

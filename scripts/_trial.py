"""What is tried before there is a run: room for a pair, first steps of its optimiser."""

import os
from collections.abc import Callable
from contextlib import suppress
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.overrides import TorchFunctionMode

FACTORIES = {"empty", "empty_strided", "zeros", "ones", "full", "rand", "randn"}
"""Operations that ask for the memory of a shape."""

COPIES = 4
"""A parameter, its gradient, and two moments of the optimiser."""


class Room(TorchFunctionMode):
    """Refuses tensors that the machine has no memory for, before it is asked for any.

    Args:
        room: bytes that there may be at most; None for as many as the machine has.
    """

    def __init__(self, room: int | None = None) -> None:
        super().__init__()
        found = [each for each in (room, memory()) if each is not None]
        self._bytes, self._room = 0, min(found, default=None)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count what a factory asks for."""
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in FACTORIES:
            shape = args[0] if args and isinstance(args[0], list | tuple) else args
            count = 1
            for size in kwargs.get("size", shape):
                count *= int(size)
            self._bytes += count * (kwargs.get("dtype") or torch.get_default_dtype()).itemsize
            refuse_beyond(self._bytes, self._room)
        return func(*args, **kwargs)


def refuse_beyond(asked: int, room: int | None) -> None:
    """Check that there is as much memory as is asked for.

    Raises:
        MemoryError: there is less.
    """
    if room is not None and asked > room:
        raise MemoryError(
            f"this asks for {asked:,} bytes of memory or more, and there are {room:,}: take "
            "smaller sizes."
        )


def memory(device: torch.device | None = None) -> int | None:
    """Return the bytes of memory of a device, or of this machine; None where it doesn't say."""
    if device is not None and device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    found = []
    with suppress(OSError, ValueError, AttributeError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, ValueError):  # of a container; "max" is no number
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(found, default=None)


def is_plain_adam(config: dict[str, Any]) -> bool:
    """Return whether a config asks for Adam with nothing but its defaults, which can't fail."""
    defaults = {name: each.default for name, each in signature(Adam).parameters.items()}
    asked = {k: tuple(v) if k == "betas" else v for k, v in (config.get("init_args") or {}).items()}
    name = str(config.get("class_path")).rpartition(".")[2]
    return name == "Adam" and all({**defaults, "fused": True}[k] == v for k, v in asked.items())


def try_optimizer(
    optimizer: Callable[[Any, float], Optimizer],
    learning_rate: float,
    scheduler: Callable[[Optimizer], LRScheduler] | None,
) -> None:
    """Take some steps with two weights that stay 0.

    Raises:
        ValueError: the optimiser or the scheduler raised; the message says which.
    """
    weights = nn.Parameter(torch.zeros(2, 2))
    weights.grad = torch.zeros(2, 2)
    name = getattr(optimizer, "__name__", "the optimiser")
    try:
        made = optimizer([weights], learning_rate)
        name = type(made).__name__
        made.step()
        rates = scheduler(made) if scheduler else None
        for _ in range(2) if rates is not None else ():
            name = type(rates).__name__
            made.step()
            rates.step(*([0.0] if isinstance(rates, ReduceLROnPlateau) else []))  # type: ignore[union-attr]
    except Exception as error:
        raise ValueError(f"{name} can't take a step: {type(error).__name__}: {error}") from error

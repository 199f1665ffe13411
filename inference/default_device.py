"""The device of a batch as torch's default one: ``torch.zeros(8)`` in a program is made there."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_NUMBER = (bool, int, float, complex)

_COPIES = (torch.tensor, torch.as_tensor, torch.asarray)

_FACTORIES = frozenset(
    {
        *_COPIES,
        torch.arange,
        torch.empty,
        torch.empty_strided,
        torch.eye,
        torch.fft.fftfreq,
        torch.fft.rfftfreq,
        torch.full,
        torch.hamming_window,
        torch.hann_window,
        torch.linspace,
        torch.logspace,
        torch.ones,
        torch.rand,
        torch.randint,
        torch.randn,
        torch.randperm,
        torch.scalar_tensor,
        torch.sparse_coo_tensor,
        torch.tril_indices,
        torch.triu_indices,
        torch.zeros,
    }
)
"""Functions of torch that make a tensor, and take the device to make it on."""


def on_device_of(batch: tuple[Tensor, ...]) -> AbstractContextManager[Any]:
    """Make what a program makes without a device on the device of its batch.

    On a CPU it is there already, and no handler is entered. Elsewhere each call of torch from
    Python passes a handler, for about a microsecond; a captured graph replays without it.
    """
    device = batch[0].device
    if device.type == "cpu" or torch.empty(0).device == device:
        return nullcontext()
    return _DefaultDevice(device)


class _DefaultDevice(TorchFunctionMode):
    """Give functions that make tensors a device where the program gives them none.

    The device itself writes a Python number. ``torch.tensor(0.5, device=...)``, by which torch's
    distributions make tensors of the numbers in ``Normal(torch.zeros(8), 1.0)``, copies it from
    the CPU instead: the CPU waits until the device is idle, and no CUDA graph can hold the copy.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _FACTORIES:
            return func(*args, **kwargs)
        if kwargs.get("device") is None and not _has_place(func, args, kwargs):
            kwargs["device"] = self.device
        if func in _COPIES and len(args) == 1 and isinstance(args[0], _NUMBER):
            return torch.full((), args[0], **kwargs)
        return func(*args, **kwargs)


def _has_place(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the arguments settle the device: a tensor to take, to fill, or a generator."""
    given = any(kwargs.get(name) is not None for name in ("out", "generator"))
    return given or (func in _COPIES and any(isinstance(a, Tensor) for a in args))

"""Several processes on one run: each takes a share of every batch, and all take the same step.

Started by ``torchrun``. The random numbers of a step are those that one process would draw for the
whole batch, of which each process keeps the rows of its share: the number of processes changes
the result by rounding alone, and a run can resume with another number of them.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .private import Operations, changes_arguments
from .programs import Batch

AT_MOST = timedelta(minutes=10)
"""How long a process waits for another one in a step before that one counts as lost."""

PATIENT = timedelta(days=1)
"""How long it waits where the first one works alone, as when it writes or evaluates."""


def world() -> int:
    """Return how many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return which one this is, from 0."""
    return dist.get_rank() if world() > 1 else 0


@contextmanager
def processes(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that ``torchrun`` started with this one, if it did.

    A process that waits `AT_MOST` for another in a step ends with an error: gloo says at once that
    a process is gone; NCCL's watchdog ends those left, which wait for their device, deaf to
    signals.

    Args:
        device: where to compute; on CUDA each process of a machine has a device of its own.

    Yields:
        The device of this process.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        # Told its device, NCCL connects the processes here and not in the first step.
        dist.init_process_group("nccl", timeout=AT_MOST, device_id=device)
    else:
        dist.init_process_group("gloo", timeout=AT_MOST)
    try:
        _patient.append(dist.new_group(backend="gloo", timeout=PATIENT))
        yield device
        dist.barrier(_patient[-1])  # a process that left early would look lost
    finally:
        _patient.clear()
        dist.destroy_process_group()


def from_first(value: Any) -> Any:
    """Return what process 0 has: text, a number."""
    if world() == 1:
        return value
    held = [value]
    dist.broadcast_object_list(held, group=_patient[-1] if _patient else None)
    return held[0]


def wait_for_all() -> None:
    """Wait until every process is here, for as long as the slowest of them takes."""
    if world() > 1:
        dist.barrier(_patient[-1] if _patient else None)


_patient: list[Any] = []
"""The group of processes that waits long, while there is one; by gloo: NCCL ends a long wait."""


def take_first(tensors: Iterable[Tensor]) -> None:
    """Copy process 0's values into these tensors of every process."""
    if world() > 1:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), 0)


def total(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the sums of tensors over the processes, by one reduction of them all.

    Raises:
        ConnectionError: a process is gone.
    """
    if world() == 1:
        return list(tensors)
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    try:
        dist.all_reduce(flat)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0].split(". ")[0]
        raise ConnectionError(
            f"Process {rank()} of {world()} has lost another one: {reason}."
        ) from None
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def mean(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the means of tensors over the processes, by one reduction of them all."""
    count = world()
    return [value / count if count > 1 else value for value in total(tensors)]


def share(x: Batch) -> Batch:
    """Return the rows of a batch that are this process's.

    Raises:
        ValueError: the processes can't have as many rows each.
    """
    if world() == 1:
        return x
    if isinstance(x, tuple):
        return tuple(share(each) for each in x)  # type: ignore[misc]
    if len(x) % world():
        raise ValueError(
            f"Expected a batch that {world()} processes can share evenly; got {len(x)} data. Take "
            f"a multiple of {world()}."
        )
    size = len(x) // world()
    return x.narrow(0, rank() * size, size)


def drawing_for_all(size: int) -> AbstractContextManager[Any]:
    """Draw, inside, for the batches of all processes, and keep the rows of this one's ``size``."""
    return nullcontext() if world() == 1 else _DrawForAll(size)


class _DrawForAll(Operations):
    """Random operations on tensors of B rows run on tensors of all processes' rows.

    The rows are the first dimension or, under particles, the second; a draw that has neither of
    this size is a global one, the same for all processes. Samplers by rejection (gamma, Poisson)
    take as many random numbers as their parameters make them: after them each process goes on with
    random numbers of its own, which is as good a run, but not the same one.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        if args and isinstance(args[0], list | tuple):  # rand(size), randn(size)
            dim = self._rows(args[0])
            shape = list(args[0])
            if dim is not None:
                shape[dim] *= world()
            return self._own(func(shape, *args[1:], **kwargs), dim)
        shape = torch.broadcast_shapes(*(a.shape for a in args if isinstance(a, Tensor)))
        dim = self._rows(shape)
        if dim is None:
            return func(*args, **kwargs)
        whole = [self._whole(a, dim, shape) if isinstance(a, Tensor) else a for a in args]
        drawn = func(*whole, **kwargs)
        if changes_arguments(func):  # normal_, uniform_
            return args[0].copy_(self._own(whole[0], dim))
        if isinstance(drawn, Tensor):
            return self._own(drawn, dim)
        return type(drawn)(self._own(each, dim) for each in drawn)

    def _rows(self, shape: Sequence[int]) -> int | None:
        return next((dim for dim, size in enumerate(shape[:2]) if size == self.size), None)

    def _own(self, value: Tensor, dim: int | None) -> Tensor:
        return value if dim is None else value.narrow(dim, rank() * self.size, self.size)

    def _whole(self, value: Tensor, dim: int, shape: torch.Size) -> Tensor:
        """Return the parameters of all rows: this process's own in each process's place."""
        return torch.cat([value.expand(shape)] * world(), dim)

"""Capture: a function of tensors, run once and kept as one graph of tensor operations."""

import linecache
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.overrides import TorchFunctionMode

from .. import rng
from ..private import Operations, writes
from .backends import Backend, Graph, Replay
from .constants import crossing, move_constants
from .graph_passes import drop_profiling, lift_constants
from .private import checks_errors, trace

SMALL = 1 << 20
"""Bytes up to which a tensor that a step should not write to is copied, to undo what it writes."""

_LEAVING = {Tensor.numpy, Tensor.tolist, Tensor.__array__}
"""What hands values over without a tensor operation."""


class NotCapturable(Exception):  # noqa: N818  (a finding)
    """A function can't be captured; the message says why and where."""


@dataclass(frozen=True)
class Captured:
    """A captured function; called, it does what the function did.

    Args:
        call: takes the held tensors, then the inputs.
        held: tensors that the function referred to.
        crossing: why its kernels can't be recorded as a CUDA graph, in words, or None.
    """

    call: Replay
    held: Sequence[Tensor]
    crossing: str | None

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        """Return what the function returns, without gradients."""
        with torch.no_grad():
            return self.call(*self.held, *(tensor.contiguous() for tensor in inputs))


def capture(
    function: Replay,
    inputs: Sequence[Tensor],
    state: Iterable[Tensor],
    backend: Backend = Graph(),  # noqa: B008  (it holds nothing)
) -> Captured:
    """Run a function once and return its tensor operations as a function of the same inputs.

    The operations refer to every other tensor of the function itself, so that what is updated in
    place is seen, inside and out. All else that the function read, Python numbers and branches
    among them, is in them for good. Whatever the backend, the random numbers are those that the
    function would draw.

    Args:
        function: of tensors, to tensors; it may change those in ``state``, and the random state.
        inputs: tensors like those of later calls: shapes, types and devices are fixed by them.
        state: what the function changes; it is put back.
        backend: runs the operations.

    Raises:
        NotCapturable: the function reads a value back, makes a shape of one, draws by other means
            than torch's global random state, or the backend fails.
    """
    state = list(state)
    inputs = [tensor.contiguous() for tensor in inputs]  # strides are in the graph too
    with unchanged(state), drawing_by_torch_alone(), pyro.validation_enabled(False):
        graph = _trace(function, inputs)
    drop_profiling(graph)
    move_constants(graph)
    crosses = crossing(graph)
    held = lift_constants(graph)
    with unchanged(state):
        try:
            captured = Captured(backend.compile(graph, inputs[0].device), held, crosses)
            if not isinstance(backend, Graph):  # a compiler works at the first call
                captured(*inputs)
        except Exception as error:
            raise NotCapturable(f"the compiler fails: {first_line(error)}") from error
    return captured


def _trace(function: Replay, inputs: Sequence[Tensor]) -> GraphModule:
    """Return the operations of a function, those of a recurrent network on CUDA written out.

    cuDNN's recurrences give parameters other memory, which can't be traced; torch's own can.
    """

    def without_reading(*tensors: Tensor) -> Sequence[Tensor]:
        with _RefuseLeaving(), _RefuseReading():
            return function(*tensors)

    try:
        return trace(without_reading, inputs)
    except Exception as error:
        if _may_be_cudnn(error, inputs):
            with torch.backends.cudnn.flags(enabled=False):
                return _trace(function, inputs)
        raise NotCapturable(f"{first_line(error)}{_where(error)}") from error


def _may_be_cudnn(error: Exception, inputs: Sequence[Tensor]) -> bool:
    on_cuda = any(tensor.is_cuda for tensor in inputs)
    return on_cuda and torch.backends.cudnn.enabled and not isinstance(error, NotCapturable)


@contextmanager
def drawing_by_torch_alone() -> Iterator[None]:
    """Check that the block leaves Python's and NumPy's random states: a graph would not draw again.

    Raises:
        NotCapturable: one of the two states has moved.
    """
    before = rng.states_beside_torch()
    yield
    for name, state in rng.states_beside_torch().items():
        if state != before[name]:
            raise NotCapturable(
                f"it draws from {name}, and a graph would hold the numbers drawn for good; draw "
                "with torch: torch.rand(()) < p, say"
            )


@contextmanager
def unchanged(state: Sequence[Tensor]) -> Iterator[None]:
    """Put these tensors and every random state back on leaving."""
    before = [tensor.detach().clone() for tensor in state]
    with rng.isolated():
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, value in zip(state, before, strict=True):
                    tensor.copy_(value)


@contextmanager
def writes_undone(tensors: Sequence[tuple[Tensor, str]]) -> Iterator[list[str]]:
    """Put back what is written to these tensors inside, but for large ones.

    Args:
        tensors: each with its place.

    Yields:
        A list that then has the places of those written to.
    """
    before = [
        (tensor, place, writes(tensor), tensor.detach().clone() if _is_small(tensor) else None)
        for tensor, place in tensors
    ]
    written: list[str] = []
    yield written
    for tensor, place, count, value in before:
        if writes(tensor) != count:
            written.append(place)
            if value is not None:
                with torch.no_grad():
                    tensor.copy_(value)


def _is_small(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and tensor.numel() * tensor.element_size() <= SMALL


def copies(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return the tensors as they are now."""
    return [tensor.detach().clone() for tensor in tensors]


def _by_numbers(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether it is an indexing by numbers, not by a mask: its shape is that of the numbers."""
    if func is not torch.ops.aten.index.Tensor:
        return False
    return all(i is None or i.dtype not in (torch.bool, torch.uint8) for i in args[1])


class _RefuseReading(Operations):
    """Raises where a value is read back from a tensor: the graph would hold it as a constant."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        tags = getattr(func, "tags", ())
        if checks_errors(func):
            return None  # what is singular has no finite ELBO either
        if torch.Tag.data_dependent_output in tags:
            raise NotCapturable(f"it reads a value back from a tensor, by {func}")
        if torch.Tag.dynamic_output_shape in tags and not _by_numbers(func, args):
            raise NotCapturable("a shape depends on values")
        if (kwargs or {}).get("generator") is not None:
            raise NotCapturable(
                f"it draws from a torch.Generator of its own, by {func}; draw from the global one"
            )
        return func(*args, **(kwargs or {}))


class _RefuseLeaving(TorchFunctionMode):
    """Refuse what reads values back by no operation, into NumPy arrays and lists."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _LEAVING:
            raise NotCapturable(f"it reads values back from a tensor, by Tensor.{func.__name__}")
        return func(*args, **(kwargs or {}))


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, else its name."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _where(error: BaseException) -> str:
    """Return the innermost line of a user's own file, else of Pyro's, in words, or nothing."""
    ours = Path(__file__).parent.parent
    torchs, pyros = (Path(f).parent for f in (torch.__file__, pyro.__file__))
    frames = traceback.extract_tb(error.__traceback__)
    for others in ((ours, torchs, pyros), (ours, torchs)):
        for frame in reversed(frames):
            path = Path(frame.filename)
            if path.is_file() and not any(map(path.is_relative_to, others)):
                line = linecache.getline(frame.filename, frame.lineno or 0).strip()
                return f" ({path.name}, line {frame.lineno}: {line})"
    return ""

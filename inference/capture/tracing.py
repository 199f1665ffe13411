"""Capture: a function of tensors, run once and kept as one graph of tensor operations."""

import importlib.util
import linecache
import logging
import os
import shutil
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pyro
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from .. import rng
from .graph_passes import drop_profiling, lift_constants, take_out_draws
from .products import tell_compiler

How = Literal["graph", "inductor"]
"""``graph`` replays the operations one by one; ``inductor`` compiles them first."""

Replay = Callable[..., Sequence[Tensor]]


Compile = Literal["auto", "off", "graph", "inductor"]
"""How to run: ``off``, eagerly; ``graph``, replayed from one captured graph; ``inductor``, from the
compiled graph; ``auto``, as it pays."""


class NotCapturable(Exception):  # noqa: N818  (a finding)
    """A function can't be captured; the message says why, and where."""


def capture(
    function: Replay, inputs: Sequence[Tensor], state: Iterable[Tensor], how: How = "graph"
) -> Replay:
    """Run a function once and return its tensor operations as a function of the same inputs.

    The operations refer to every other tensor of the function itself, so that what is updated in
    place is seen, inside and out. All else that the function read, Python numbers and branches
    among them, is in them for good. Compiled or not, the random numbers are those that the function
    would draw.

    Args:
        function: of tensors, to tensors; it may change those in ``state``, and the random state.
        inputs: tensors like those of later calls: shapes, types and devices are fixed by them.
        state: what the function changes; it is put back.
        how: whether a compiler takes the operations further.

    Raises:
        NotCapturable: the function reads a value back, makes a shape of one, draws by other means
            than torch's global random state, or can't be compiled.
    """

    def without_reading(*tensors: Tensor) -> Sequence[Tensor]:
        with _RefuseReading():
            return function(*tensors)

    state = list(state)
    inputs = [tensor.contiguous() for tensor in inputs]  # strides are in the graph too
    with unchanged(state), drawing_by_torch_alone(), pyro.validation_enabled(False):
        try:
            graph = make_fx(without_reading)(*inputs)
        except Exception as error:
            raise NotCapturable(f"{_first_line(error)}{_where(error)}") from error
    drop_profiling(graph)
    held = lift_constants(graph)
    call: Replay = graph.forward

    def replay(*tensors: Tensor) -> Sequence[Tensor]:
        with torch.no_grad():
            return call(*held, *(tensor.contiguous() for tensor in tensors))

    if how == "inductor":  # it compiles at the first call
        with unchanged(state):
            try:
                call = _compile(graph, inputs[0].device)
                replay(*inputs)
            except Exception as error:
                raise NotCapturable(f"the compiler fails: {_first_line(error)}") from error
    return replay


def cuda_graph(function: Replay, inputs: Sequence[Tensor], state: Iterable[Tensor]) -> Replay:
    """Record the kernels that a replay launches and return a function that launches them at once.

    Args:
        function: what `capture` returned, or several such in a row.
        inputs: tensors like those of later calls, on a CUDA device.
        state: what the function changes; it is put back.

    Returns:
        The same function; its results live where those of the next call will.
    """
    held = [tensor.clone() for tensor in inputs]
    with unchanged(list(state)):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries make their workspaces in the first calls
            for _ in range(3):
                function(*held)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = function(*held)

    def replay(*tensors: Tensor) -> Sequence[Tensor]:
        for place, tensor in zip(held, tensors, strict=True):
            place.copy_(tensor)
        graph.replay()
        return results

    return replay


@contextmanager
def drawing_by_torch_alone() -> Iterator[None]:
    """Refuse what draws from Python's or NumPy's global random state: a graph would not draw again.

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


def copies(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return the tensors as they are now."""
    return [tensor.detach().clone() for tensor in tensors]


def compiler_missing(device: torch.device) -> str | None:
    """Return what the compiler needs on this device and does not find; None where all is there."""
    if device.type == "cuda":
        return None if importlib.util.find_spec("triton") else "Triton is not installed"
    compilers = filter(None, (os.environ.get("CXX"), "g++", "clang++"))
    return None if any(map(shutil.which, compilers)) else "no C++ compiler is installed"


def _by_numbers(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether it is an indexing by numbers, not by a mask: its shape is that of the numbers."""
    if func is not torch.ops.aten.index.Tensor:
        return False
    return all(i is None or i.dtype not in (torch.bool, torch.uint8) for i in args[1])


class _RefuseReading(TorchDispatchMode):
    """Refuse what reads a value back from a tensor: it would be a constant of the graph."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten._linalg_check_errors.default:  # noqa: SLF001
            return None  # what is singular has no finite ELBO either
        if torch.Tag.data_dependent_output in func.tags:
            raise NotCapturable(f"it reads a value back from a tensor, by {func}")
        if torch.Tag.dynamic_output_shape in func.tags and not _by_numbers(func, args):
            raise NotCapturable("a shape depends on values")
        if (kwargs or {}).get("generator") is not None:
            raise NotCapturable(
                f"it draws from a torch.Generator of its own, by {func}; draw from the global one"
            )
        return func(*args, **(kwargs or {}))


def _compile(graph: GraphModule, device: torch.device) -> Replay:
    # Its remarks on machines without CUDA are of no use to who asked for none.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    tell_compiler()
    draw = take_out_draws(graph).forward
    options = {
        "fallback_random": True,  # the same random numbers as without it
        # Shapes, types and the identity of the parameters are held by who calls, who also compares
        # the first results: neither guards nor assertions are needed.
        "guard_filter_fn": torch.compiler.skip_all_guards_unsafe,
        "size_asserts": False,
        "alignment_asserts": False,
    }
    if device.type == "cpu":  # oneDNN brings images into an order of its own, whatever theirs is
        options["layout_optimization"] = False
    call = torch.compile(graph, fullgraph=True, dynamic=False, options=options)
    return lambda *tensors: call(*draw(), *tensors)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _where(error: BaseException) -> str:
    """Return the innermost line of a user's own file, else of Pyro's, in words, or nothing."""
    ours, torchs, pyros = (Path(f).parent for f in (__file__, torch.__file__, pyro.__file__))
    frames = traceback.extract_tb(error.__traceback__)
    for others in ((ours, torchs, pyros), (ours, torchs)):
        for frame in reversed(frames):
            path = Path(frame.filename)
            if path.is_file() and not any(map(path.is_relative_to, others)):
                line = linecache.getline(frame.filename, frame.lineno or 0).strip()
                return f" ({path.name}, line {frame.lineno}: {line})"
    return ""

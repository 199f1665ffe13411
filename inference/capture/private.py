"""What capture uses of torch that torch does not promise to keep, with a fallback for each."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

COMPILER_OPTIONS: dict[str, Any] = {
    "fallback_random": True,  # the same random numbers as without it
    # `CapturedUpdate` and `CapturedPass` hold shapes, types and the identity of the parameters, and
    # compare the first results: neither guards nor assertions are needed.
    "size_asserts": False,
    "alignment_asserts": False,
}

NEEDED = ("fallback_random",)
"""Options without which a compiled graph differs from the captured one."""


def trace(function: Callable[..., Any], inputs: Sequence[Tensor]) -> GraphModule:
    """Run a function on these tensors and return its tensor operations, by torch's ``make_fx``.

    Raises:
        NotImplementedError: this torch has no ``make_fx``.
    """
    try:
        from torch.fx.experimental.proxy_tensor import make_fx
    except ImportError:
        raise NotImplementedError(
            f"torch {torch.__version__} has no make_fx, by which functions are traced"
        ) from None
    with _one_fake_mode():
        return make_fx(function)(*inputs)


def _one_fake_mode() -> AbstractContextManager[Any]:
    """Note all shapes of a trace by one fake mode; without it, torch makes one for each operation.

    Each keeps the whole call stack, which takes as long as all else of a trace. The graph is the
    same without it.
    """
    try:
        from torch._guards import TracingContext, tracing
        from torch._subclasses import FakeTensorMode
    except ImportError:
        return nullcontext()
    return tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True)))


def onednn_product() -> Callable[[Tensor, Tensor, Tensor | None], Tensor] | None:
    """Return oneDNN's product a @ w.T + bias of floats on the CPU; None in a build without it."""
    try:
        product = torch.ops.mkldnn._linear_pointwise.default  # noqa: SLF001
    except (AttributeError, RuntimeError):
        return None
    return lambda a, w, bias: product(a, w, bias, "none", [], "")


def leave_to_kernel(operation: Any) -> None:
    """Make an operation known to inductor, as it would itself, but before its first graph.

    Inductor computes the input of a kernel that it knows once; of any other it computes it again
    for each reader: a step's batch, drawn bit by bit, several times over. Without its table the
    result is the same, and that much slower.
    """
    try:
        from torch._inductor.lowering import constrain_to_fx_strides, lowerings, make_fallback
    except ImportError:
        return
    if operation not in lowerings:
        make_fallback(operation, constrain_to_fx_strides, warn=False)


def compile_graph(graph: GraphModule, device: torch.device) -> Callable[..., Sequence[Tensor]]:
    """Return what ``torch.compile`` makes of a graph; it compiles at the first call.

    Raises:
        NotImplementedError: this torch's compiler draws no random numbers like torch's own.
    """
    # Its remarks on machines without CUDA are of no use on them.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    options = dict(COMPILER_OPTIONS)
    if device.type == "cpu":  # oneDNN brings images into an order of its own, whatever theirs is
        options["layout_optimization"] = False
    if (known := _known_options()) is not None:
        if missing := [name for name in NEEDED if name not in known]:
            raise NotImplementedError(
                f"torch {torch.__version__}'s compiler has no option {missing[0]!r}"
            )
        options = {name: value for name, value in options.items() if name in known}
    if (skip := getattr(torch.compiler, "skip_all_guards_unsafe", None)) is not None:
        options["guard_filter_fn"] = skip
    return torch.compile(graph, fullgraph=True, dynamic=False, options=options)


def _known_options() -> set[str] | None:
    """Return the names of inductor's options; None if it does not list them."""
    try:
        from torch._inductor import list_options
    except ImportError:
        return None
    return set(list_options())


def checks_errors(func: Any) -> bool:
    """Whether an operation reads nothing but whether a factorisation failed."""
    return "_linalg_check_errors" in str(func)


def end_capture_mode(device: torch.device) -> bool:
    """Bring a CUDA device's random generator out of the capture mode that a failed recording left.

    Some versions of torch set a mark in the generator as a recording begins and take it away only
    where it ends well; every later draw of the process raises then. A small recording that does end
    well takes the mark away.

    Returns:
        Whether draws work again.
    """
    with torch.cuda.device(device):
        for mend in (lambda: None, _record_nothing):
            try:
                mend()
                torch.empty(1, device=device).uniform_()
                torch.cuda.synchronize()
            except RuntimeError:
                continue
            return True
    return False


def _record_nothing() -> None:
    place = torch.zeros(1, device="cuda")
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        place.add_(0)

"""The precision of matrix products on CUDA, which torch keeps in flags of the process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Literal, NamedTuple

import torch

Precision = Literal["32", "tf32", "bf16"]
"""Of the factors of matrix products and convolutions; everything else is in 32 bits.

``tf32`` rounds the factors to 10 bits of mantissa where a CUDA device computes so; on a CPU it is
``32``.
"""


@contextmanager
def products_in(precision: Precision) -> Iterator[None]:
    """Compute float32 products as a precision says, recurrences and convolutions included.

    torch's own default is TF32 in cuDNN's convolutions and recurrences but not in cuBLAS's
    products, and sums of bfloat16 products that cuBLAS may round as they grow. Here ``32`` is 32
    bits throughout, ``tf32`` is TF32 throughout, and sums are kept in 32 bits. On leaving, all is
    as before. Where the process has not used CUDA, nothing is set.

    Args:
        precision: of the factors.
    """
    if not torch.cuda.is_initialized():
        yield
        return
    before: list[tuple[_Flag, Any]] = []
    for flag in _FLAGS:
        with suppress(RuntimeError):  # an older flag that the user's newer ones contradict
            before.append((flag, flag.read()))
    try:
        for flag in _FLAGS:
            flag.write(flag.fast if precision == "tf32" else flag.exact)
        yield
    finally:
        for flag, value in before:
            flag.write(value)


class _Flag(NamedTuple):
    """One of torch's flags, its value for 32 bits, and that for TF32."""

    read: Callable[[], Any]
    write: Callable[[Any], Any]
    exact: Any
    fast: Any


def _attribute(path: str, exact: Any, fast: Any) -> _Flag:
    *parents, name = path.split(".")

    def holder() -> Any:
        found: Any = torch.backends
        for parent in parents:
            found = getattr(found, parent)
        return found

    return _Flag(lambda: getattr(holder(), name), lambda v: setattr(holder(), name, v), exact, fast)


def _sums_of_bfloat16() -> tuple[bool, bool]:
    held = torch.backends.cuda.matmul
    name = "allow_bf16_reduced_precision_reduction"
    return getattr(held, name), getattr(held, f"{name}_split_k", True)


_precision_flag = partial(_attribute, exact="ieee", fast="tf32")

# The older flags first: they set some of the newer ones, and torch's compiler reads both.
_FLAGS = (
    _attribute("cudnn.allow_tf32", exact=False, fast=True),
    _Flag(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest", "high"
    ),
    _precision_flag("cudnn.conv.fp32_precision"),
    _precision_flag("cudnn.rnn.fp32_precision"),
    _precision_flag("cuda.matmul.fp32_precision"),
    _Flag(
        _sums_of_bfloat16,
        _attribute("cuda.matmul.allow_bf16_reduced_precision_reduction", None, None).write,
        (False, True),
        (False, True),
    ),
)

"""Matrix products: which kernel computes them, and in which precision."""

from typing import Any

import torch
from torch import Tensor
from torch.library import Library

from ..precision import Precision
from ..private import Operations
from .private import onednn_product

aten = torch.ops.aten

SMALL = 16
"""Smallest dimension of a float product for oneDNN; the BLAS takes smaller ones, whose call costs
more than the product."""

# One op that a compiler takes as it is: of oneDNN's own it has rewrites that want constant weights.
_library = Library("lowerbound", "FRAGMENT")
if not hasattr(torch.ops.lowerbound, "linear"):
    _library.define("linear(Tensor a, Tensor w, Tensor? bias) -> Tensor")
    if (_product := onednn_product()) is not None:
        _library.impl("linear", _product, "CPU")
    _library.impl("linear", lambda a, w, _: a.new_empty(len(a), len(w)), "Meta")
linear = torch.ops.lowerbound.linear.default
"""a @ w.T + bias by oneDNN."""

_LOWERED = {
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.baddbmm.default,
    aten.convolution.default,
    aten.convolution_backward.default,
}


class MatrixProducts(Operations):
    """Compute the products of networks by other means; densities, KL and sums stay as they are.

    With precision ``32`` on a CPU, large products go to oneDNN, which has full-width kernels for
    every maker's vector units where the BLAS has them for its own maker's. With ``bf16`` the
    factors of products and convolutions are rounded to bfloat16, products are summed in 32 bits and
    rounded once.

    Args:
        precision: ``32`` or ``bf16``; ``tf32`` is ``32`` here, and a flag of the device's.
    """

    def __init__(self, precision: Precision = "32") -> None:
        super().__init__()
        self.precision = precision

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run one tensor operation."""
        if func not in _LOWERED:
            return func(*args, **(kwargs or {}))
        if self.precision == "bf16":
            return _in_bfloat16(func, args, kwargs or {})
        if not kwargs and func in (aten.mm.default, aten.addmm.default) and _for_onednn(*args):
            *bias, a, b = args
            # The kernel would copy it, alone; here a compiler may write it so in the first place.
            a = a.clone(memory_format=torch.contiguous_format) if not a.is_contiguous() else a
            return linear(a, b.t(), bias[0] if bias else None)
        return func(*args, **(kwargs or {}))


def _for_onednn(*factors: Tensor) -> bool:
    *bias, a, b = factors
    return (
        a.device.type == "cpu"
        and a.dtype == torch.float32
        and min(*a.shape, b.shape[1]) >= SMALL
        and not (bias and bias[0].dim() != 1)
        and torch.backends.mkldnn.is_available()
        and onednn_product() is not None
    )


def _in_bfloat16(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    def lower(value: Any) -> Any:
        is_float = isinstance(value, Tensor) and value.dtype == torch.float32
        return value.bfloat16() if is_float else value

    def lift(value: Any) -> Any:
        is_lowered = isinstance(value, Tensor) and value.dtype == torch.bfloat16
        return value.float() if is_lowered else value

    lowered = (lower(arg) for arg in args)
    found = func(*lowered, **{name: lower(value) for name, value in kwargs.items()})
    return tuple(map(lift, found)) if isinstance(found, tuple) else lift(found)

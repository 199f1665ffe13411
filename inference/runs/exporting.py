"""Export: the means of a trained pair's encoder and decoder as programs that need no Pyro."""

import gc
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..evaluation.moments import closed_form_mean
from ..files import atomic
from ..programs import Program, evaluating
from ..references import modules
from ..sites import Site, select, sites_of
from ..stores import param_store
from .codes import LatentSites

MOST = 1 << 20
"""Rows that an export takes at once, where it takes any number."""

EXAMPLE = 3
"""Rows of the example that is traced."""

EXTRA = "needs more packages: pip install 'lowerbound[onnx]'"


class Exported(nn.Module):
    """A function of rows, each on its own, with the modules that it uses.

    Args:
        programs: that it calls.
        each: the function of one datum, as a batch of one: tensors (1, ...) to tensors (1, ...).
        by_row: whether it is called for each row; False gives it all rows at once.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        each: Callable[..., tuple[Tensor, ...]],
        by_row: bool,
    ) -> None:
        super().__init__()
        held = [each for program in programs for each in modules(program).values()]
        self.programs = nn.ModuleList({id(module): module for module in held}.values())
        self._each, self._by_row = each, by_row

    def forward(self, *rows: Tensor) -> tuple[Tensor, ...]:
        """Return what the function makes of the rows."""
        if not self._by_row:
            return self._each(*rows)

        def one(*row: Tensor) -> tuple[Tensor, ...]:
            return tuple(value[0] for value in self._each(*(each[None] for each in row)))

        with _NoGradients():  # Pyro asks each parameter to learn, which vmap refuses
            return torch.vmap(one, randomness="same")(*rows)


class _NoGradients(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Leave out that a tensor is to learn."""
        return args[0] if func is Tensor.requires_grad_ else func(*args, **(kwargs or {}))


def encoder(model: Program, guide: Program, names: Sequence[str], by_row: bool) -> Exported:
    """Return E[z | x] under q as a module, a tensor for each latent site."""

    def each(*batch: Tensor) -> tuple[Tensor, ...]:
        found = select(sites_of(guide, batch), "latent")
        return tuple(_mean(name, found[name]) for name in names)

    return Exported((guide, model), each, by_row)


def decoder(
    model: Program, names: Sequence[str], observed: Sequence[str], like: Tensor, by_row: bool
) -> Exported:
    """Return E[x | z] as a module of the codes, and of what is given beside x.

    Args:
        model: p(z) p(x | z).
        names: latent sites, in the order of the codes.
        observed: sites whose means it returns.
        like: a datum (1, *event_shape), which is not read.
        by_row: see `Exported`.
    """

    def each(*codes: Tensor) -> tuple[Tensor, ...]:
        values = dict(zip(names, codes, strict=False))
        batch = (like.expand(len(codes[0]), *like.shape[1:]), *codes[len(names) :])
        held = poutine.condition(model, data=values)
        found = select(sites_of(held, batch), "observed")
        return tuple(_mean(name, found[name]) for name in observed)

    return Exported((model,), each, by_row)


def _mean(name: str, site: Site) -> Tensor:
    if (found := closed_form_mean(site)) is None:
        raise ValueError(f"Site {name!r} has no mean in closed form, so that it can't be exported.")
    return found


def write(
    path: Path,
    model: Program,
    guide: Program,
    made: Callable[[bool], Exported],
    inputs: tuple[Tensor, ...],
    rows: int | None,
) -> None:
    """Write a module as FILE.pt2 (torch.export) or FILE.onnx, and see that it gives the same.

    Args:
        path: the file.
        model: of the pair.
        guide: of the pair.
        made: returns the module, by row or not.
        inputs: example, with that many rows where their number is fixed.
        rows: number of rows that the exported program takes; None for any.

    Raises:
        ValueError: it can't be exported, for the reason that the message names.
        ImportError: packages of ONNX are missing.
    """
    module = made(rows is None).eval()
    any_number = {0: torch.export.Dim("rows", min=1, max=MOST)}
    dynamic = {"rows": tuple(any_number for _ in inputs)} if rows is None else None
    with (
        evaluating(model, guide),
        param_store(model),
        pyro.validation_enabled(False),
        torch.no_grad(),
    ):
        try:
            program = torch.export.export(module, inputs, dynamic_shapes=dynamic, strict=False)
        except Exception as error:
            if isinstance(error, ValueError) and "closed form" in str(error):
                raise
            said = " ".join(str(error).split())[:200]
            remedy = "" if rows else " With rows=N, that many at a time, it may be."
            raise ValueError(f"{path.stem} can't be exported ({said}).{remedy}") from error
        expected = made(False)(*inputs)
    found = program.module()(*inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, msg=f"{path.stem} differs from the pair's own.")
    with atomic(path) as partial:
        if path.suffix == ".onnx":
            _write_onnx(program, partial)
        else:
            named = partial.with_name(f"{partial.name}.pt2")  # torch insists on the ending
            torch.export.save(program, named)
            named.replace(partial)


def _write_onnx(program: Any, path: Path) -> None:
    try:
        torch.onnx.export(program, (), str(path), dynamo=True, external_data=False, verbose=False)
    except ImportError as error:
        raise ImportError(f"Writing ONNX {EXTRA}.") from error


class Trained(Protocol):
    """What is exported of an opened run."""

    model: Any
    guide: Any
    first: tuple[Tensor, ...]
    sites: LatentSites


def export(run: Trained, path: Path, rows: int | None) -> list[Path]:
    """Write the encoder and the decoder of a run; see `OpenRun.export`."""
    if path.suffix not in (".pt2", ".onnx"):
        raise ValueError(f"{path} ends in neither .pt2 nor .onnx.")
    if rows is not None and rows < 1:
        raise ValueError(f"Expected rows of at least 1; got {rows}.")
    sites, x = run.sites, run.first[0]
    if sites.shared or any(site.dim for site in sites.codes.values()):
        named = [*sites.shared, *(name for name, site in sites.codes.items() if site.dim)]
        raise ValueError(f"Site {named[0]!r} has no code in rows of its own: it can't be exported.")
    names, count = [*sites.codes], rows or EXAMPLE
    batch = tuple(each[:1].repeat(count, *[1] * (each.dim() - 1)) for each in run.first)
    codes = tuple(x.new_zeros(count, *sites.codes[name].shape) for name in names)
    with evaluating(run.model, run.guide):
        seen = select(sites_of(run.model, run.first), "observed")
    halves: dict[str, tuple[Callable[[bool], Exported], tuple[Tensor, ...]]] = {
        "encoder": (partial(encoder, run.model, run.guide, names), batch),
        "decoder": (partial(decoder, run.model, names, [*seen], x[:1]), (*codes, *batch[1:])),
    }
    files = [path.with_name(f"{path.stem}-{half}{path.suffix}") for half in halves]
    try:
        for file, (made, inputs) in zip(files, halves.values(), strict=True):
            write(file, run.model, run.guide, made, inputs, rows)
    finally:
        # torch leaves classes of the same name as the modules' behind, in circles.
        gc.collect()
    return files

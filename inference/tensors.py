"""The tensors of a pair, by name: what is trained, what is saved, what is loaded."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

from .programs import Batch, Program, as_tuple, owner, run


@dataclass(frozen=True)
class Tensors:
    """What a pair owns, by name: ``model.decoder.weight``, or ``param.loc`` for ``pyro.param``.

    Args:
        parameters: those that require a gradient, each once.
        buffers: those of the modules.
    """

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]

    @property
    def named(self) -> dict[str, Tensor]:
        """Both, by name."""
        return {**self.buffers, **self.parameters}

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of them."""
        return {name: value.detach().clone() for name, value in self.named.items()}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Copy in what `weights` returned.

        Raises:
            ValueError: the names or shapes are those of another pair.
        """
        copy_into(self.named, weights)


def copy_into(named: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Copy weights into tensors of the same names and shapes.

    Raises:
        ValueError: the names or shapes differ.
    """
    shapes, found = ({k: tuple(v.shape) for k, v in d.items()} for d in (named, weights))
    if shapes != found:
        names = sorted(dict(shapes.items() ^ found.items()))
        raise ValueError(
            f"The weights belong to another pair: {', '.join(names[:5])} "
            f"{'differs' if len(names) == 1 else 'differ'} in name or shape."
        )
    with torch.no_grad():
        for name, value in named.items():
            value.copy_(weights[name])


def tensors_of(
    model: Program, guide: Program, x: Batch, call: Callable[[], Any] | None = None
) -> Tensors:
    """Run a pair once and return its tensors.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        x: a batch, on which plain functions make their parameters.
        call: runs the pair in a way of its own, as an objective does; None runs both halves once.
    """
    with poutine.trace(param_only=True) as capture, warnings.catch_warnings():
        # Who froze a parameter knows that it is not learned.
        warnings.filterwarnings("ignore", ".*was not registered in the param store")
        if call is None:
            run(model, guide, as_tuple(x))
        else:
            call()
    buffers = {
        f"{role}.{name}": buffer
        for role, module in _owners(model, guide)
        for name, buffer in module.named_buffers()
    }
    return Tensors(_parameters(model, guide, capture.trace), buffers)


def _parameters(model: Program, guide: Program, params: poutine.Trace) -> dict[str, Tensor]:
    """Return the trainable tensors by name: the modules' own, then those of the param store."""
    found: dict[str, Tensor] = {}
    for role, module in _owners(model, guide):
        found.update((f"{role}.{name}", value) for name, value in module.named_parameters())
    statements: dict[str, Any] = {**params.nodes}
    for name, site in statements.items():
        if site["type"] == "param":
            value = site["value"]
            found[f"param.{name}"] = getattr(value, "unconstrained", lambda v=value: v)()
    # A module's parameters come again as its statements, and a shared module's once a program.
    unique: dict[int, str] = {}
    for name, value in found.items():
        if value.requires_grad:
            unique.setdefault(id(value), name)
    return {name: found[name] for name in unique.values()}


def _owners(model: Program, guide: Program) -> list[tuple[str, nn.Module]]:
    both = (("model", owner(model)), ("guide", owner(guide)))
    return [(role, module) for role, module in both if module is not None]

"""Faults of gradients: parameters that get none, or one that is not finite."""

from collections.abc import Iterable, Iterator

import torch

from ..log_weights import log_weights
from ..programs import Batch, Program
from ..reached import Unregistered
from ..tensors import tensors_of


def gradients(model: Program, guide: Program, x: Batch) -> Iterator[str]:
    """Find parameters without a gradient, or with one that is not finite."""
    with torch.enable_grad():
        try:
            parameters = tensors_of(model, guide, x).parameters
        except Unregistered as error:
            yield str(error)
            return
        if not parameters:
            yield "The pair has no parameter that requires a gradient: nothing to fit."
            return
        loss = -log_weights(model, guide, x).weighted.mean()
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    each = dict(zip(parameters, found, strict=True))
    for names in _by_module(n for n, gradient in each.items() if gradient is None):
        yield (
            f"{names} no gradient: the ELBO does not depend on it. Use it, "
            "remove it, or freeze it with requires_grad_(False); if another pair of functions "
            "made it, call pyro.clear_param_store() before making this one."
        )
    wrong = (n for n, g in each.items() if g is not None and not g.isfinite().all())
    for names in _by_module(wrong):
        yield f"{names} a gradient with nan or inf in it."


def _by_module(names: Iterable[str]) -> Iterator[str]:
    """Return the subject and verb of a sentence for each module that has some of the parameters."""
    held: dict[str, list[str]] = {}
    for name in names:
        held.setdefault(name.rpartition(".")[0], []).append(name)
    for module, those in held.items():
        if len(those) == 1:
            yield f"Parameter {those[0]!r} gets"
        else:
            few = ", ".join(name.rpartition(".")[2] for name in those[:3])
            more = f" and {len(those) - 3} more" if len(those) > 3 else ""
            yield f"Module {module!r} ({few}{more}) gets"

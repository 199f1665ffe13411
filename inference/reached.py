"""What a loss reaches: the leaves of its graph, and those that no optimiser trains."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from .programs import Program
from .references import Reachable


class Unregistered(ValueError):  # noqa: N818  (a finding)
    """The loss reaches a tensor that is neither trained nor saved; the message names the place."""


def leaves(loss: Tensor) -> dict[int, Tensor]:
    """Return the leaves of a loss's graph that require a gradient, by identity.

    Args:
        loss: with its graph; it may be a leaf itself.
    """
    found: dict[int, Tensor] = {}
    if loss.is_leaf:
        return {id(loss): loss} if loss.requires_grad else found
    seen, left = {loss.grad_fn}, [loss.grad_fn]
    while left:
        node = left.pop()
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor) and variable.is_leaf:
            found[id(variable)] = variable
        for following, _ in getattr(node, "next_functions", ()):
            if following is not None and following not in seen:
                seen.add(following)
                left.append(following)
    return {key: value for key, value in found.items() if value.requires_grad}


@contextmanager
def called_modules() -> Iterator[list[nn.Module]]:
    """Collect the modules that are called inside, in their order."""
    called: dict[int, nn.Module] = {}
    hook = register_module_forward_pre_hook(lambda module, _: called.update({id(module): module}))
    found: list[nn.Module] = []
    try:
        yield found
    finally:
        hook.remove()
        found += called.values()


def unregistered(
    model: Program,
    guide: Program,
    batch: Collection[Tensor],
    reached: Mapping[int, Tensor],
    registered: Collection[Tensor],
    called: Collection[nn.Module],
) -> None:
    """Check that the loss reaches no tensor that should be a parameter of the pair and is not.

    A plain tensor that the programs made on the way is not one of them.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        batch: its tensors are not parameters.
        reached: leaves of the loss.
        registered: parameters of the pair.
        called: modules that were called for the loss.

    Raises:
        Unregistered: with the places and the remedy.
    """
    known = {id(value) for value in (*registered, *batch)}
    lost = {key: value for key, value in reached.items() if key not in known}
    if not lost:
        return
    held = Reachable([("model", model), ("guide", guide)])
    places = {id(tensor): place for tensor, *_, place in held.tensors if id(tensor) in lost}
    inside = {
        id(parameter): f"a {type(module).__name__}'s {name!r}"
        for module in called
        for name, parameter in module.named_parameters(recurse=False)
        if id(parameter) in lost and id(parameter) not in places
    }
    anew = [
        f"{inside.get(key, 'a parameter')} of shape {tuple(value.shape)}"
        for key, value in lost.items()
        if key not in places and isinstance(value, nn.Parameter)
    ]
    if places:
        raise Unregistered(
            f"The loss reaches {_listed(places.values())}, which no module, pyro.module or "
            "pyro.param registers, so it is neither trained nor saved. In a module, "
            "keep networks in an nn.ModuleList or nn.ModuleDict and tensors in an nn.Parameter; in "
            "a function, announce a network by pyro.module(name, network) and a tensor by "
            "pyro.param; or freeze it with requires_grad_(False)."
        )
    if anew:
        raise Unregistered(
            f"The loss reaches {_listed(anew)}, which each call makes anew, so it is "
            "neither trained nor saved. Make the network once, in __init__ or outside the "
            "function, and in a function announce it by pyro.module(name, network)."
        )


def _listed(places: Collection[str]) -> str:
    names = list(dict.fromkeys(places))
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest

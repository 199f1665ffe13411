"""Faults of distributions and their values: shapes, parameters, units."""

from collections.abc import Iterator
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Independent, constraints

from ..programs import PairSites
from ..sites import select, with_density
from .sites import View, family

_SHAPING = (
    "View", "UnsafeView", "Reshape", "Expand", "Unsqueeze", "Squeeze", "Transpose", "Permute",
    "Clone", "Alias", "Slice", "TBackward", "ToCopy",
)  # fmt: skip
"""Nodes of a graph that leave values as they are, by the beginning of their names."""


def shapes_of_data(pair: PairSites) -> Iterator[str]:
    """Find data in another shape than that of their distribution."""
    for name, site in select(pair.model, "observed").items():
        of = site.distribution
        batch, event, value = (tuple(s) for s in (of.batch_shape, of.event_shape, site.value.shape))
        said = (
            f"Site {name!r}: the data have shape {value}, and {family(site)} has {batch + event}, "
            f"batch {batch} and event {event}"
        )
        try:
            density = site.log_prob()
        except (RuntimeError, ValueError, IndexError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            yield (
                f"{said}: they don't fit ({reason}). Reshape one to the other, as by x.flatten(1) "
                "or .reshape(x.shape)."
            )
            continue
        if density.numel() > torch.Size(batch).numel():
            yield (
                f"{said}: together they would count {tuple(density.shape)} densities. Drop the "
                "data's last dimension with .squeeze(-1), or give the parameters that dimension "
                "and declare it with .to_event(1)."
            )
        elif isinstance(of, Independent) and event and value[-len(event) :] != event:
            yield (
                f"{said}: one datum would be counted as often as it is repeated. Give the data and "
                "the parameters the same event shape."
            )


def parameters(pair: PairSites) -> Iterator[str]:
    """Find parameters of distributions outside their range, and a sigmoid's output as logits.

    The latter shows in the graph, if the pair was run with gradients.
    """
    for half, found in (("model", pair.model), ("guide", pair.guide)):
        for name, site in with_density(found).items():
            if site.kind == "factor":
                continue
            base: Any = site.base
            said = f"Site {name!r} in the {half}"
            yield from (f"{said}: {each}" for each in _outside(base, family(site)))
            logits = vars(base).get("logits")
            if isinstance(logits, Tensor) and (squashed := _squashed(base, logits)):
                yield (
                    f"{said}: the logits of {family(site)} are the output of a {squashed}, so that "
                    "its probabilities reach neither 0 nor 1. Give them as probs=, or leave the "
                    f"{squashed} out."
                )


def _outside(base: Any, name: str) -> Iterator[str]:
    """Find parameters outside their range; nan is told of by its density."""
    try:
        ranges: dict[str, Any] = base.arg_constraints
    except (NotImplementedError, AttributeError):
        return
    for argument, space in ranges.items():
        value = vars(base).get(argument)
        if not isinstance(value, Tensor) or constraints.is_dependent(space) or not value.numel():
            continue
        inside = space.check(value)
        if inside.all() or value.isnan().any():
            continue
        wrong = value[~inside] if inside.shape == value.shape else value
        yield (
            f"{argument} of {name} is {wrong.flatten()[0].item():.4g}, outside {space}. "
            f"{_remedy(argument, space)}"
        )


def _remedy(argument: str, space: Any) -> str:
    if argument == "probs":
        return "A network's raw outputs are logits: give them as logits=."
    if space in (constraints.positive, constraints.nonnegative):
        return "Make a network's raw output positive, as by .exp() or softplus."
    return "Map a network's raw output into it, as torch's biject_to does."


def _squashed(base: Any, logits: Tensor) -> str | None:
    """Return ``sigmoid`` or ``softmax`` where logits are its output."""
    node: Any = logits.grad_fn
    categorical = isinstance(base, torch.distributions.Categorical)
    while node is not None:
        name = type(node).__name__
        if name.startswith(("Sigmoid", "Softmax")):
            return "sigmoid" if name.startswith("Sigmoid") else "softmax"
        normalised = categorical and name.startswith("Sub")  # logits less their logsumexp
        if not normalised and not name.startswith(_SHAPING):
            return None
        node = node.next_functions[0][0] if node.next_functions else None
    return None


def supportless(pair: PairSites) -> Iterator[str]:
    """Find distributions that do not say where they have a density."""
    for name, site in with_density(pair.model | pair.guide).items():
        if site.kind == "factor" or isinstance(site.base, dist.Delta):
            continue
        try:
            _ = site.support
        except (NotImplementedError, AttributeError):
            yield (
                f"Site {name!r}: {family(site)} has no support, so no value can be checked against "
                "it. Give the class one, as `support = constraints.real`."
            )


def measure(pair: PairSites, view: View | None, x: Tensor) -> Iterator[str]:
    """Find a density of x where the data's unit is a mass, or the other way round.

    What is observed beside x, as labels or a side target are, has a unit of its own.
    """
    if view is None or view.is_mass is None:
        return
    observed = select(pair.model, "observed")
    of_x = {name: site for name, site in observed.items() if is_of(site.value, x)}
    for name, site in (of_x or observed).items():
        if site.support.is_discrete != view.is_mass:
            has, wants = ("density", "mass") if view.is_mass else ("mass", "density")
            yield (
                f"Site {name!r}: {family(site)} has a {has}, and the data's unit, {view.unit}, is "
                f"that of a {wants}. Take another likelihood, or the same data in another view "
                "(there are names that end in -gray, -levels, -dequantised)."
            )


def is_of(value: Tensor, x: Tensor) -> bool:
    """Whether values are those of x, or a part of them."""
    if value.untyped_storage().data_ptr() == x.untyped_storage().data_ptr():
        return True
    same = value.numel() == x.numel()
    return same and bool((value.reshape(-1) == x.reshape(-1).to(value)).all())

"""Reading a model's latent sites, and the order in which a guide can draw them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.inspect import get_dependencies
from pyro.poutine.util import site_is_subsample
from pyro.util import get_rng_state, set_rng_state
from torch import Tensor, nn
from torch.distributions import constraints


@dataclass(frozen=True)
class LatentSite:
    """What a guide needs to know of one latent site.

    Args:
        name: of the site.
        event_shape: shape of one value.
        support: where a value lies, the same for every datum.
        local: whether every datum has its own, in the data plate.
        parents: the sites that are drawn before it and that its posterior depends on.
    """

    name: str
    event_shape: tuple[int, ...]
    support: constraints.Constraint
    local: bool
    parents: tuple[str, ...]


def read(
    model: Callable[..., Any], batch: tuple[Tensor, ...], structured: bool
) -> tuple[str, list[LatentSite]]:
    """Run a model on a batch, twice, and return its data plate's name and its latent sites.

    Those outside the plate come first, then the local ones, both in the model's order. It
    leaves modes, parameters and random states as they were, and no handler around the call sees the
    runs.

    Args:
        model: p(z) p(x | z), conditioned on the batch with ``obs=``.
        batch: its arguments.
        structured: whether to look for dependences; else there are no parents.

    Raises:
        ValueError: there is no data plate, or no latent site in it; or a site is masked or scaled,
            is in a plate of its own, or has a support that differs from datum to datum or is
            learned; or the dependences can't be read.
    """
    with _aside(model, batch), pyro.validation_enabled(False):
        trace = poutine.trace(model).get_trace(*batch)
        nodes: dict[str, Any] = {**trace.nodes}
        nodes = {
            name: site
            for name, site in nodes.items()
            if site["type"] == "sample" and not site_is_subsample(site)
        }
        plate = _data_plate(nodes, len(batch[0]))
        latent = {name: site for name, site in nodes.items() if not site["is_observed"]}
        for name, site in latent.items():
            _refuse(name, site, plate)
        local = {name for name, site in latent.items() if plate in _plates(site)}
        order = [*(n for n in latent if n not in local), *(n for n in latent if n in local)]
        parents: dict[str, tuple[str, ...]] = dict.fromkeys(order, ())
        if structured:
            parents = faithful_parents(order, _factors(model, batch))
    if not local:
        raise ValueError(
            "The model has no latent site in its data plate: there is nothing to amortise. Take "
            "one of Pyro's AutoGuides, or move a site into pyro.plate('data', len(x))."
        )
    return plate, [
        LatentSite(
            name,
            tuple(latent[name]["fn"].event_shape),
            _shared_support(name, latent[name]["fn"]),
            name in local,
            parents[name],
        )
        for name in order
    ]


def faithful_parents(
    order: Sequence[str], factors: Iterable[set[str]]
) -> dict[str, tuple[str, ...]]:
    """Return for each site the earlier ones that its posterior needs to know, and no others.

    Sites that share a factor of the joint density are neighbours. The last site in the order
    depends on its neighbours; summing it out makes these neighbours of each other; and so on. The
    result is a minimal faithful inverse for this order: it asserts no independence that the
    posterior lacks, and needs every edge.

    Source: Webb et al. 2018, arXiv 1712.00287, algorithm 1.

    Args:
        order: names in the order of drawing.
        factors: names that each factor depends on; those not in ``order`` are known values.
    """
    neighbours: dict[str, set[str]] = {name: set() for name in order}

    def join(names: set[str]) -> None:
        for name in names:
            neighbours[name] |= names - {name}

    for factor in factors:
        join(factor & neighbours.keys())
    parents: dict[str, tuple[str, ...]] = {}
    for name in reversed(order):
        near = neighbours.pop(name)
        parents[name] = tuple(other for other in order if other in near)
        for other in near:
            neighbours[other].discard(name)
        join(near)
    return parents


def _factors(model: Callable[..., Any], batch: tuple[Tensor, ...]) -> list[set[str]]:
    """Return the sites that each site's density depends on, itself among them."""
    try:
        known: Any = get_dependencies(model, batch)["prior_dependencies"]
    except Exception as error:
        raise ValueError(
            f"The dependences of the model's sites can't be read: {error}. Take structured=False."
        ) from error
    return [{name, *others} for name, others in known.items()]


@contextmanager
def _aside(model: Callable[..., Any], batch: tuple[Tensor, ...]) -> Iterator[None]:
    """Run unseen: no handler, no change of a mode, a buffer, a parameter or a random state."""
    root = getattr(model, "__self__", model)
    modules = list(root.modules()) if isinstance(root, nn.Module) else []
    training = [module for module in modules if module.training]
    devices = {t.device for t in batch if t.is_cuda}
    state, store = get_rng_state(), pyro.get_param_store()
    for module in training:
        module.training = False
    try:
        with (
            poutine.block(),
            torch.random.fork_rng(list(devices)),
            store.scope(store.get_state()),
            torch.enable_grad(),
        ):
            yield
    finally:
        set_rng_state(state)
        for module in training:
            module.training = True


def _plates(site: dict[str, Any]) -> list[str]:
    return [frame.name for frame in site["cond_indep_stack"] if frame.vectorized]


def _data_plate(nodes: dict[str, Any], size: int) -> str:
    """Return the name of the plate that the observed sites are in."""
    names = [
        frame.name
        for site in nodes.values()
        if site["is_observed"]
        for frame in site["cond_indep_stack"]
        if frame.vectorized and frame.dim == -1 and frame.size == size
    ]
    if not names:
        raise ValueError(
            f"The model observes nothing in a plate of size {size}, the batch's, at dim -1. Wrap "
            "the sites of one datum in `with pyro.plate('data', len(x)):`, and observe the data "
            "there with obs=."
        )
    return names[0]


def _refuse(name: str, site: dict[str, Any], plate: str) -> None:
    others = [other for other in _plates(site) if other != plate]
    if others:
        raise ValueError(
            f"Site {name!r} is in the plate {', '.join(map(repr, others))} besides the data's. "
            "Everything about one datum must be event dimensions: declare them with .to_event()."
        )
    if torch.as_tensor(site["scale"]).ne(1).any():
        raise ValueError(
            f"Site {name!r} is scaled by {site['scale']}, and a bound needs the same in the guide. "
            "Leave the scale to the objective: Elbo(beta=...), or a schedule of the KL's weight."
        )
    if site["mask"] is not None:
        raise ValueError(
            f"Site {name!r} is masked, and the mask belongs to the batch, so a guide made once "
            "can't know it. Leave the mask to the observed sites; for labels of which some are "
            "known, leave the site latent and name the batch's entry with known=."
        )


def _shared_support(name: str, fn: Any) -> constraints.Constraint:
    """Return the support with bounds of shape (*event_shape) or less, if the data share it."""
    support = fn.support
    depth, base = 0, support
    while isinstance(base, constraints.independent):
        depth, base = depth + base.reinterpreted_batch_ndims, base.base_constraint
    bounds: dict[str, Any] = {
        side: getattr(base, side) for side in ("lower_bound", "upper_bound") if hasattr(base, side)
    }
    if not any(isinstance(bound, Tensor) for bound in bounds.values()):
        return support
    for side, bound in bounds.items():
        if not isinstance(bound, Tensor):
            continue
        while bound.dim() > len(fn.event_shape):
            if not bool((bound == bound[:1]).all()):
                raise ValueError(
                    f"Site {name!r} has a support whose {side} differs from datum to datum. "
                    "Sample the site from a fixed interval, as the unit interval, and rescale it "
                    "in the model."
                )
            bound = bound[0]
        if bound.requires_grad:
            raise ValueError(
                f"Site {name!r} has a support whose {side} is learned, and a guide's "
                "would stay where it is now. Sample the site from a fixed interval, as the unit "
                "interval, and rescale it in the model."
            )
        bounds[side] = bound.detach().clone()
    base = type(base)(**bounds)
    return constraints.independent(base, depth) if depth else base

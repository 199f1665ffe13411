"""What is wrong with a pair, in words, before an hour is spent on it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import biject_to, constraints

from . import rng
from .log_weights import log_weights, read
from .programs import (
    Batch,
    Program,
    as_tuple,
    evaluating,
    in_data_plate,
    latent_sites,
    observed_sites,
    param_store,
    random_sites,
    run,
    run_at,
    support,
)
from .reached import Unregistered
from .tensors import tensors_of

Traces = tuple[poutine.Trace, poutine.Trace]


class View(Protocol):
    """How x came from stored values, as far as a check wants to know it.

    Attributes:
        is_mass: whether log p(x) is that of a probability; None where it is not known.
    """

    is_mass: bool | None

    @property
    def unit(self) -> str:
        """What one datum's log p(x) is the logarithm of."""
        ...


def check(model: Program, guide: Program, x: Batch, view: View | None = None) -> list[str]:
    """Tell what is wrong with a pair, one sentence or two for each fault; none for a sound pair.

    It runs the pair on the batch a few times, in evaluation mode; parameters, buffers and random
    states are left as they were. Faults are looked for in this order, and the first kind found
    ends the search, for the later ones often follow from it: programs that raise; latent sites in
    one half only; shapes or plates that differ; no data plate; values outside a support; log
    densities that are not finite; parameters without gradient; log weights that depend on the
    rest of the batch; a guide that ignores x; and whatever else Pyro's own validation says.

    Args:
        model: p(z) p(x | z), conditioned on the batch with ``obs=``.
        guide: q(z | x).
        x: a batch of real data, of two data or more.
        view: how x came from stored values, which tells whether a density or a mass is wanted.
    """
    batch = as_tuple(x)
    with rng.isolated(0), evaluating(model, guide):
        with pyro.validation_enabled(False):
            faults, traces = _run(model, guide, batch)
            if traces is None:
                return faults
            size = len(batch[0])
            searches: list[Callable[[], Iterator[str]]] = [
                lambda: _lone_sites(*traces),
                lambda: _shapes(*traces),
                lambda: _data_plate(traces[0], size),
                lambda: _surfaces(*traces),
                lambda: _supports(traces[0]),
                lambda: _reach(*traces),
                lambda: _measure(traces[0], view),
                lambda: _densities(*traces),
                lambda: _gradients(model, guide, x),
                lambda: _batch_size(model, guide, batch, traces),
                lambda: _ignores_data(model, guide, batch, traces[1]),
            ]
            for search in searches:
                if faults := list(search()):
                    return faults
        return _validation(model, guide, batch)


def _run(
    model: Program, guide: Program, batch: tuple[Tensor, ...]
) -> tuple[list[str], Traces | None]:
    for half, program in (("guide", guide), ("model", model)):
        try:
            with param_store(model):
                program(*batch)
        except Exception as error:
            return [f"The {half} raised {type(error).__name__}: {error}"], None
    try:
        return [], run(model, guide, batch)
    except Exception as error:
        return [f"The model, replayed on the guide, raised {type(error).__name__}: {error}"], None


def _lone_sites(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> Iterator[str]:
    latent, drawn = latent_sites(model_trace), latent_sites(guide_trace)
    for name in latent.keys() - drawn.keys():
        yield (
            f"Site {name!r} is latent in the model, and the guide does not sample it. Sample it in "
            "the guide under the same name, or observe it in the model with obs=."
        )
    for name, site in drawn.items():
        if name in observed_sites(model_trace):
            yield f"Site {name!r} is observed in the model, and the guide samples it. Remove one."
        elif name not in latent and not site["infer"].get("is_auxiliary"):
            yield (
                f"Site {name!r} is sampled by the guide, and the model does not have it. Sample it "
                "in the model under the same name, or remove it from the guide."
            )


def _shapes(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> Iterator[str]:
    drawn = latent_sites(guide_trace)
    for name, site in latent_sites(model_trace).items():
        other = drawn[name]
        for what in ("event_shape", "batch_shape"):
            mine, theirs = (tuple(getattr(s["fn"], what)) for s in (site, other))
            if mine != theirs:
                yield (
                    f"Site {name!r} has {what} {mine} in the model and {theirs} in the guide. "
                    "Make them equal; dimensions within one datum are declared with .to_event()."
                )
        plates, others = (
            sorted((f.name, f.size, f.dim) for f in s["cond_indep_stack"]) for s in (site, other)
        )
        if plates != others:
            yield (
                f"Site {name!r} is in the plates {_plates(plates)} in the model and in "
                f"{_plates(others)} in the guide. Put it in the same ones."
            )


def _plates(plates: list[tuple[str, int, int]]) -> str:
    named = [f"{name!r} (size {size}, dim {dim})" for name, size, dim in plates]
    return " and ".join(named) if named else "no plate"


def _data_plate(model_trace: poutine.Trace, size: int) -> Iterator[str]:
    observed = observed_sites(model_trace)
    if not observed:
        yield "The model observes nothing. Give the site of the data obs=x."
    for name, site in observed.items():
        if not in_data_plate(site, size):
            yield (
                f"No data plate: the observed site {name!r} is in no plate of size {size}, the "
                "batch's, at dim -1. Wrap the sites of one datum in "
                "`with pyro.plate('data', len(x)):`, in the model and in the guide."
            )


def _surfaces(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> Iterator[str]:
    """Find densities per area beside densities per volume, of which no ratio exists."""
    drawn = latent_sites(guide_trace)
    for name, site in latent_sites(model_trace).items():
        mine, theirs = _single(site["fn"]), _single(drawn[name]["fn"])
        p, q = _dimensions(site["fn"]), _dimensions(drawn[name]["fn"])
        if p is not None and q is not None and p != q:
            yield (
                f"Site {name!r}: {_name(mine)} in the model is a density over {p} dimensions, and "
                f"{_name(theirs)} in the guide over {q}: one is spread over a surface, the other "
                "over space, and they do not compare. Take a prior and a family on the same space, "
                "as UniformSphere and PowerSpherical."
            )


def _dimensions(fn: Any) -> int | None:
    """Return how many dimensions the support of one event has; None where that is not known."""
    try:
        space = support(fn)
        if isinstance(space, type(dist.constraints.sphere)):
            return fn.event_shape.numel() - 1
        return torch.Size(biject_to(space).inverse_shape(fn.event_shape)).numel()
    except (NotImplementedError, AttributeError):
        return None


def _supports(model_trace: poutine.Trace) -> Iterator[str]:
    for name, site in random_sites(model_trace).items():
        # Element by element, so that a wrong one can be shown.
        fn, value = _single(site["fn"]), site["value"]
        try:
            space = support(fn)
            while isinstance(space, constraints.independent):
                space = space.base_constraint
            inside = space.check(value)
        except (NotImplementedError, AttributeError):
            continue
        if isinstance(fn, dist.Binomial) and site["is_observed"] and value.max() <= 1:
            trials = int(fn.total_count.max())
            if trials > 1:
                yield (
                    f"Site {name!r}: the data never exceed 1, and Binomial counts {trials} trials: "
                    "they look re-binarised. Take the data as counts, or Bernoulli."
                )
        elif site["is_observed"] and inside.all() and _for_greys(space) and _are_bits(value):
            yield (
                f"Site {name!r}: the data are 0 and 1 alone, and {_name(fn)} is for values "
                "between them too. Take Bernoulli, or another view of the data."
            )
        if not inside.all():
            wrong = value[~inside.expand(value.shape)] if inside.shape == value.shape else value
            whose = "data" if site["is_observed"] else "guide's draws"
            yield (
                f"Site {name!r}: {(~inside).sum():,} of {inside.numel():,} values of the {whose} "
                f"lie outside the support of {_name(fn)} ({space}), as "
                f"{wrong.flatten()[0].item():.4g} does. Take another "
                f"{'likelihood, or another view of the data' if site['is_observed'] else 'family'}."
            )


def _reach(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> Iterator[str]:
    """Find guides that may yet draw what the prior does not know, though this time they did not."""
    drawn = latent_sites(guide_trace)
    for name, site in latent_sites(model_trace).items():
        fn, value = drawn[name]["fn"], site["value"]
        try:
            mine, theirs = site["fn"].support, support(fn)
            if _is_real(theirs):  # so says any transform that ends by shifting
                continue
            to_support = biject_to(theirs)
            shape = to_support.inverse_shape(fn.event_shape)
            inside = mine.check(to_support(3 * torch.randn(100, *shape).to(value)))
        except (NotImplementedError, AttributeError):
            continue
        if not inside.all():
            yield (
                f"Site {name!r}: the guide's support, {theirs}, is not within the model's, {mine}. "
                "Give both the same, as WrappedNormal twice with one curvature."
            )


def _is_real(space: Any) -> bool:
    while isinstance(space, constraints.independent):
        space = space.base_constraint
    return space is constraints.real


def _single(fn: Any) -> Any:
    while hasattr(fn, "base_dist") and type(fn).__name__ == "Independent":
        fn = fn.base_dist
    return fn


def _name(fn: Any) -> str:
    return type(fn).__name__.lstrip("_")


def _for_greys(space: Any) -> bool:
    """Whether 0 and 1 are the ends of a support that has more values between them."""
    if space is constraints.boolean or space.event_dim:
        return False
    inside = [bool(space.check(torch.tensor(end)).all()) for end in (1.0, 2.0)]
    return inside == [True, False]


def _are_bits(value: Tensor) -> bool:
    return bool(((value == 0) | (value == 1)).all())


def _measure(model_trace: poutine.Trace, view: View | None) -> Iterator[str]:
    if view is None or view.is_mass is None:
        return
    for name, site in observed_sites(model_trace).items():
        if site["fn"].support.is_discrete != view.is_mass:
            fn = site["fn"]
            while type(fn).__name__ == "Independent":
                fn = fn.base_dist
            has, wants = ("density", "mass") if view.is_mass else ("mass", "density")
            yield (
                f"Site {name!r}: {_name(fn)} has a {has}, and the data's unit, {view.unit}, is "
                f"that of a {wants}. Take another likelihood, or the same data in another view "
                "(there are names that end in -gray, -levels, -dequantised)."
            )


def _densities(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> Iterator[str]:
    for half, trace in (("guide", guide_trace), ("model", model_trace)):
        for name, site in random_sites(trace).items():
            density = site["fn"].log_prob(site["value"])
            finite = density.isfinite()
            if not finite.all():
                yield (
                    f"Site {name!r} in the {half}: log_prob is {density[~finite][0].item()} for "
                    f"{(~finite).sum():,} of {finite.numel():,} elements. Look for a scale of 0, "
                    "an overflowing exp, or a nan in the data or in the network's output."
                )


def _gradients(model: Program, guide: Program, x: Batch) -> Iterator[str]:
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
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    for name, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            yield (
                f"Parameter {name!r} gets no gradient: the ELBO does not depend on it. Use it, "
                "remove it, or freeze it with requires_grad_(False); if another pair of functions "
                "made it, call pyro.clear_param_store() before making this one."
            )
        elif not gradient.isfinite().all():
            yield f"Parameter {name!r} gets a gradient with nan or inf in it."


def _batch_size(
    model: Program, guide: Program, batch: tuple[Tensor, ...], traces: Traces
) -> Iterator[str]:
    size, half = len(batch[0]), len(batch[0]) // 2
    if not half or _shared(traces, size):
        return
    values = {k: _first(s, size, half) for k, s in latent_sites(traces[1]).items()}
    alone = run_at(model, guide, tuple(t[:half] for t in batch), values)
    apart = read(*alone, half, (1, half)).total
    together = read(*traces, size, (1, size)).total[:, :half]
    if not torch.allclose(apart, together, rtol=1e-4, atol=1e-3):
        yield (
            "The ELBO of a datum changes with the batch that it is in: by up to "
            f"{(apart - together).abs().max().item():.3g} nats between batches of {half} and "
            f"{size}, at the same latent values. Something mixes the data, as a mean over the "
            "batch does, or scales by the batch's size."
        )


def _shared(traces: Traces, size: int) -> bool:
    """Whether a site lies outside the data plate, where ELBOs of single data do not exist."""
    return any(not in_data_plate(s, size) for t in traces for s in random_sites(t).values())


def _first(site: dict[str, Any], size: int, half: int) -> Tensor:
    value = site["value"]
    if not in_data_plate(site, size):
        return value
    return value.narrow(value.dim() - site["fn"].event_dim - 1, 0, half)


def _ignores_data(
    model: Program, guide: Program, batch: tuple[Tensor, ...], guide_trace: poutine.Trace
) -> Iterator[str]:
    size = len(batch[0])
    drawn = latent_sites(guide_trace)
    local = [name for name, site in drawn.items() if in_data_plate(site, size)]
    other = tuple(t.roll(1, 0) for t in batch)
    if not local or all(torch.equal(t, o) for t, o in zip(batch, other, strict=True)):
        return
    values = {name: site["value"] for name, site in drawn.items()}

    def densities(x: tuple[Tensor, ...]) -> list[Tensor]:
        sites = random_sites(run_at(model, guide, x, values)[1])
        return [sites[name]["fn"].log_prob(sites[name]["value"]) for name in local]

    with torch.enable_grad():
        parameters = tensors_of(model, guide, batch).parameters
    # An encoder may start at zero, as if it ignored x: shaken parameters show what it could see.
    with _shaken(parameters):
        same = all(map(torch.equal, densities(batch), densities(other)))
    if same:
        yield (
            f"The guide ignores x: q({', '.join(local)}) stays the same when the data are "
            "exchanged. Compute its parameters from x."
        )


@contextmanager
def _shaken(parameters: dict[str, Tensor]) -> Iterator[None]:
    before = {name: value.detach().clone() for name, value in parameters.items()}
    try:
        for value in parameters.values():
            value.add_(0.1 * torch.randn_like(value))
        yield
    finally:
        for name, value in parameters.items():
            value.copy_(before[name])


def _validation(model: Program, guide: Program, batch: tuple[Tensor, ...]) -> list[str]:
    try:
        with pyro.validation_enabled(True):
            traces = run(model, guide, batch)
            for trace in traces:
                trace.compute_log_prob()
    except Exception as error:
        return [f"Pyro's validation says: {error}"]
    return []

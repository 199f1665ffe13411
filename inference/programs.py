"""Running a pair of Pyro programs under handlers, and reading the traces' sites."""

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

Program = Callable[..., Any]
"""A model or a guide: a callable on the batch that makes Pyro's statements."""

Batch = Tensor | tuple[Tensor, ...]
"""x (B, *event_shape), or a tuple that starts with it."""


def run(
    model: Program, guide: Program, batch: tuple[Tensor, ...], particles: int = 1
) -> tuple[poutine.Trace, poutine.Trace]:
    """Trace the guide on the batch, then the model replayed on the guide's draws.

    Args:
        model: the generative program.
        guide: the inference program.
        batch: the arguments of both.
        particles: with K > 1, the size of an outer plate at dim -2.

    Returns:
        The model's trace and the guide's trace.
    """
    with param_store(model), _particle_plate(particles):
        guide_trace = poutine.trace(guide).get_trace(*batch)
        model_trace = poutine.trace(poutine.replay(model, guide_trace)).get_trace(*batch)
    return model_trace, guide_trace


def run_at(
    model: Program, guide: Program, batch: tuple[Tensor, ...], values: dict[str, Tensor]
) -> tuple[poutine.Trace, poutine.Trace]:
    """Trace both programs with their latent sites held at given values, as if observed.

    Args:
        model: the generative program.
        guide: the inference program.
        batch: the arguments of both.
        values: what each latent site is, by name.

    Returns:
        The model's trace and the guide's trace.
    """
    with param_store(model), poutine.condition(data=values):
        guide_trace = poutine.trace(guide).get_trace(*batch)
        model_trace = poutine.trace(model).get_trace(*batch)
    return model_trace, guide_trace


def as_tuple(x: Batch) -> tuple[Tensor, ...]:
    """Return the arguments that a pair is called with."""
    return x if isinstance(x, tuple) else (x,)


def tile(batch: tuple[Tensor, ...], times: int) -> tuple[Tensor, ...]:
    """Repeat a batch of B data, particle by particle: row k * B + n is datum n."""
    return tuple(t.repeat(times, *[1] * (t.dim() - 1)) for t in batch)


def random_sites(trace: poutine.Trace) -> dict[str, Any]:
    """Return the sample sites of a trace by name, without those that plates make."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site_is_subsample(site)
    }


def latent_sites(trace: poutine.Trace) -> dict[str, Any]:
    """Return the unobserved sample sites of a trace by name."""
    return {name: site for name, site in random_sites(trace).items() if not site["is_observed"]}


def observed_sites(trace: poutine.Trace) -> dict[str, Any]:
    """Return the observed sample sites of a trace by name."""
    return {name: site for name, site in random_sites(trace).items() if site["is_observed"]}


def in_data_plate(site: dict[str, Any], size: int) -> bool:
    """Whether a site sits in a plate of that size at dim -1."""
    return any(f.vectorized and f.dim == -1 and f.size == size for f in site["cond_indep_stack"])


_stores: WeakKeyDictionary[nn.Module, dict[str, Any]] = WeakKeyDictionary()


@contextmanager
def param_store(model: Program):
    """Run with the Pyro parameter store of this model.

    A module has a store of its own, so that two pairs in one process never meet in Pyro's global
    one, which would hand the parameters of the first to the second where their names are equal. A
    plain function has no other home for its parameters than the global store.
    """
    if isinstance(model, nn.Module):
        with pyro.get_param_store().scope(_stores.setdefault(model, {"params": {}, "constraints": {}})):
            yield
    else:
        yield


@contextmanager
def evaluating(*programs: Program):
    """Run without gradients and with every module in evaluation mode; put the modes back after."""
    modules = [m for p in programs if isinstance(p, nn.Module) for m in p.modules() if m.training]
    for module in modules:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in modules:
            module.training = True


@contextmanager
def _particle_plate(particles: int):
    if particles == 1:
        yield
    else:
        with pyro.plate("particles", particles, dim=-2):
            yield

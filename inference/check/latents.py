"""Faults in the use of the code: latent sites that nothing depends on, or only without gradient."""

from collections.abc import Iterator

import torch
from pyro import poutine
from torch import Tensor

from ..programs import PairSites, Program, run
from ..sites import Sites, select, sites_of, with_density
from ..stores import param_store
from ..tensors import tensors_of
from .batches import shaken


def use_of_draws(
    model: Program, guide: Program, batch: tuple[Tensor, ...], pair: PairSites
) -> Iterator[str]:
    """Find latent sites whose draws change nothing else in the model, or send it no gradient."""
    draws = {n: s for n, s in select(pair.guide, "latent").items() if n in pair.model}
    if not draws:
        return
    with torch.enable_grad():
        learned = tensors_of(model, guide, batch).parameters
    with shaken(learned):  # a decoder that starts at zero sends no gradient yet
        again = select(run(model, guide, batch).guide, "latent")
        values = {name: site.value.detach() for name, site in draws.items()}
        for name, site in draws.items():
            if name not in again or torch.equal(again[name].value, site.value):
                unused = False  # it has no other draw to compare with
            else:
                other = {**values, name: again[name].value}
                unused = _same(_at(model, batch, values), _at(model, batch, other), name)
            smooth = site.value.is_floating_point() and site.distribution.has_rsample
            if unused and not _imputed(name, pair.model):
                yield (
                    f"Nothing in the model depends on site {name!r}: log p(x | {name}) is the same "
                    "for another draw. Use it in the decoder, or remove it."
                )
            elif smooth and not unused and not _sends_gradient(model, batch, values, name):
                yield (
                    f"log p(x | {name}) sends no gradient to site {name!r}, so the guide learns "
                    "nothing from the data. Look for .detach(), .data, .item(), torch.no_grad(), a "
                    "rounding or an argmax between the draw and the likelihood."
                )


def _imputed(name: str, model: Sites) -> bool:
    """Whether it is what an ``obs_mask`` leaves to be drawn of a site's data."""
    of, made, _ = name.rpartition("_unobserved")
    return bool(made) and f"{of}_observed" in model


def _at(model: Program, batch: tuple[Tensor, ...], values: dict[str, Tensor]) -> Sites:
    """Return the model's sites at these values of the latent ones."""
    held = poutine.condition(model, data=values)
    with param_store(model):
        return sites_of(held, batch)


def _same(one: Sites, other: Sites, latent: str) -> bool:
    """Whether two runs have the same densities at all sites but one."""
    if one.keys() != other.keys():
        return False
    pairs = ((s, other[n]) for n, s in with_density(one).items() if n != latent)
    return all(torch.equal(a.log_prob(), b.log_prob()) for a, b in pairs)


def _sends_gradient(
    model: Program, batch: tuple[Tensor, ...], values: dict[str, Tensor], latent: str
) -> bool:
    """Whether the densities of the other sites have a gradient with respect to a draw."""
    with torch.enable_grad():
        value = values[latent].clone().requires_grad_(True)
        found = with_density(_at(model, batch, {**values, latent: value}))
        loss = sum((s.log_prob().sum() for n, s in found.items() if n != latent), torch.zeros(()))
        if not loss.requires_grad:
            return False
        (gradient,) = torch.autograd.grad(loss, value, allow_unused=True)
    return gradient is not None and bool(gradient.ne(0).any())  # nan is not 0

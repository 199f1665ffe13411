"""Faults that show in further runs of a pair: gradients, other batches, other data."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..log_weights import log_weights, read
from ..programs import Batch, PairSites, Program, run, run_at
from ..reached import Unregistered
from ..sites import Site, select, with_density
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
    for name, gradient in zip(parameters, found, strict=True):
        if gradient is None:
            yield (
                f"Parameter {name!r} gets no gradient: the ELBO does not depend on it. Use it, "
                "remove it, or freeze it with requires_grad_(False); if another pair of functions "
                "made it, call pyro.clear_param_store() before making this one."
            )
        elif not gradient.isfinite().all():
            yield f"Parameter {name!r} gets a gradient with nan or inf in it."


def stray_plates(
    model: Program, guide: Program, batch: tuple[Tensor, ...], pair: PairSites
) -> Iterator[str]:
    """Find plates of the batch's length beside that of the data."""
    size, half = len(batch[0]), len(batch[0]) // 2
    strays = {n: s for part in pair for n, s in part.items() if _stray(s, size)}
    if not strays or not half:
        return
    try:
        fewer = run(model, guide, tuple(t[:half] for t in batch))
    except Exception:  # a plate of a fixed length fits no other batch
        return
    for name, site in strays.items():
        if any(name in part and _stray(part[name], half) for part in fewer):
            plate = next(frame.name for frame in site.frames if frame.dim == -1)
            yield (
                f"Site {name!r} is in plate {plate!r}, which is as long as the batch and is not "
                "that of the data, in which the model observes: its terms would count as those of "
                "a site that all data share. Give both plates one name."
            )


def _stray(site: Site, size: int) -> bool:
    return site.elsewhere and any(f.dim == -1 and f.size == size for f in site.frames)


def batch_size(
    model: Program, guide: Program, batch: tuple[Tensor, ...], pair: PairSites
) -> Iterator[str]:
    """Find log weights that depend on the rest of the batch."""
    size, half = len(batch[0]), len(batch[0]) // 2
    if not half or _shared(pair, size):
        return
    values = {k: _first(s, size, half) for k, s in select(pair.guide, "latent").items()}
    try:
        alone = run_at(model, guide, tuple(t[:half] for t in batch), values)
        apart = read(alone, half, (1, half)).total
    except (LookupError, NotImplementedError):
        return  # a flow without an inverse has a density at its own draws alone
    together = read(pair, size, (1, size)).total[:, :half]
    if not torch.allclose(apart, together, rtol=1e-4, atol=1e-3):
        yield (
            "The ELBO of a datum changes with the batch that it is in: by up to "
            f"{(apart - together).abs().max().item():.3g} nats between batches of {half} and "
            f"{size}, at the same latent values. Something mixes the data, as a mean over the "
            "batch does, or scales by the batch's size."
        )


def _shared(pair: PairSites, size: int) -> bool:
    """Whether a site lies outside the data plate, where ELBOs of single data do not exist."""
    found = [site for half in pair for site in with_density(half).values()]
    return not all(site.in_data_plate(size) for site in found)


def _first(site: Site, size: int, half: int) -> Tensor:
    if not site.in_data_plate(size):
        return site.value
    place = site.value.dim() - len(site.distribution.event_shape) - 1
    return site.value.narrow(place, 0, half)


def ignores_data(
    model: Program, guide: Program, batch: tuple[Tensor, ...], pair: PairSites
) -> Iterator[str]:
    """Find a guide whose densities stay the same when the data are exchanged."""
    size = len(batch[0])
    drawn = select(pair.guide, "latent")
    local = [name for name, site in drawn.items() if site.in_data_plate(size)]
    other = tuple(t.roll(1, 0) for t in batch)
    if not local or all(torch.equal(t, o) for t, o in zip(batch, other, strict=True)):
        return
    values = {name: site.value for name, site in drawn.items()}

    def log_probs(x: tuple[Tensor, ...]) -> list[Tensor]:
        held = run_at(model, guide, x, values).guide
        return [held[name].distribution.log_prob(held[name].value) for name in local]

    with torch.enable_grad():
        parameters = tensors_of(model, guide, batch).parameters
    # An encoder that starts at zero seems to ignore x: shaken parameters show what it can see.
    try:
        with _shaken(parameters):
            same = all(map(torch.equal, log_probs(batch), log_probs(other)))
    except (LookupError, NotImplementedError):
        return  # as above
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

"""Faults that show in further runs of a pair: on other data, another order, half of the batch."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from ..programs import PairSites, Program, run, run_at
from ..sites import NoInverseError, Site, Sites, select, with_density
from ..tensors import tensors_of
from .telling import raised

_NO_INVERSE = (LookupError, NotImplementedError, NoInverseError)
"""A flow without an inverse raises these: it has a density at its own draws alone."""


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


def mixed_data(
    model: Program, guide: Program, batch: tuple[Tensor, ...], pair: PairSites
) -> Iterator[str]:
    """Find densities of a datum that depend on the rest of the batch, its order, or on chance."""
    size = len(batch[0])
    every = torch.arange(size, device=batch[0].device)
    try:
        if found := _worst(model, guide, batch, pair, every):
            half, name, gap = found
            if picked := _picked(pair):
                yield (
                    f"Plate {picked!r} picks other data in each call, and the {half} uses which "
                    f"(site {name!r} changes by up to {gap:.3g} nats): here the batch is picked "
                    "outside. Take the data from x, with subsample_size=len(x), and no indices."
                )
                return
            yield (
                f"Site {name!r} in the {half} has another density at the same values in another "
                f"call, by up to {gap:.3g} nats: the {half} draws random numbers besides its sites "
                "or changes what it reads. Dropout belongs into a module, where .eval() turns it "
                "off: take nn.Dropout in the place of F.dropout; a program may be a method of the "
                "module."
            )
            return
        order = torch.randperm(size).to(every.device)
        if found := _worst(model, guide, batch, pair, order):
            half, name, gap = found
            if half == "guide" and _unmoved(model, guide, batch, pair):
                yield _per_datum(model, guide, batch)
                return
            what = f"q({name} | x)" if half == "guide" else f"p({name} | ...)"
            yield (
                f"{what} of a datum changes with the order of the batch, by up to {gap:.3g} nats. "
                f"Something in the {half} runs along the batch or reads another datum: a recurrent "
                "layer without batch_first=True, a softmax or cumsum over dim 0, x[0] for all."
            )
            return
    except _NO_INVERSE:
        return
    if size // 2:
        yield from _halves(model, guide, batch, pair)


def _picked(pair: PairSites) -> str | None:
    """Return a plate of the data that takes some of its members."""
    sites = (site for half in pair for site in half.values() if site.stated_size is not None)
    return next((f.name for site in sites for f in site.frames if f.dim == -1), None)


def _halves(
    model: Program, guide: Program, batch: tuple[Tensor, ...], pair: PairSites
) -> Iterator[str]:
    size, half = len(batch[0]), len(batch[0]) // 2
    for places in torch.arange(size, device=batch[0].device).split([half, size - half]):
        try:
            found = _worst(model, guide, batch, pair, places)
        except _NO_INVERSE:
            return
        except Exception as error:
            yield _fixed_size(model, guide, batch, pair, error)
            return
        if found:
            whose, name, gap = found
            yield (
                "The ELBO of a datum changes with the batch that it is in: by up to "
                f"{gap:.3g} nats between batches of {len(places)} and {size}, at the same latent "
                f"values. At site {name!r} in the {whose} something mixes the data, as a mean over "
                "the batch does, or F.batch_norm, which belongs into a module, where .eval() turns "
                "it off; or it scales by the batch's size."
            )
            return


def _fixed_size(
    model: Program, guide: Program, batch: tuple[Tensor, ...], pair: PairSites, error: Exception
) -> str:
    """Return what to do with a pair that takes batches of one size alone."""
    if _unmoved(model, guide, batch, pair):
        return _per_datum(model, guide, batch)
    size = len(batch[0])
    told = raised("There the pair", error, tuple(t[: size // 2] for t in batch))
    return f"The pair runs on a batch of {size} and not on one of {size // 2}. {told}"


def _per_datum(model: Program, guide: Program, batch: tuple[Tensor, ...]) -> str:
    """Return what to do with a guide whose parameters are those of one batch."""
    size = len(batch[0])
    with torch.enable_grad():
        learned = tensors_of(model, guide, batch).parameters
    theirs = [n for n, v in learned.items() if n[:5] != "model" and v.dim() and not len(v) % size]
    named = f" ({', '.join(map(repr, theirs[:3]))})" if theirs else ""
    return (
        f"The guide has parameters for each of {size} data{named}, so that it fits no other batch. "
        "Amortise it: compute them from x, as AutoAmortized does; or use it with the whole data as "
        "one batch."
    )


def _unmoved(model: Program, guide: Program, batch: tuple[Tensor, ...], pair: PairSites) -> bool:
    """Whether the guide's densities stay the same, place by place, when the data are exchanged."""
    values = {name: site.value for name, site in select(pair.guide, "latent").items()}
    try:
        other = run_at(model, guide, tuple(t.roll(1, 0) for t in batch), values).guide
    except Exception:  # what it raises on these data is told elsewhere
        return False
    found = select(pair.guide, "latent").items()
    return all(n in other and torch.equal(s.log_prob(), other[n].log_prob()) for n, s in found)


def _worst(
    model: Program, guide: Program, batch: tuple[Tensor, ...], pair: PairSites, places: Tensor
) -> tuple[str, str, float] | None:
    """Return the half and the site whose densities differ on those data alone, and by how much."""
    size = len(batch[0])
    drawn = select(pair.model, "latent") | select(pair.guide, "latent")
    values = {name: _at(site, places, size) for name, site in drawn.items()}
    some = run_at(model, guide, tuple(t.index_select(0, places) for t in batch), values)
    for half, all_, few in (("guide", pair.guide, some.guide), ("model", pair.model, some.model)):
        together, apart = _by_datum(all_, size), _by_datum(few, len(places))
        for name in together.keys() & apart.keys():
            expected = together[name].index_select(0, places)
            if not torch.allclose(apart[name], expected, rtol=1e-4, atol=1e-3):
                return half, name, (apart[name] - expected).abs().max().item()
    return None


def _by_datum(found: Sites, size: int) -> dict[str, Tensor]:
    """Return the log density of each site in the data plate, summed for each datum, (B,)."""
    local = {n: s for n, s in with_density(found).items() if s.in_data_plate(size)}
    densities = {name: site.log_prob() for name, site in local.items()}
    return {n: d.reshape(-1, d.shape[-1]).sum(0) for n, d in densities.items() if d.dim()}


def _at(site: Site, places: Tensor, size: int) -> Tensor:
    """Return the values of a latent site for some of the data."""
    place = site.value.dim() - len(site.distribution.event_shape) - 1
    if not site.in_data_plate(size) or site.value.shape[place] != size:
        return site.value
    return site.value.index_select(place, places)


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

    def same() -> bool:
        pairs = zip(log_probs(batch), log_probs(other), strict=True)
        return all(torch.equal(a, b) and bool(a.isfinite().any()) for a, b in pairs)

    with torch.enable_grad():
        parameters = tensors_of(model, guide, batch).parameters
    # An encoder that starts at zero seems to ignore x: shaken parameters show what it can see. One
    # shake may leave every unit of a layer off.
    try:
        for size_of_shake in (0.0, 0.1, 0.01, 0.3):
            with shaken(parameters, size_of_shake):
                if not same():
                    return
    except _NO_INVERSE:
        return
    yield (
        f"The guide ignores x: q({', '.join(local)}) stays the same when the data are "
        "exchanged. Compute its parameters from x."
    )


@contextmanager
def shaken(parameters: Mapping[str, Tensor], by: float = 0.1) -> Iterator[None]:
    """Add noise to parameters, and put them back as they were.

    Args:
        parameters: what is learned, by name.
        by: standard deviation of the noise.
    """
    before = {name: value.detach().clone() for name, value in parameters.items()}
    try:
        with torch.no_grad():
            for value in parameters.values():
                value.add_(by * torch.randn_like(value))
        yield
    finally:
        with torch.no_grad():
            for name, value in parameters.items():
                value.copy_(before[name])

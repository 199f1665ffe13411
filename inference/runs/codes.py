"""The codes of data: which latent sites hold them, and the shapes that they come in."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import rng
from ..evaluation.moments import data_dim
from ..programs import Program, evaluating, run
from ..sites import select

ROWS = 1024
"""Data that go through the pair at once."""


class CodeSite(NamedTuple):
    """A latent site with a code for each datum.

    Args:
        dim: where the data are among the dimensions of its value.
        shape: of the code of one datum.
    """

    dim: int
    shape: tuple[int, ...]


class LatentSites(NamedTuple):
    """The latent sites that model and guide share: those with a code for each datum, and others."""

    codes: dict[str, CodeSite]
    shared: list[str]

    def flattened(
        self, z: Tensor | Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], tuple[int, ...]]:
        """Return codes by site with one dimension (N, *shape) for all data, and what it was before.

        Args:
            z: codes (*lead, *shape) of the only site, or of some sites by name.

        Raises:
            ValueError: there are several sites, or no such one, or a code has another shape.
        """
        if not isinstance(z, Mapping):
            if len(self.codes) != 1:
                raise ValueError(
                    f"There are latent sites {', '.join(self.codes)}: give their codes by name."
                )
            z = {next(iter(self.codes)): z}
        found: dict[str, Tensor] = {}
        leads: set[tuple[int, ...]] = set()
        for name, value in z.items():
            if name not in self.codes:
                raise ValueError(f"No latent site {name!r}; there are: {', '.join(self.codes)}.")
            shape = self.codes[name].shape
            code = torch.as_tensor(value)
            if code.is_floating_point():  # NumPy's are of 64 bits
                code = code.to(torch.get_default_dtype())
            before = code.dim() - len(shape)
            if before < 0 or tuple(code.shape[before:]) != shape:
                raise ValueError(
                    f"A code of site {name!r} has the shape {shape}; got {tuple(code.shape)}."
                )
            leads.add(tuple(code.shape[:before]))
            found[name] = code.reshape(-1, *shape)
        if len(leads) != 1:
            raise ValueError(f"Expected equally many codes of each site; got {sorted(leads)}.")
        return found, leads.pop()


def latent_sites(model: Program, guide: Program, batch: tuple[Tensor, ...]) -> LatentSites:
    """Return the latent sites of a pair, from one run on a batch of at least two data."""
    with rng.isolated(0), evaluating(model, guide):
        pair = run(model, guide, batch)
    size, codes, shared = len(batch[0]), {}, []
    for name, site in select(pair.guide, "latent").items():
        if not site.in_data_plate(size):
            shared.append(name)
        elif name in pair.model:
            place = data_dim(site)
            codes[name] = CodeSite(place, tuple(site.value.movedim(place, 0).shape[1:]))
    return LatentSites(codes, shared)


def in_batches(
    count: int, make: Callable[[slice], dict[str, Tensor]], seed: int
) -> dict[str, Tensor]:
    """Return what a function makes of some rows at a time: by site, (count, ...), on the CPU."""
    if not count:
        raise ValueError("There are no data: 0 rows.")
    parts: list[dict[str, Tensor]] = []
    with rng.isolated(seed):
        for start in range(0, count, ROWS):
            found = make(slice(start, min(start + ROWS, count)))
            parts.append({name: value.cpu() for name, value in found.items()})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def the_only(values: dict[str, Tensor]) -> Any:
    """Return the tensor where there is one site, else those of all by name."""
    return next(iter(values.values())) if len(values) == 1 else values


def positive(count: int) -> int:
    """Return a number that is to be at least 1.

    Raises:
        ValueError: it is less.
    """
    if count < 1:
        raise ValueError(f"Expected at least 1; got {count}.")
    return count

"""How far the model's expectation of x moves as one coordinate of z moves."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..programs import tile
from ..sites import Sites, select
from .moments import by_datum, closed_form_mean

ModelAt = Callable[[tuple[Tensor, ...], dict[str, Tensor]], Sites]
"""The model run on a batch with these values of its latent sites."""


def moves(
    model_at: ModelAt,
    batch: tuple[Tensor, ...],
    draws: Mapping[str, Tensor],
    name: str,
    deviations: Tensor,
    at_once: int,
) -> Tensor | None:
    """Return the root mean square distance that E[x | z] moves with each coordinate, (Z,).

    Args:
        model_at: the model.
        batch: M data.
        draws: of each latent site, (M, ...).
        name: of the site whose coordinates move.
        deviations: how far each moves, half of it to either side, (M, Z).
        at_once: coordinates that one run of the model moves.

    Returns:
        Units of x; None where E[x | z] has no closed form.
    """
    size, shape = len(batch[0]), draws[name].shape
    flat = draws[name].reshape(size, -1)
    moved: list[Tensor] = []
    for some in torch.arange(flat.shape[1]).split(at_once):
        count = len(some)
        step = flat.new_zeros(count, *flat.shape)
        step[torch.arange(count), :, some] = deviations[:, some].T / 2
        tiled = dict(zip(draws, tile(tuple(draws.values()), count), strict=True))
        ends: list[Tensor] = []
        for end in (flat + step, flat - step):
            values = {**tiled, name: end.reshape(count * size, *shape[1:])}
            expected = _expected(model_at(tile(batch, count), values), values, count * size)
            if expected is None:
                return None
            ends.append(expected)
        squares = (ends[0] - ends[1]).square().sum(1)
        moved.append(squares.reshape(count, size).mean(1).sqrt())
    return torch.cat(moved)


def _expected(found: Sites, held: Mapping[str, Tensor], size: int) -> Tensor | None:
    """Return E[x | z] of the data of every observed site, side by side, (B, U)."""
    means: list[Tensor] = []
    for name, site in select(found, "observed").items():
        if name in held or not site.in_data_plate(size):
            continue
        mean = closed_form_mean(site)
        if mean is None:
            return None
        means.append(by_datum(mean, site))
    return torch.cat(means, 1) if means else None

"""The three pictures of a trained pair: prior samples, reconstructions, interpolations."""

from pathlib import Path

import torch
from torch import Tensor

from .. import rng
from ..data.records import Split
from ..evaluation.generate import interpolations, prior_samples, reconstructions
from ..programs import Program, as_tuple
from .plots import as_image, is_image, save_values


def save_pictures(
    model: Program,
    guide: Program,
    split: Split,
    folder: Path,
    *,
    rows: int = 8,
    columns: int = 8,
    seed: int = 0,
) -> list[Path]:
    """Draw a pair as ``samples.png``, ``reconstructions.png`` and ``interpolations.png``.

    Each shows what the likelihood expects (its mode, or a draw, where it has no finite mean), as
    `save_values` draws it; in the second, data stand above or beside their reconstructions; in the
    third, each row leads from one datum's code to another's. Flattened images are drawn as images.
    A model that observes several sites gets a set of pictures for each, but for reconstructions of
    sites that do not have the size of the data, and for interpolations of what is no image.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        split: where the data come from, at random.
        folder: where to; made if it is not there.
        rows: rows of images in a picture.
        columns: images in a row.
        seed: of the choice of data and of the draws.

    Returns:
        The paths of the files.

    Raises:
        ValueError: the split has fewer data than a picture needs.
    """
    needed = max(rows * columns, 2 * rows)
    if len(split) < needed:
        raise ValueError(f"Expected at least {needed} data for the pictures; got {len(split)}.")
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []

    def save(
        kind: str, site: str, values: Tensor, title: str, beside: Tensor | None = None
    ) -> None:
        paths.append(folder / (f"{kind}.png" if site == "x" else f"{kind}-{site}.png"))
        save_values(values, columns, paths[-1], title, ink, beside)

    with rng.isolated(seed):
        places = torch.randperm(len(split), device=split.device)[:needed]
        batch = as_tuple(split.batch(places))
        x = batch[0]

        def first(count: int) -> tuple[Tensor, ...]:
            return tuple(each[:count] for each in batch)

        ink = (x == 0).float().mean().item() > 0.2  # as much paper as no photograph has
        upper = x[: max(1, rows // 2) * columns]
        shape = tuple(x.shape[1:])
        for site, values in prior_samples(model, first(rows * columns)).items():
            save("samples", site, as_image(values, shape), f"E[{site} | z], z ~ p(z)")
        for site, values in reconstructions(model, guide, first(len(upper))).items():
            found = as_image(values, shape)
            if found.shape == upper.shape:
                title = "data above their reconstructions" if is_image(upper) else "reconstructions"
                save("reconstructions", site, upper, title, found)
        for site, values in interpolations(model, guide, first(2 * rows), columns).items():
            found = as_image(values, shape)
            if is_image(found):
                save("interpolations", site, found, "from one datum's code to another's")
    return paths

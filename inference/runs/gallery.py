"""The three pictures of a trained pair: prior samples, reconstructions, interpolations."""

from pathlib import Path

import torch

from .. import rng
from ..data.records import Split
from ..evaluation.generate import interpolations, prior_samples, reconstructions
from ..programs import Program, as_tuple
from .figures import save_grid


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

    Each is a grid of what the likelihood expects; in the second, rows of data stand above rows of
    their reconstructions; in the third, each row leads from one datum's code to another's. A model
    that observes several sites gets a set of pictures for each, but for reconstructions of sites
    that do not have the shape of the data.

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

    def save(kind: str, site: str, images: torch.Tensor, title: str) -> None:
        paths.append(folder / (f"{kind}.png" if site == "x" else f"{kind}-{site}.png"))
        save_grid(images, columns, paths[-1], title, ink)

    with rng.isolated(seed):
        places = torch.randperm(len(split), device=split.device)[:needed]
        batch = as_tuple(split.batch(places))
        x = batch[0]

        def first(count: int) -> tuple[torch.Tensor, ...]:
            return tuple(each[:count] for each in batch)

        ink = (x == 0).float().mean().item() > 0.2  # as much paper as no photograph has
        upper = x[: max(1, rows // 2) * columns]
        for site, images in prior_samples(model, first(rows * columns)).items():
            save("samples", site, images, "E[x | z], z ~ p(z)")
        for site, images in reconstructions(model, guide, first(len(upper))).items():
            if images.shape == upper.shape:
                above, below = (t.unflatten(0, (-1, columns)) for t in (upper, images))
                both = torch.stack([above, below], 1).flatten(0, 2)
                save("reconstructions", site, both, "data above their reconstructions")
        for site, images in interpolations(model, guide, first(2 * rows), columns).items():
            save("interpolations", site, images, "from one datum's code to another's")
    return paths

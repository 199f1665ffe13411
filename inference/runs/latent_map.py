"""A map of the codes: where the guide puts each datum, in two coordinates."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import rng
from ..data.records import Split
from ..evaluation.generate import posterior_means
from ..programs import Program, as_tuple
from .codes import latent_sites
from .styles import LOOKS, Style, dots

MOST = 2000
"""Data that a map shows."""

MOST_CLASSES = 14
"""Classes that a legend names; more are a scale of colours."""

BATCH = 500
"""Data that go through the guide at once."""


def save_latent_maps(
    model: Program, guide: Program, split: Split, folder: Path, *, seed: int = 0
) -> list[Path]:
    """Draw E[z | x] of data of a split, a map for each latent site: ``latent-map.png``.

    A site of two numbers is drawn as it is, a larger one in its first two principal components.
    Where data have labels, classes differ in colour and marker. A site of one number, and one of no
    numbers as that of a Categorical, has no map; nor have data fewer than three.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        split: the data, of which 2,000 at random are drawn.
        folder: where to; made if it is not there.
        seed: of that choice, and of draws where E[z | x] takes some.

    Returns:
        The paths: ``latent-map.png``, or ``latent-map-SITE.png`` where there are several sites.
    """
    if len(split) < 3:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    with rng.isolated(seed):
        places = torch.randperm(len(split), device=split.device)[:MOST]
        sites = latent_sites(model, guide, as_tuple(split.batch(places[:2]))).codes
        parts: dict[str, list[Tensor]] = {name: [] for name in sites}
        for some in places.split(BATCH):
            found = posterior_means(model, guide, as_tuple(split.batch(some)))
            for name, site in sites.items():
                parts[name].append(found[name].movedim(site.dim, 0).flatten(1).double().cpu())
    codes = {name: torch.cat(values) for name, values in parts.items()}
    drawn = {n: z for n, z in codes.items() if z.shape[1] > 1 and bool(z.isfinite().all())}
    labels, style, paths = classes(split, places), Style(), []
    for name, z in drawn.items():
        points, axes = plane(z)
        stem = "latent-map" if len(drawn) == 1 else f"latent-map-{_plain(name)}"
        with style.applied():
            paths.append(_draw(points, axes, labels, name, folder, stem, style))
    return paths


def plane(z: Tensor) -> tuple[Tensor, tuple[str, str]]:
    r"""Return two coordinates of codes and what they are: the codes themselves, or components.

    The components are those of the covariance of z over the data, largest first: with the centred
    codes :math:`Z = U S V^\top`, the coordinates are the first two columns of :math:`Z V`.

    >>> import torch
    >>> z = torch.tensor([[3.0, 0, 0], [-3, 0, 0], [0, 1, 0], [0, -1, 0]])
    >>> plane(z)[1]
    ('component 1, 90 % of variance', 'component 2, 10 % of variance')

    Args:
        z: (N, Z), Z of 2 or more.

    Returns:
        Coordinates (N, 2), and the label of each axis.
    """
    if z.shape[1] == 2:
        return z, ("E[z₁ | x]", "E[z₂ | x]")
    centred = z - z.mean(0)
    _, scales, directions = torch.linalg.svd(centred, full_matrices=False)
    largest = directions[:2].abs().argmax(1)
    signs = directions[:2].gather(1, largest[:, None]).sign()  # else a library's choice
    shares = (scales.square() / scales.square().sum().clamp(min=1e-300)).tolist()
    first, second = (f"component {n + 1}, {100 * shares[n]:.0f} % of variance" for n in range(2))
    return centred @ (directions[:2] * signs).T, (first, second)


def classes(split: Split, places: Tensor) -> Tensor | None:
    """Return the labels of some data: those of the split, or whole numbers that batches carry."""
    if split.labels is not None:
        return torch.as_tensor(split.labels)[places.cpu()].cpu()
    for each in split.given:
        if each.dim() == 1 and not each.is_floating_point():
            return torch.as_tensor(each[places]).cpu()
    return None


def _draw(
    points: Tensor,
    names: tuple[str, str],
    labels: Tensor | None,
    site: str,
    folder: Path,
    stem: str,
    style: Style,
) -> Path:
    figure = style.figure(4.6)
    axes = figure.subplots()
    known = [] if labels is None else sorted(labels.unique().tolist())
    entries: list[tuple[Any, str]] = []
    if labels is not None and 0 < len(known) <= MOST_CLASSES:
        for label, look in zip(known, LOOKS, strict=False):
            own = points[labels == label]
            artist = axes.scatter(*own.T.numpy(), s=9, alpha=0.7, linewidths=0.6, **dots(look))
            entries.append((artist, f"{label:g} ({len(own)})"))
    else:
        colors = LOOKS[0]["color"] if labels is None else labels.double().numpy()
        artist = axes.scatter(*points.T.numpy(), s=9, alpha=0.7, linewidths=0, c=colors)
        if labels is not None:
            figure.colorbar(artist, ax=axes, label="label")
    axes.set_aspect("equal", "datalim")
    axes.set(xlabel=names[0], ylabel=names[1])
    axes.set_title(style.fits(f"E[{site} | x] of {len(points):,} data", 0.9))
    if entries:
        style.legend(figure, entries, "label (data)")
    return style.save(figure, folder, stem)


def _plain(name: str) -> str:
    """Return a site's name as one of a file."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)[:60]

"""Pictures: grids of data, ELBO traces."""

import math
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..files import atomic
from ..training.trace import Row

if TYPE_CHECKING:  # the import takes a second, and training needs none of it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXES = {"step": "optimiser step", "epoch": "epoch", "seconds": "training time (s)"}
"""What a trace can be drawn over, with the label of the axis."""


def image_grid(data: Tensor, columns: int) -> Tensor:
    """Arrange data in rows with a gap of one pixel between images.

    Args:
        data: images (N, 1, H, W), (N, 3, H, W) or (N, H, W), in [0, 1] or not; anything else is
            drawn as rows of numbers.
        columns: how many go in a row.

    Returns:
        One picture (height, width) or (height, width, 3), the gaps nan.
    """
    if data.dim() == 3:
        data = data.unsqueeze(1)
    if data.dim() != 4 or data.shape[1] not in (1, 3):
        data = data.reshape(len(data), 1, 1, -1)
    count, channels, height, width = data.shape
    rows = math.ceil(count / columns)
    picture = torch.full((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), math.nan)
    for place, image in enumerate(data.float().cpu()):
        top, left = (place // columns) * (height + 1), (place % columns) * (width + 1)
        picture[top : top + height, left : left + width] = image.permute(1, 2, 0)
    return picture.squeeze(-1)


def save_grid(data: Tensor, columns: int, path: Path, title: str, ink: bool = True) -> None:
    """Draw data as a grid of images.

    Args:
        data: what `image_grid` takes.
        columns: how many go in a row.
        path: PNG file.
        title: line above the picture.
        ink: whether 0 is paper, drawn white, as in handwriting; else black, as in photographs.
    """
    picture = image_grid(data, columns)
    height, width = picture.shape[:2]
    scale = min(8 / width, 8 / height)
    figure = new_figure(max(width * scale, 3.0), height * scale + 0.5)
    axes = figure.subplots()
    finite = data[data.isfinite()]
    low, high = min(0.0, finite.min().item()), max(1.0, finite.max().item())
    axes.imshow(
        picture.numpy(),
        cmap="gray_r" if ink else "gray",
        vmin=low,
        vmax=high,
        interpolation="nearest",
    )
    axes.set_title(title, fontsize=10)
    axes.axis("off")
    save(figure, path)


def wrapped(label: str) -> str:
    """Return a label in lines short enough for the side of a figure."""
    return fill(label, 40)


def save_trace(rows: Sequence[Row], path: Path, unit: str) -> None:
    """Draw a run's ELBO on train and valid over its steps, with the two parts of the latter.

    Args:
        rows: the trace.
        path: PNG file.
        unit: what the ELBO is measured in.
    """
    figure = new_figure(10, 4)
    whole, parts = figure.subplots(1, 2)
    for split in ("train", "valid"):
        chosen = [row for row in rows if row.split == split]
        whole.plot([r.step for r in chosen], [r.elbo for r in chosen], label=split)
    zoom(whole, [row.elbo for row in rows])
    whole.set(title="ELBO", xlabel=AXES["step"], ylabel=wrapped(unit))
    whole.legend(frameon=False)
    valid = [row for row in rows if row.split == "valid"]
    parts.plot([r.step for r in valid], [-r.reconstruction for r in valid], label="distortion")
    parts.plot([r.step for r in valid], [r.kl for r in valid], label="rate (KL)")
    zoom(parts, [v for r in valid for v in (-r.reconstruction, r.kl)], upper=True)
    parts.set(title="valid: ELBO = -distortion - rate", xlabel=AXES["step"], ylabel="nats")
    parts.legend(frameon=False)
    save(figure, path)


def save_curve(steps: Sequence[int], curve: Sequence[float], path: Path, unit: str) -> None:
    """Draw the mean K-sample bound over K: a curve that still rises is a bound that is too low.

    Args:
        steps: numbers of particles.
        curve: mean bound for each of them.
        path: PNG file.
        unit: what the bound is measured in.
    """
    figure = new_figure(6, 4)
    axes = figure.subplots()
    axes.plot(steps, curve, marker="o")
    axes.set(title="K-sample bound", xlabel="particles K", ylabel=wrapped(unit), xscale="log")
    save(figure, path)


def zoom(axes: "Axes", values: Sequence[float], upper: bool = False) -> None:
    """Leave the first steep part of a curve out of the picture, so that its end can be read."""
    if len(values) < 2:
        return
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 10], ordered[-1]
    if upper:
        low, high = ordered[0], ordered[-1 - len(ordered) // 20]
    margin = 0.05 * (high - low) or 1.0
    axes.set_ylim(low - margin, high + margin)


def save(figure: "Figure", path: Path, dpi: int = 120) -> None:
    """Write a figure in the format of its name, whole or not at all, the same bytes each time."""
    kind = path.suffix[1:] or "png"
    dates: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    with atomic(path) as partial:
        figure.savefig(partial, format=kind, dpi=dpi, metadata=dates.get(kind))


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of that size, in inches."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    rcParams["text.usetex"] = False  # a matplotlibrc of the present folder may start LaTeX by it
    return Figure(figsize=(width, height), layout="constrained")

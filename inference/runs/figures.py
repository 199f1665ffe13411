"""Pictures: grids of data, ELBO traces."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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
    figure = _figure(max(width * scale, 3.0), height * scale + 0.5)
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


def save_trace(rows: Sequence[Row], path: Path, unit: str) -> None:
    """Draw a run's ELBO on train and valid over its steps, with the two parts of the latter.

    Args:
        rows: the trace.
        path: PNG file.
        unit: what the ELBO is measured in.
    """
    figure = _figure(10, 4)
    whole, parts = figure.subplots(1, 2)
    for split in ("train", "valid"):
        chosen = [row for row in rows if row.split == split]
        whole.plot([r.step for r in chosen], [r.elbo for r in chosen], label=split)
    zoom(whole, [row.elbo for row in rows])
    whole.set(title="ELBO", xlabel=AXES["step"], ylabel=unit)
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
    figure = _figure(6, 4)
    axes = figure.subplots()
    axes.plot(steps, curve, marker="o")
    axes.set(title="K-sample bound", xlabel="particles K", ylabel=unit, xscale="log")
    save(figure, path)


def save_comparison(
    traces: Mapping[str, Sequence[Sequence[Row]]], over: str, path: Path, unit: str
) -> None:
    """Draw the validation ELBO of groups of runs: the mean over seeds, and each seed thinly.

    Args:
        traces: the traces of each group's runs, by the group's label.
        over: ``step``, ``epoch`` or ``seconds``.
        path: PNG file.
        unit: what the ELBO is measured in.

    Raises:
        ValueError: ``over`` is not one of the three.
    """
    if over not in AXES:
        raise ValueError(f"Expected over to be one of {', '.join(AXES)}; got {over!r}.")
    figure = _figure(7.5, 4.5)
    axes = figure.subplots()
    for label, members in traces.items():
        valid = [[row for row in rows if row.split == "valid"] for rows in members]
        length = min(map(len, valid), default=0)
        if not length:
            continue
        # Seeds of one configuration validate at the same steps; an early end shortens the mean.
        at = [_mean([getattr(rows[i], over) for rows in valid]) for i in range(length)]
        mean = [_mean([rows[i].elbo for rows in valid]) for i in range(length)]
        named = f"{label} ({len(members)} seeds)" if len(members) > 1 else label
        (line,) = axes.plot(at, mean, label=named, linewidth=2)
        for rows in valid if len(valid) > 1 else []:
            axes.plot(
                [getattr(row, over) for row in rows],
                [row.elbo for row in rows],
                color=line.get_color(),
                alpha=0.35,
                linewidth=0.8,
            )
    zoom(axes, [r.elbo for m in traces.values() for rows in m for r in rows if r.split == "valid"])
    axes.set(title="Validation ELBO", xlabel=AXES[over], ylabel=unit)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    save(figure, path)


def save_plane(points: Mapping[str, Sequence[tuple[float, float]]], path: Path, unit: str) -> None:
    """Draw groups of runs in the rate-distortion plane, with lines of equal ELBO.

    ELBO = -(distortion + rate), so equal ELBOs lie on a line of slope -1; where on it a run lies
    says how much its code carries (Alemi et al. 2018, arXiv 1711.00464).

    Args:
        points: (rate, distortion) of each group's runs, by the group's label.
        path: PNG file.
        unit: what the two are measured in.
    """
    figure = _figure(6, 5)
    axes = figure.subplots()
    for label, members in points.items():
        axes.scatter(*zip(*members, strict=True), label=label, zorder=2)
    sums = [rate + distortion for members in points.values() for rate, distortion in members]
    for total in sorted({round(value, 1) for value in sums}):
        axes.axline((0, total), slope=-1, color="0.8", linewidth=0.8, zorder=1)
    axes.set(title="Rate and distortion", xlabel="rate, KL (nats)", ylabel=f"distortion ({unit})")
    axes.legend(frameon=False, fontsize=8)
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


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with atomic(path) as partial:
        figure.savefig(partial, format="png", dpi=120)


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

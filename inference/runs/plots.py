"""Plots of values of any shape: images as a grid, vectors, sequences, numbers each in its way."""

from pathlib import Path

import torch
from torch import Tensor

from .figures import new_figure, save, save_grid

LEAST_SIDE = 6
"""From this height and width on a matrix is drawn as an image."""


def save_values(
    data: Tensor,
    columns: int,
    path: Path,
    title: str,
    ink: bool = True,
    beside: Tensor | None = None,
) -> None:
    """Draw values in the way that fits one datum's shape.

    Images (1, H, W), (3, H, W) or (H, W) go into a grid; a sequence (T, D) becomes D profiles over
    its T steps, a pair of numbers a point of a scatter, a longer vector a row of a heat map; single
    numbers go into a histogram.

    Args:
        data: values (N, ...).
        columns: how many images go in a row.
        path: PNG file.
        title: line above the picture.
        ink: whether 0 is paper in images; see `save_grid`.
        beside: other values (N, ...) of the same shape, to be compared with: data, say, with their
            reconstructions. Rows of images stand above rows of these.
    """
    if is_image(data):
        if beside is not None:
            above, below = (
                t[: len(t) // columns * columns].unflatten(0, (-1, columns)) for t in (data, beside)
            )
            data = torch.stack([above, below], 1).flatten(0, 2)
        save_grid(data, columns, path, title, ink)
        return
    values = [each.detach().double().cpu() for each in (data, beside) if each is not None]
    names = ["data", "reconstructions"] if beside is not None else [""]
    draw = {1: _numbers, 2: _vectors}.get(data.dim(), _sequences)
    draw(values, names, path, title)


def is_image(data: Tensor) -> bool:
    """Whether values (N, ...) are images."""
    shape = tuple(data.shape[1:])
    if len(shape) == 3:
        return shape[0] in (1, 3)
    return len(shape) == 2 and min(shape) >= LEAST_SIDE


def as_image(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return values (N, ...) in the shape of the data, where one datum has as many numbers."""
    return (
        values.reshape(len(values), *shape)
        if values[0].numel() == torch.Size(shape).numel()
        else values
    )


def _numbers(values: list[Tensor], names: list[str], path: Path, title: str) -> None:
    figure = new_figure(5, 3.5)
    axes = figure.subplots()
    if len(values) == 2:
        axes.plot(values[0].numpy(), values[1].numpy(), "o", markersize=4)
        axes.set(xlabel=names[0], ylabel=names[1])
    else:
        axes.hist(values[0].numpy(), bins=min(30, max(5, len(values[0]) // 2)))
        axes.set(xlabel="value", ylabel="number of data")
    axes.set_title(title, fontsize=10)
    save(figure, path)


def _vectors(values: list[Tensor], names: list[str], path: Path, title: str) -> None:
    width = values[0].shape[1]
    if width == 1:
        _numbers([each[:, 0] for each in values], names, path, title)
        return
    figure = new_figure(5 * len(values) if width > 2 else 5, 4)
    if width == 2:
        axes = figure.subplots()
        for each, name, marker in zip(values, names, "ox", strict=False):
            axes.plot(each[:, 0].numpy(), each[:, 1].numpy(), marker, markersize=4, label=name)
        axes.set(xlabel="first coordinate", ylabel="second coordinate")
        if len(values) == 2:
            axes.legend(frameon=False)
    else:
        low, high = (f(torch.cat(values)).item() for f in (torch.min, torch.max))
        every = figure.subplots(1, len(values), squeeze=False)[0]
        for axes, each, name in zip(every, values, names, strict=True):
            axes.imshow(each.numpy(), aspect="auto", vmin=low, vmax=high, interpolation="nearest")
            axes.set(xlabel="coordinate", ylabel="datum", title=name)
        figure.colorbar(every[0].images[0], ax=every, label="value")
    figure.suptitle(title, fontsize=10)
    save(figure, path)


def _sequences(values: list[Tensor], names: list[str], path: Path, title: str) -> None:
    shown = [each.flatten(2)[:6] for each in values]
    count = len(shown[0])
    figure = new_figure(9, 1.2 + 1.3 * count)
    for place, axes in enumerate(figure.subplots(count, 1, squeeze=False, sharex=True)[:, 0]):
        for each, name, style in zip(shown, names, ("-", "--"), strict=False):
            for channel in range(each.shape[2]):
                label = name if channel == 0 else None
                axes.plot(each[place, :, channel].numpy(), style, color=f"C{channel}", label=label)
        axes.set_ylabel(f"datum {place}", fontsize=8)
        if len(values) == 2 and place == 0:
            axes.legend(frameon=False, fontsize=8)
    figure.axes[-1].set_xlabel("step")
    figure.suptitle(title, fontsize=10)
    save(figure, path)

"""How figures for a page look: widths of a column, letters, colours, names that do no harm."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Literal

from .figures import new_figure, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Kind = Literal["png", "pdf", "svg"]
Column = Literal["single", "double"]

WIDTHS: dict[Column, float] = {"single": 3.35, "double": 6.9}
"""Inches of a column, and of the two of a page."""

LETTER = 0.066
"""Inches that a letter of 8 points takes, about."""

LINE = 0.15
"""Inches from one line of such letters to the next."""

LINES = 4
"""Lines that a name may have."""

LOOKS: list[dict[str, Any]] = [
    {"color": color, "linestyle": dash, "marker": marker, "markerfacecolor": fill or color}
    for dash, marker, color, fill in zip(
        ("-", "--", "-.", ":") * 3 + ("-", "--"),
        "osD^vPX" * 2,
        ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000") * 2,
        [""] * 7 + ["white"] * 7,
        strict=True,
    )
]
"""Looks of up to 14 groups: dash, marker, which is full or open, and colour (Okabe and Ito's)."""


def dots(look: dict[str, Any]) -> dict[str, Any]:
    """Return a look as that of points without lines."""
    names = {"marker": "marker", "edgecolors": "color", "facecolors": "markerfacecolor"}
    return {theirs: look[ours] for theirs, ours in names.items()}


@dataclass(frozen=True)
class Style:
    """How a figure is written.

    Args:
        kind: format of the file; letters of a ``pdf`` or ``svg`` stay letters.
        column: ``single`` is 3.35 inches wide, ``double`` 6.9; letters have 8 points in both.
    """

    kind: Kind = "png"
    column: Column = "double"

    @property
    def width(self) -> float:
        """Inches."""
        return WIDTHS[self.column]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Draw so inside the block; what matplotlib was set to before comes back."""
        from matplotlib import rc_context

        sizes = ("font.size", "axes.titlesize", "axes.labelsize", "legend.fontsize",
                 "xtick.labelsize", "ytick.labelsize", "figure.titlesize", "legend.title_fontsize",
                 )  # fmt: skip
        lines = {"lines.linewidth": 1.4, "lines.markersize": 3.5, "axes.linewidth": 0.6}
        files = {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "lowerbound"}
        mathematics = {"axes.formatter.use_mathtext": False, "text.usetex": False}
        frames = {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
        settings: Any = {**dict.fromkeys(sizes, 8), **lines, **files, **mathematics, **frames}
        with rc_context(settings):
            yield

    def figure(self, height: float) -> "Figure":
        """Return an empty figure of the column's width and a height, in inches."""
        return new_figure(self.width, height)

    def save(self, figure: "Figure", folder: Path, name: str) -> Path:
        """Write a figure, and return its path."""
        path = folder / f"{name}.{self.kind}"
        save(figure, path, dpi=200)
        return path

    def fits(self, text: str, share: float = 1.0, lines: int = LINES) -> str:
        """Return a text in lines that fit a share of the width, safe to draw."""
        return fitted(text, max(12, int(share * self.width / LETTER)), lines)

    def legend(self, figure: "Figure", entries: Sequence[tuple[Any, str]], title: str = "") -> None:
        """Put a legend below the axes, and make the figure as much higher.

        Args:
            figure: with its axes.
            entries: what was drawn, and its name.
            title: above them.
        """
        names = [self.fits(name, 0.85) for _, name in entries]
        widest = max(len(line) for name in names for line in name.split("\n"))
        columns = max(1, min(4, len(names), int(self.width / (LETTER * widest + 0.55))))
        rows = [names[place : place + columns] for place in range(0, len(names), columns)]
        lines = sum(max(name.count("\n") + 1 for name in row) for row in rows) + bool(title)
        width, height = figure.get_size_inches()
        figure.set_size_inches(width, height + LINE * lines + 0.1)
        figure.legend(
            [artist for artist, _ in entries],
            names,
            loc="outside lower center",
            ncols=columns,
            title=self.fits(title, 0.85) or None,
            handlelength=2.6,
        )


def fitted(text: str, letters: int, most: int = LINES) -> str:
    r"""Return a text in lines of so many letters, where no dollar begins mathematics.

    >>> fitted("_price=$5", 12)
    ' _price=\\$5'
    >>> fitted("a value that is much too long", 12, 2)
    'a value that\nis much ...'

    Args:
        text: on one line.
        letters: of a line.
        most: lines; the last one ends in dots where that is too few.
    """
    lines = wrap(text, letters)
    if len(lines) > most:
        lines = [*lines[: most - 1], f"{lines[most - 1][: letters - 4].rstrip()} ..."]
    shown = "\n".join(lines).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown  # matplotlib hides names that begin so


def distinct(labels: Sequence[str]) -> tuple[str, list[str]]:
    """Return what labels have in common, as a title, and what each then adds.

    >>> distinct(["prior=Vamp", "prior=Mixture"])
    ('prior', ['Vamp', 'Mixture'])
    >>> distinct(["prior=Vamp, seed=1", "prior=Mixture"])
    ('', ['prior=Vamp, seed=1', 'prior=Mixture'])
    """
    key = labels[0].partition("=")[0]
    alone = all(label.startswith(f"{key}=") and ", " not in label for label in labels)
    if len(labels) < 2 or not alone:
        return "", list(labels)
    return key, [label.removeprefix(f"{key}=") for label in labels]

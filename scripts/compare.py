"""Compare runs: which configuration is better, by how much, and how sure that is.

Seeds of one configuration are grouped. Evaluated runs get a verdict for each two configurations,
paired by datum, with errors over data and over seeds kept apart.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from inference.runs.choosing import ordered, otherwise
from inference.runs.comparison import COLUMNS
from inference.runs.comparison_figures import draw
from inference.runs.found import find_runs
from inference.runs.frames import grouped, write_numbers
from inference.runs.report import write_report
from inference.runs.styles import Column, Kind, Style
from inference.runs.tables import (
    DIFFERENCES,
    difference_cells,
    latex,
    markdown,
    reached,
    table,
)
from inference.runs.verdicts import NAMES, Quantity, verdicts
from scripts._arguments import Parser, one_line_errors
from scripts._filters import add_filter, wanted
from scripts._numbers import Finite

FORMATS: dict[str, Callable[[Sequence[str], Sequence[Sequence[str]]], str]] = {
    "table": table,
    "markdown": markdown,
    "latex": latex,
}


def show(
    runs: list[Path],
    filter: list[str] | None = None,  # noqa: A002  (the user's word)
    group: list[str] | None = None,
    sort: str | None = None,
    baseline: str | None = None,
    quantity: Quantity = "log_px",
    reach: Finite | None = None,
    out: Path = Path("comparison"),
    html: Path | None = None,
    over: Literal["step", "epoch", "seconds"] = "step",
    format: Literal["table", "markdown", "latex"] = "table",  # noqa: A002  (the user's word)
    figures: Kind = "png",
    column: Column = "double",
) -> None:
    """Print the tables and the verdicts; write numbers and figures.

    Args:
        runs: directories that lowerbound train made, folders of them, or globs in quotes; all on
            the same data in the same unit.
        filter: take only runs with these arguments, as prior=Vamp or latent_dim=8; all of several.
        group: arguments that alone make a group, as prior; by default all but the seed do.
        sort: order of the groups: a column of groups.csv, as log_px, with the best first; or an
            argument, as latent_dim.
        baseline: label of the configuration to compare each other one with, or a part of it; by
            default each two are compared, the later less the earlier.
        quantity: what the differences are of; the K-sample bound on log p(x), or the ELBO.
        reach: validation ELBO; say after how many steps and seconds each run has it.
        out: folder of comparison.json, the CSV files and the figures.
        html: file of a report: one page with verdicts, tables and traces, that loads nothing.
        over: horizontal axis of the traces' figure.
        format: of the printed tables.
        figures: format of the figures.
        column: width of the figures, 3.35 or 6.9 inches, with letters of 8 points.
    """
    with one_line_errors("lowerbound compare"):
        groups = grouped(find_runs(runs), wanted(filter), group or ())
        if sort is not None:
            groups = ordered(groups, sort)
        found = verdicts(groups, quantity, baseline)
        pictures = draw(groups, found, out, over, Style(figures, column), quantity)
        paths = [*write_numbers(groups, found, out), *pictures]
        if html is not None:
            paths.append(write_report(groups, found, html, NAMES[quantity]))
        lay_out = FORMATS[format]
        print(lay_out(COLUMNS, [each.cells() for each in groups]))
        over_what = f"runs of a group, by {', '.join(group)}" if group else "seeds"
        print(f"{groups[0].runs[0].unit} per datum; +- is the sd over {over_what}.")
        if group and (mixed := otherwise(groups)):
            print(f"Note: runs of a group differ otherwise too, as seeds do: {mixed}.")
        if reach is not None:
            for run in (run for each in groups for run in each.runs):
                row = reached(run, reach)
                when = f"step {row.step:,}, {row.seconds:.1f} s" if row else "not reached"
                print(f"{run.path}: ELBO {reach:g}: {when}")
        if found:
            print(
                f"\nDifferences of {NAMES[quantity]}, paired by datum; p by Holm over {len(found)}."
            )
            print(lay_out(DIFFERENCES, [difference_cells(each) for each in found]))
            for each in found:
                print(f"{each.b}, against {each.a}: {each.verdict}.")
        print("\n".join(map(str, paths)))


def main(argv: list[str] | None = None) -> None:
    """Read the command line."""
    parser = Parser("lowerbound compare", __doc__)
    text = "Directories that lowerbound train made, folders of them, or globs in quotes."
    parser.add_argument("runs", type=Path, nargs="+", help=text)
    add_filter(parser)
    text = "Arguments that alone make a group, as prior; by default all but the seed do."
    parser.add_argument("--group", type=str, nargs="+", metavar="NAME", help=text)
    parser.add_function_arguments(show, skip={"runs", "filter", "group"})
    show(**dict(parser.instantiate(parser.parse_args(argv))))


if __name__ == "__main__":
    main()

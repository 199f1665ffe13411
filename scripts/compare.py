"""Compare runs: a table and the validation traces, seeds of one configuration grouped."""

from pathlib import Path
from typing import Literal

from _arguments import Parser, one_line_errors

from inference.runs import Run
from inference.runs.comparison import COLUMNS, compare, table, write


def show(
    runs: list[Path],
    out: Path = Path("comparison"),
    over: Literal["step", "epoch", "seconds"] = "step",
) -> None:
    """Print the table; write it as CSV and the figure of the traces as PNG.

    Args:
        runs: directories that train.py made, all on the same data in the same unit.
        out: folder of comparison.csv and traces.png.
        over: horizontal axis of the figure.
    """
    with one_line_errors("compare.py"):
        groups = compare([Run(run) for run in runs])
        paths = write(groups, out, over)
    print(table(COLUMNS, [group.cells() for group in groups]))
    print(f"{groups[0].runs[0].environment['data']['unit']} per datum; +- is the sd over seeds.")
    print("\n".join(map(str, paths)))


def main(argv: list[str] | None = None) -> None:
    """Read the command line."""
    parser = Parser("compare.py", __doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="Directories that train.py made.")
    parser.add_function_arguments(show, skip={"runs"})
    show(**dict(parser.instantiate(parser.parse_args(argv))))


if __name__ == "__main__":
    main()

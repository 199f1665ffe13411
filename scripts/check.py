"""Print the faults of a model/guide pair in words; exit status 1 if there are any."""

import sys
from pathlib import Path
from typing import Any

from inference.check import check
from inference.data import load
from scripts._arguments import Parser, PositiveInt, add_config, one_line_errors, to_device
from scripts._pair import add_pair_arguments, compose, split_arguments


def examine(
    parts: dict[str, Any],
    data: str = "digits",
    data_root: Path | None = None,
    batch_size: PositiveInt = 64,
) -> None:
    """Check a pair on a batch of real data.

    Args:
        parts: arguments of compose.
        data: name of a data set; a wrong one lists them all.
        data_root: folder of the data files; else LOWERBOUND_DATA, else the user's cache folder.
        batch_size: how many training data the check runs on.
    """
    with one_line_errors("lowerbound check", file=parts["pair"]):
        records = load(data, data_root)
        if batch_size > len(records.train):
            raise ValueError(f"--batch_size {batch_size} is more than {len(records.train)} data.")
        model, guide = compose(records.event_shape, to_device("cpu"), **parts)
        found = check(model, guide, records.train.batch(slice(batch_size)), records.train.view)
    for note in (each for each in found if each.kind == "note"):
        print(f"Note: {note}")
    if faults := [each for each in found if each.kind == "fault"]:
        sys.exit("\n".join(faults))
    print("No fault found.")


def main(argv: list[str] | None = None) -> None:
    """Read the command line."""
    parser = Parser("lowerbound check", __doc__)
    add_config(parser, argv)
    parser.add_function_arguments(examine, skip={"parts"})
    add_pair_arguments(parser)
    arguments = parser.parse_args(argv)
    for name in ("config", "trust"):
        arguments.pop(name, None)
    parts, others = split_arguments(parser.instantiate(arguments))
    examine(parts, **others)


if __name__ == "__main__":
    main()

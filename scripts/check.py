"""Print the faults of a model/guide pair in words; exit status 1 if there are any."""

import sys
from pathlib import Path
from typing import Any

from inference.check import check
from inference.data import Dataset, Source, View
from scripts._arguments import Parser, PositiveInt, one_line_errors, to_device
from scripts._data import opened, suit, taken
from scripts._pair import add_pair_arguments, compose, split_arguments
from scripts._run_arguments import add_config


def examine(
    parts: dict[str, Any],
    records: Dataset,
    data: Source = Source(),  # noqa: ARG001, B008  (frozen)
    view: View | None = None,  # noqa: ARG001
    data_root: Path | None = None,  # noqa: ARG001
    batch_size: PositiveInt = 64,
) -> None:
    """Check a pair on a batch of real data.

    Args:
        parts: arguments of compose.
        records: the data.
        data: what to train on.
        view: how stored values become x; by default as their kind suggests.
        data_root: folder of the data files; else LOWERBOUND_DATA, else the user's cache folder.
        batch_size: how many training data the check runs on, at most.
    """
    with one_line_errors("lowerbound check", file=parts["pair"]):
        masked = records.train.mask is not None
        model, guide = compose(records.event_shape, to_device("cpu"), None, masked, **parts)
        records = taken(records, model, guide)
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
    parser.add_function_arguments(examine, skip={"parts", "records"})
    add_pair_arguments(parser)
    arguments = parser.parse_args(argv)
    for name in ("config", "trust"):
        arguments.pop(name, None)
    with one_line_errors(parser.prog):
        records = opened(arguments, parser.prog)
    suit(arguments, parser, argv, records)
    parts, others = split_arguments(parser.instantiate(arguments))
    examine(parts, records, **others)


if __name__ == "__main__":
    main()

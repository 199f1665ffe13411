"""What the commands do with data: the list of the named sets, and parts that suit a view."""

import inspect
import sys
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from inference.data import Dataset, Source, View, open_data
from inference.data.listing import listing
from inference.programs import as_tuple
from scripts._arguments import Parser, one_line_errors
from scripts._run_arguments import given_words

SUITED: dict[str, tuple[str, str]] = {
    "Binarised": ("Bernoulli", "MLP"),
    "Binary": ("Bernoulli", "MLP"),
    "Counts": ("Binomial", "MLP"),
    "AnyCounts": ("NegativeBinomial", "LogMLP"),
    "Words": ("Multinomial", "LogMLP"),
    "Grey": ("ContinuousBernoulli", "MLP"),
    "Levels": ("DiscretisedLogistic", "MLP"),
    "Dequantised": ("HeteroscedasticNormal", "MLP"),
    "Standardised": ("Normal", "MLP"),
    "AsIs": ("Normal", "MLP"),
}
"""Likelihood and encoder that suit a view, where the command line names none."""

MASKED = {"model": "MaskedVAE", "amortization": "MaskedAmortized"}
"""Programs for data with missing entries."""

TOTALS = {"Binomial": "total_count", "DiscretisedLogistic": "levels"}
"""Argument of a likelihood that is the view's levels."""


def records(data: Source, view: View | None = None, data_root: Path | None = None) -> Dataset:
    """Open data, see `open_data`."""
    return open_data(data, view, data_root)


def opened(arguments: Any, prog: str) -> Dataset:
    """Open the data that parsed arguments name, before the others are brought to life."""
    parser = Parser(prog)
    parser.add_function_arguments(records)
    named = {name: arguments[name] for name in ("data", "view", "data_root")}
    if named["data"].source == "list":
        print(listing())
        sys.exit(0)
    made = dict(parser.instantiate(Namespace(named)))
    source = made["data"]
    with one_line_errors(prog, file=source.path if source.is_code else None):
        return records(**made)
    raise AssertionError  # of no use but to a type checker: an error ends the process


def suit(arguments: Any, parser: Parser, argv: list[str] | None, data: Dataset) -> list[str]:
    """Set the parts that suit data, unless the command line names them.

    Args:
        arguments: not yet instantiated; changed in place.
        parser: they were parsed by.
        argv: the words of the command line; None takes the process's.
        data: what the pair is for.

    Returns:
        The parts that were chosen, as the command line would name them.
    """
    kind = type(data.train.view).__name__
    if arguments.pair is not None or kind not in SUITED:
        return []
    chosen, given = [], given_words(parser, argv)
    if data.train.mask is not None:
        for name, part in MASKED.items():
            if name not in given:
                arguments[name] = parser.parse_object({name: {"class_path": part}})[name]
                chosen.append(f"--{name} {part}")
    for name, part in zip(("likelihood", "encoder"), SUITED[kind], strict=True):
        usual = parser.get_default(name)["class_path"].rpartition(".")[2]
        if name in given or (part == usual and part not in TOTALS):
            continue
        value: dict[str, Any] = {"class_path": part}
        if part in TOTALS:
            value["init_args"] = {TOTALS[part]: getattr(data.train.view, "levels", 0)}
        arguments[name] = parser.parse_object({name: value})[name]
        chosen.append(f"--{name} {part}")
    return chosen


def taken(data: Dataset, *programs: Any) -> Dataset:
    """Return data as programs take them: without what is given beside x, unless they take it.

    Args:
        data: what there is.
        programs: model and guide.

    Raises:
        ValueError: entries are missing, and a program takes no mask.
    """
    count = len(as_tuple(data.train.batch(slice(1))))
    least = 1 if data.train.mask is None else 2
    blind = [p for p in programs if not takes(p, least) and not takes(p, count)]
    if blind and least == 2:
        raise ValueError(
            f"Entries of x are missing in {data.name}, and {type(blind[0]).__name__} takes no "
            "mask: the batch is (x, mask). Leave --model and --amortization to MaskedVAE and "
            "MaskedAmortized, write the pair with a second argument, or fill the data in."
        )
    alone = count > least and all(takes(p, least) and not takes(p, count) for p in programs)
    return data.of_x_alone() if alone else data


def takes(program: Any, count: int) -> bool:
    """Whether a program can be called with so many arguments, as far as its signature tells."""
    try:
        inspect.signature(program.forward if hasattr(program, "forward") else program).bind(
            *range(count)
        )
    except TypeError:
        return False
    except ValueError:  # it has none
        return True
    return True

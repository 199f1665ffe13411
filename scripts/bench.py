"""Measure training steps, evaluations, memory and start-up against other ways to do the same.

A step is whole: gather data, binarise images, loss, gradient, Adam. The contenders of a
case start from the same weights, must agree in their loss, at these weights and in training, and
take turns on the same machine; a ratio is the median over the rounds, with the lowest and the
highest. MNIST where it is found.
NumPyro and Pythae are measured where they are installed: pip install -e ".[bench]".
"""

import json
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from inference.data import Binarised, load
from inference.files import atomic
from scripts._arguments import Device, Parser, PositiveInt, one_line_errors, to_device
from scripts._bench_pairs import CASES
from scripts._bench_peers import CONTENDERS
from scripts._bench_steps import AGAINST, cells, measure
from scripts._bench_timing import in_turns, machine, product_rate, products
from scripts._bench_whole import WHOLE, around

FEW = (
    "pyro",
    "off",
    "graph",
    "inductor",
    "inductor-bf16",
    "torch.compile",
    "torch.compile-cuda-graph",
)
"""Contenders in cases other than the plain MLP."""

COLUMNS = ("ms a step", *AGAINST, "share of torch.mm", "loss differs by, in training")


def bench(
    cases: Sequence[str],
    contenders: Sequence[str],
    data: str = "mnist",
    data_root: Path | None = None,
    rounds: PositiveInt = 5,
    images: PositiveInt = 64,
    particles: PositiveInt = 5000,
    threads: PositiveInt | None = None,
    device: Device = "auto",
    quick: bool = False,
    out: Path | None = None,
) -> None:
    """Measure and print.

    Args:
        cases: what to measure: training steps by pair and batch size, and what is around them.
        contenders: what takes the steps, if it is installed and serves the case.
        data: name of a data set whose pixels are binarised again at each access.
        data_root: folder of the data files; else LOWERBOUND_DATA, else the user's cache folder.
        rounds: turns of each contender.
        images: data of an evaluation.
        particles: draws for each of them.
        threads: cores that everything may use, JAX and commands too; all of them, if left out.
        device: where to compute; auto takes CUDA when there is one.
        quick: turns as short as can be, to see that everything works; the times mean little.
        out: JSON file for the figures.
    """
    with one_line_errors("bench.py"):
        where = to_device(device)
        records = load(data, data_root).to(where)
        if not isinstance(records.train.view, Binarised):
            raise ValueError(
                f"--data {data} is not binarised at each access: take mnist, omniglot or digits."
            )
    if threads:
        torch.set_num_threads(threads)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    logging.getLogger("inference").setLevel(logging.WARNING)
    rate = product_rate(in_turns({"mm": products(where)}, rounds, where)["mm"], where)
    facts = {**machine(where), "data": data, "rounds": rounds, "torch.mm (GFLOP/s)": rate}
    show(("what", "measured"), [[k, shown(v)] for k, v in facts.items() if v is not None])
    steps: dict[str, Any] = {}
    whole: dict[str, Any] = {}
    for name in filter(CASES.get, cases):
        who = [c for c in contenders if name.startswith("mlp") or c in FEW]
        steps[name] = measure(CASES[name], records.train, who, rounds, quick)
        show((name, *COLUMNS), [[who, *cells(f)] for who, f in steps[name].items()])
    for name, figures in around(cases, records, data_root, rounds, (images, particles), quick):
        whole[name] = figures
        show((name, "measured"), [[what, shown(v)] for what, v in figures.items()])
    if out is not None:
        with atomic(out) as partial:
            figures = {"facts": facts, "steps": steps, **whole}
            partial.write_text(json.dumps(figures, indent=2) + "\n")


def show(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a Markdown table, and an empty line after it."""
    rule = [":--", *["--:"] * (len(columns) - 1)]
    lines = (f"| {' | '.join(row)} |" for row in (columns, rule, *rows))
    print(*lines, "", sep="\n", flush=True)


def shown(value: Any) -> str:
    """Return a figure as text; of three, the median and in brackets the lowest and highest."""
    if isinstance(value, list):
        first, *others = map(shown, value)
        return f"{first} ({'-'.join(others)})"
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return str(value)


def main(argv: list[str] | None = None) -> None:
    """Read the command line."""
    parser = Parser("bench.py", __doc__)
    parser.add_function_arguments(bench, skip={"cases", "contenders", "quick"})
    for name, choices, text in (
        ("--cases", (*CASES, *WHOLE), "Training steps by pair and batch, and what is around them."),
        ("--contenders", tuple(CONTENDERS), "What takes the steps, if it serves the case."),
    ):
        parser.add_argument(name, nargs="+", choices=choices, default=list(choices), help=text)
    text = "Take turns as short as can be, to see that everything works; the times mean little."
    parser.add_argument("--quick", action="store_true", help=text)
    bench(**dict(parser.instantiate(parser.parse_args(argv))))


if __name__ == "__main__":
    main()

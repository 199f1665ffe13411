"""Measure a run on a split: the ELBO and the K-sample bound on log p(x), in nats per datum."""

from pathlib import Path
from typing import Literal

from _arguments import Device, NonNegativeInt, Parser, PositiveInt, one_line_errors, to_device
from _pair import trained

from inference.compare import table
from inference.evaluate import evaluate
from inference.run import Run


def measure(
    run: Path,
    particles: PositiveInt = 100,
    split: Literal["train", "valid", "test"] = "test",
    seed: NonNegativeInt = 0,
    device: Device = "auto",
    data_root: Path | None = None,
) -> None:
    """Evaluate the weights with the best validation ELBO; write RUN/evaluation.json.

    Args:
        run: directory that train.py made.
        particles: number K of draws for each datum; the bound rises towards log p(x) with it.
        split: which part of the data.
        seed: of the draws, and of x where the data set draws it.
        device: where to compute; auto takes CUDA when there is one.
        data_root: folder of the data files, if it is not where the run found them.
    """
    with one_line_errors("evaluate.py"):
        directory = Run(run)
        data, model, guide = trained(directory, to_device(device), data_root)
    evaluation = evaluate(
        model, guide, data.split(split), particles=particles, name=split, seed=seed
    )
    summary = evaluation.summary()
    directory.write_evaluation({**summary, "unit": data.unit, "seed": seed})
    cells = [
        f"{v:.3f}" if isinstance(v, float) else f"{v:,}" for k, v in summary.items() if k != "split"
    ]
    print(table(["split", *list(summary)[1:]], [[split, *cells]]))
    print(f"{data.unit}; log_px is a lower bound, log_px_se the standard error over the split.")


def main(argv: list[str] | None = None) -> None:
    """Read the command line."""
    parser = Parser("evaluate.py", __doc__)
    parser.add_argument("run", type=Path, help="Directory that train.py made.")
    parser.add_function_arguments(measure, skip={"run"})
    measure(**dict(parser.instantiate(parser.parse_args(argv))))


if __name__ == "__main__":
    main()

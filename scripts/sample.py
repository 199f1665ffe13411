"""Draw a run: prior samples, reconstructions, interpolations, a map of the codes; as PNG files."""

from pathlib import Path
from typing import Literal

from inference.runs import Run, save_pictures
from inference.runs.latent_map import save_latent_maps
from scripts._arguments import (
    Device,
    Parser,
    PositiveInt,
    Seed,
    one_line_errors,
    to_device,
)
from scripts._pair import trained


def draw(
    run: Path,
    rows: PositiveInt | None = None,
    columns: PositiveInt = 8,
    split: Literal["train", "valid", "test"] = "test",
    seed: Seed = 0,
    device: Device = "auto",
    data_root: Path | None = None,
    out: Path | None = None,
    trust: Path | None = None,
    pair: Path | None = None,
) -> None:
    """Draw the weights with the best validation ELBO.

    Args:
        run: directory that lowerbound train made.
        rows: rows of images in a picture; None is 8, or fewer where the split is small.
        columns: images in a row.
        split: where the data to reconstruct come from.
        seed: of the choice of data and of the draws.
        device: where to compute; auto takes CUDA when there is one.
        data_root: folder of the data files, if it is not where the run found them.
        out: folder of the pictures; RUN/figures by default.
        trust: the run again, whose config.yaml may then import any module and call anything that it
            names, as a module of your own; without it a run names parts of lowerbound, torch.optim
            and pyro.infer alone.
        pair: Python file of the run's pair, where it lies elsewhere now or in the run itself, or
            was never run by you.
    """
    with one_line_errors("lowerbound sample", file=pair):
        directory = Run(run)
        data, model, guide = trained(directory, to_device(device), data_root, trust, pair)
        folder, chosen = out or directory.figures, data.split(split)
        columns = columns if rows else min(columns, len(chosen))
        rows = rows or max(1, min(8, len(chosen) // columns))
        paths = save_pictures(model, guide, chosen, folder, rows=rows, columns=columns, seed=seed)
        paths += save_latent_maps(model, guide, chosen, folder, seed=seed)
    print("\n".join(map(str, paths)))


def main(argv: list[str] | None = None) -> None:
    """Read the command line."""
    parser = Parser("lowerbound sample", __doc__)
    parser.add_argument("run", type=Path, help="Directory that lowerbound train made.")
    parser.add_function_arguments(draw, skip={"run"})
    draw(**dict(parser.instantiate(parser.parse_args(argv))))


if __name__ == "__main__":
    main()

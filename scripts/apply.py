"""Put new data through a trained run: codes, reconstructions, scores, imputations, samples."""

import math
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from torch import Tensor

from inference.data import Source
from inference.data.files import column_names
from inference.data.sources import TABLES
from inference.files import atomic
from inference.runs import OpenRun, load_run
from inference.runs.opened import Values
from scripts._arguments import Device, NonNegativeInt, Parser, PositiveInt, one_line_errors
from scripts._trial import memory, refuse_beyond
from scripts._trust import trusts

What = Literal["encode", "reconstruct", "score", "impute", "sample"]


def apply(
    run: Path,
    file: Path | None = None,
    what: What = "encode",
    out: Path = Path("applied.npz"),
    particles: PositiveInt = 1000,
    draws: NonNegativeInt = 0,
    count: PositiveInt = 64,
    seed: NonNegativeInt = 0,
    device: Device = "auto",
    data_root: Path | None = None,
    trust: Path | None = None,
    pair: Path | None = None,
) -> None:
    """Put new data through a trained run.

    Args:
        run: directory that lowerbound train made.
        file: new data, as --data takes them: x, with y where the pair takes labels.
        what: encode, the means of the codes, or draws of them; reconstruct; score, the bound on
            log p(x) of each datum with its k-hat; impute, missing entries (NaN, or where a mask of
            the file is 0) filled in; sample, new data.
        out: file to write, .npz or .csv.
        particles: draws of z for each datum, of score and impute.
        draws: how many codes to draw with encode, 0 for their means; how many data sets with
            impute, beside that of the means.
        count: how many data to sample.
        seed: of the draws.
        device: where to compute; auto takes CUDA when there is one.
        data_root: folder of the data files, if it is not where the run found them.
        trust: the run again, whose config.yaml may then import any module and call anything that it
            names, as a module of your own.
        pair: Python file of the run's pair, where it lies elsewhere now or in the run itself, or
            was never run by you.
    """
    with one_line_errors("lowerbound apply"):
        if out.suffix not in (".npz", ".csv"):
            raise ValueError(f"--out {out} ends in neither .npz nor .csv.")
        if what != "sample" and file is None:
            raise ValueError(f"--what {what} needs a FILE of data; sample alone does without one.")
        if out.suffix == ".csv" and draws and what in ("encode", "impute"):
            raise ValueError("--draws: a table can't hold several of a datum: take --out X.npz.")
        if not out.absolute().parent.is_dir():
            raise ValueError(f"--out {out}: there is no folder {out.parent}.")
        named = {"pair": pair, "data_root": data_root, "trust": trusts(run, trust)}
        opened = load_run(run, device=device, **named)
        values = math.prod(opened.data.event_shape)
        numbers = count * values if what == "sample" else draws * values
        refuse_beyond(4 * numbers, memory())
        try:
            found = _answers(opened, file, what, particles, draws, count, seed)
        except TypeError as error:  # of values that are no numbers
            if "Expected" not in str(error):
                raise
            raise ValueError(f"{file}: {error}") from error
        _write(out, found, _columns(opened, file))
    shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in found.items())
    print(f"{out}: {shapes}")


def _answers(
    run: OpenRun,
    file: Path | None,
    what: What,
    particles: int,
    draws: int,
    count: int,
    seed: int,
) -> dict[str, Tensor]:
    if what == "sample" or file is None:
        return _named(run.sample(count, seed=seed), "x")
    if what == "encode":
        return _named(run.encode(file, draws or None, seed=seed), "z")
    if what == "reconstruct":
        return _named(run.reconstruct(file, seed=seed), "x")
    if what == "score":
        score = run.log_px(file, particles, seed=seed)
        for sentence in score.warnings():
            print(f"Warning: {sentence}", file=sys.stderr)
        names = ("log_px", "log_px_mc_se", "elbo", "ess", "k_hat")
        return {name: getattr(score, name) for name in names}
    full = run.impute(file, None, particles, draws, seed=seed)
    some = {"draws": full.draws} if draws else {}
    return {"x": full.x, **some, "ess": full.ess, "k_hat": full.k_hat}


def _named(values: Values, name: str) -> dict[str, Tensor]:
    return values if isinstance(values, dict) else {name: values}


def _columns(run: OpenRun, file: Path | None) -> list[str]:
    """Return the names of a table's columns, which those of x keep; none of anything else."""
    data = run.config.get("data")
    if file is None or file.suffix.lower() not in TABLES or not isinstance(data, dict):
        return []
    source = Source(**data)
    return column_names(file, source.columns, source.label)


def _write(out: Path, found: dict[str, Tensor], columns: list[str]) -> None:
    """Write tensors as arrays by their names, or as columns: z_0, z_1, ... of z (N, 2).

    Those of x have the names of the columns that they came from.
    """
    with atomic(out) as partial:
        if out.suffix == ".npz":
            with partial.open("wb") as file:
                np.savez_compressed(file, **{k: v.numpy() for k, v in found.items()})  # type: ignore[arg-type]
            return
        table: dict[str, np.ndarray] = {}
        rows = len(next(iter(found.values())))
        for name, value in found.items():
            if len(value) != rows:
                raise ValueError(
                    f"{name} has draws, which a table can't hold: take --out FILE.npz."
                )
            flat = value.reshape(rows, -1).T.numpy()
            names = [name] if value.dim() == 1 else [f"{name}_{n}" for n in range(len(flat))]
            if name == "x" and len(columns) == len(flat):
                names = columns
            table |= dict(zip(names, flat, strict=True))
        pd.DataFrame(table).to_csv(partial, index=False)


def main(argv: list[str] | None = None) -> None:
    """Read the command line."""
    parser = Parser("lowerbound apply", __doc__)
    parser.add_argument("run", type=Path, help="Directory that lowerbound train made.")
    parser.add_argument("file", type=Path, nargs="?", help="New data, as --data takes them.")
    parser.add_function_arguments(apply, skip={"run", "file"})
    apply(**dict(parser.instantiate(parser.parse_args(argv))))


if __name__ == "__main__":
    main()

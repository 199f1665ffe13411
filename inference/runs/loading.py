"""Opening a trained run: one of a command by its record, one of Python with its pair at hand."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import pyro
import torch

from .. import rng
from ..data.named import DATASETS, load
from ..data.records import Dataset
from ..programs import Program
from ..references import modules
from .opened import OpenRun
from .run import Run, restore

Pair = tuple[Program, Program] | Callable[[tuple[int, ...]], tuple[Program, Program]]
"""A model and a guide as they were before training, or what makes them for a shape of data."""


def load_run(
    path: str | Path,
    *,
    pair: Pair | str | Path | None = None,
    data: Dataset | None = None,
    data_root: str | Path | None = None,
    device: Literal["auto", "cpu", "cuda"] | torch.device = "auto",
    trust: bool = False,
) -> OpenRun:
    """Open a trained run: its pair with the weights that it chose, and its data.

    A run is data, never a program: one that a command made names parts of the project alone, and a
    pair file of its own runs where it is unchanged, lies outside the run, and was run by this user
    before. One that Python made needs its pair, and its data where they are no named set.

    Args:
        path: the run's directory.
        pair: for a run made in Python, its model and guide as they were made before training, or
            the function of the shape of a datum that makes them; for one of the command line, the
            file of its pair, where that lies elsewhere now.
        data: what it was trained on, where that has no name.
        data_root: folder of the data files, if it is not where the run found them.
        device: where to compute; auto takes CUDA where there is one.
        trust: whether the run may import any module and call anything that it names.

    Raises:
        FileNotFoundError: there is no run, or a file that it needs is gone.
        ValueError: it has no checkpoint, its pair or data are others than it was trained with or
            are not known, or it names what no run may.
    """
    run, root = Run(Path(path)), None if data_root is None else Path(data_root)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.device(device)
    with rng.isolated():
        if "data" in run.config and (pair is None or isinstance(pair, str | Path)):
            # Who puts models and guides together stands above this package.
            above = import_module(f"{__name__.removesuffix('inference.runs.loading')}scripts._pair")
            file = None if pair is None else Path(pair)
            records, model, guide = above.trained(
                run, where, root, run.path if trust else None, file
            )
            return OpenRun(run, model, guide, records)
        data = _known(run, data, root)
        model, guide = _made(_maker(run, trust) if pair is None else pair, data.event_shape)
        for program in (model, guide):
            for module in modules(program).values():
                module.to(where)
        data = data.to(where)
        restore(run, model, guide, data.train.batch(slice(2)))
        return OpenRun(run, model, guide, data)


def _known(run: Run, data: Dataset | None, root: Path | None) -> Dataset:
    """Return the data of a run, if they are those that it was trained on."""
    known = run.environment["data"]
    if data is None and known["name"] not in DATASETS:
        raise ValueError(
            f"{run.path} was trained on data called {known['name']!r}, which is no named set: "
            "give them, load_run(..., data=Dataset(...))."
        )
    data = data or load(known["name"], root)
    if data.content_hash != known["hash"]:
        raise ValueError(
            f"{run.path} was trained on data with the hash {known['hash']}; {data.name} has "
            f"{data.content_hash}. Give those that it was trained on."
        )
    return data


def _made(pair: Any, event_shape: tuple[int, ...]) -> tuple[Program, Program]:
    if callable(pair):
        pyro.clear_param_store()  # functions keep their parameters there: forget those of others
        pair = pair(event_shape)
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise ValueError(
            "Expected the pair as (model, guide), or as a function of the shape of a datum that "
            f"returns them; got {type(pair).__name__}."
        )
    return pair


def _maker(run: Run, trust: bool) -> Any:
    made_by = run.environment.get("made_by")
    if not made_by:
        raise ValueError(
            f"{run.path} was made in Python and doesn't say how its pair is made: give it, "
            "load_run(..., pair=(model, guide)), each as it was made before training."
        )
    path = run.path / "environment.json"
    module, colon, name = made_by.partition(":") if isinstance(made_by, str) else ("", "", "")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), name)):
        raise ValueError(f"{path}: made_by is {made_by!r}, and not MODULE:FUNCTION.")
    if not trust:
        raise ValueError(
            f"The pair of {run.path} is made by {name} of the module {module}. Give it, "
            f"load_run(..., pair={name}), or let the run import it, load_run(..., trust=True)."
        )
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{path} names {made_by!r} as the pair's maker: {error}.") from error

"""A run is a directory: its arguments, its environment, its trace, its checkpoints."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .. import rng
from ..files import atomic, sole_writer
from ..programs import Batch, Program, evaluating
from ..tensors import tensors_of
from ..training.observers import Plan, Record
from ..training.svi import SVI
from ..training.trace import Trace
from . import checkpoints
from .documents import Document, need, need_words, read_json, read_yaml, renewed
from .measured import read_evaluation, read_values


def need_folder(path: Path) -> None:
    """Check that a run can have its folder there.

    Raises:
        NotADirectoryError: a file is in the way.
    """
    for parent in path.parents:
        if parent.exists() and not parent.is_dir():
            raise NotADirectoryError(f"{parent} is a file: a run needs a folder to be made in.")


class Run(Record):
    """An existing run directory, and the observer of `fit` that writes to it.

    ========================  ======================================================
    ``config.yaml``           every argument, resolved
    ``environment.json``      versions, device, git commit, data hash and unit, segments;
                              ``diverged``, the step, while that is how it ended
    ``trace.csv``             the ELBO trace
    ``checkpoint/latest.pt``  weights, optimiser, random states, place in the data
    ``checkpoint/previous.pt``  the one before
    ``evaluation.json``       what was last measured on a split
    ``evaluation.npz``        the same for each datum
    ``figures/``              pictures
    ``.lock``, ``.writer``    held by the process that writes, and its name
    ========================  ======================================================

    Args:
        path: the directory.

    Raises:
        FileNotFoundError: there is no run there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / "config.yaml").is_file():
            raise FileNotFoundError(
                f"{path} is not a run directory: it has no config.yaml. Make one with lowerbound "
                "train."
            )
        for name in ("checkpoint", "figures"):
            if (path / name).is_symlink():
                raise ValueError(
                    f"{path / name} is a link, and what a command writes or removes there would be "
                    "elsewhere: put the folder itself there."
                )
        self.trace = Trace(path / "trace.csv")

    @classmethod
    def create(cls, path: Path, config: str, environment: Mapping[str, Any]) -> "Run":
        """Make the directory, whole or not at all.

        Args:
            path: where; it must not exist.
            config: YAML of every argument.
            environment: what the numbers depend on besides.

        Raises:
            FileExistsError: the path exists.
        """
        if path.exists():
            raise FileExistsError(
                f"{path} exists. Resume it with --resume {path}, or name another with --run."
            )
        need_folder(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{os.getpid()}.partial")  # the run's name may be of any length
        shutil.rmtree(partial, ignore_errors=True)
        try:
            (partial / "checkpoint").mkdir(parents=True)
            (partial / "figures").mkdir()
            (partial / "config.yaml").write_text(config or "{}\n")
            (partial / "environment.json").write_text(json.dumps(environment, indent=2) + "\n")
            partial.rename(path)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise OSError(error.errno, error.strerror, str(path)) from error  # where, to a user
        return cls(path)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The arguments, as plain data."""
        path = self.path / "config.yaml"
        found = renewed(read_yaml(path))
        optional = (int, type(None))
        need(found, path, epochs=int, seed=int, batch_size=int, patience=optional)
        return Document(path, found)

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Versions, device, data hash and unit."""
        path = self.path / "environment.json"
        found = read_json(path)
        need(found, path, data=dict, parameters=int, segments=list, diverged=int)
        need_words(found.get("data", {}), path, "name", "hash", "unit")
        return found

    @property
    def diverged(self) -> int | None:
        """The step after which numbers were no longer finite, if that ended the last sitting."""
        return self.environment.get("diverged")

    @property
    def unit(self) -> str:
        """What its log p(x) is the logarithm of."""
        return self.environment["data"]["unit"]

    @cached_property
    def evaluation(self) -> dict[str, Any] | None:
        """What was last measured, or None."""
        path = self.path / "evaluation.json"
        return read_evaluation(path) if path.exists() else None

    @cached_property
    def evaluation_arrays(self) -> dict[str, np.ndarray] | None:
        """The values of each datum that were last measured, by name, or None."""
        path = self.path / "evaluation.npz"
        return read_values(path) if path.exists() else None

    @property
    def finished(self) -> bool:
        """Whether the trace reaches the last epoch, or as far as patience lasted."""
        valid, best = self.trace.split("valid"), self.trace.best()
        if best is None:
            return False
        epochs, patience = (self.config.get(name) for name in ("epochs", "patience"))
        stale = sum(row.step > best.step for row in valid)
        return valid[-1].epoch >= (epochs or 0) or bool(patience and stale >= patience)

    @property
    def figures(self) -> Path:
        """The folder of the pictures."""
        folder = self.path / "figures"
        folder.mkdir(exist_ok=True)
        return folder

    def write_evaluation(
        self,
        evaluation: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray] | None = None,
        name: str | None = None,
    ) -> None:
        """Replace ``evaluation.json``, and the values of each datum in ``evaluation.npz``.

        Those of other data, which have a name, are ``evaluation-NAME.json`` and ``.npz``.
        """
        stem = self.path / (f"evaluation-{name}" if name else "evaluation")
        with ExitStack() as both:  # both are written before either is put in place
            if arrays is not None:
                partial = both.enter_context(atomic(stem.with_name(f"{stem.name}.npz")))
                with partial.open("wb") as file:
                    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
            partial = both.enter_context(atomic(stem.with_name(f"{stem.name}.json")))
            partial.write_text(json.dumps(evaluation, indent=2) + "\n")
        for name in ("evaluation", "evaluation_arrays"):  # which are read once
            vars(self).pop(name, None)

    def start(self, svi: SVI, plan: Plan) -> None:  # noqa: ARG002
        """Forget that the sitting before diverged: this one goes on from its last checkpoint."""
        path = self.path / "environment.json"
        if path.exists() and "diverged" in read_json(path):
            self._note_diverged(None)

    def end(self, trace: Trace, svi: SVI, error: BaseException | None) -> None:  # noqa: ARG002
        """Note where numbers stopped being finite; an error of an observer's own has a note."""
        if isinstance(error, FloatingPointError) and not hasattr(error, "__notes__"):
            self._note_diverged(svi.steps)

    def _note_diverged(self, step: int | None) -> None:
        path = self.path / "environment.json"
        facts = {k: v for k, v in read_json(path).items() if k != "diverged"}
        if step is not None:
            facts["diverged"] = step
        with atomic(path) as partial:
            partial.write_text(json.dumps(facts, indent=2) + "\n")
        vars(self).pop("environment", None)  # which is read once

    def checkpoint(self, state: Mapping[str, Any], svi: SVI) -> None:
        """Save the state of a fit.

        Raises:
            FloatingPointError: a parameter is not finite; the checkpoints before it stay.
        """
        if (name := checkpoints.not_finite(svi.parameters, infinite=True)) is not None:
            raise FloatingPointError(
                f"The parameter {name} is not finite after step {svi.steps:,}: the checkpoint "
                "before stays. Lower the learning rate, or clip the gradient (clip_norm)."
            )
        self.save({**state, "arguments": dict(self.config)})

    def save(self, state: Mapping[str, Any]) -> None:
        """Write a checkpoint of tensors and plain data; keep the one before.

        Raises:
            OSError: it can't be written; the older ones are safe.
        """
        checkpoints.save(self.path / "checkpoint", state)

    def load(self) -> dict[str, Any] | None:
        """Return the newest checkpoint that is whole, or None before the first.

        A warning names a damaged or foreign one, and this returns the one before it.

        Raises:
            ValueError: there are checkpoints and none can be read.
        """
        again = f"train again with --config {self.path / 'config.yaml'} --run ANOTHER."
        return checkpoints.load(self.path / "checkpoint", again)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only one who writes to the run; its trace is read anew.

        Raises:
            BlockingIOError: another process does, or another fit of this one.
        """
        with sole_writer(self.path):
            self.trace = Trace(self.path / "trace.csv")
            for left in (self.path / "checkpoint").glob(".*.partial"):  # by one that was killed
                left.unlink()
            yield


def restore(run: Run, model: Program, guide: Program, x: Batch, best: bool = True) -> int:
    """Load the weights of a run into a pair.

    Args:
        run: the run.
        model: p(z) p(x | z), as it was made before training.
        guide: q(z | x), as it was made before training.
        x: a batch of the run's data.
        best: take the weights with the highest validation ELBO; the last ones otherwise.

    Returns:
        How many steps the run has taken.

    Raises:
        ValueError: the run has no checkpoint, or its weights are those of another pair.
    """
    saved = run.load()
    if saved is None:
        raise ValueError(f"{run.path} has no checkpoint yet: train it first, with --resume.")
    with rng.isolated(), evaluating(model, guide):
        owned = tensors_of(model, guide, x)
    try:
        owned.load((best and saved["progress"]["best_weights"]) or saved["svi"]["weights"])
        checkpoints.refuse_infinite(owned.parameters)
    except ValueError as error:
        raise ValueError(f"{run.path}: {error}") from error
    return saved["progress"]["step"]

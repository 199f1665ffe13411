"""Segments of a run: it goes on from its last checkpoint with other arguments, and says so."""

import json
import math
from collections.abc import Mapping
from typing import Any

import yaml

from .. import rng
from ..data.records import Split
from ..files import atomic
from ..training.progress import take_up
from ..training.svi import SVI
from .documents import renewed
from .run import Run

CHANGEABLE = frozenset(
    [
        "checkpoint_every",
        "clip_norm",
        "compile",
        "device",
        "epochs",
        "kl_weight",
        "learning_rate",
        "log_every",
        "patience",
        "precision",
        "schedules",
        "select",
        "tensorboard",
        "watch",
    ]
)
"""Arguments that a run may go on with another value of."""

BESIDE = frozenset({"checkpoint_every", "tensorboard", "watch"})
"""Those of them that no number depends on: a change of these alone begins no segment."""

PLACES = frozenset({"data_root", "pair", "run"})
"""Arguments that say where something is, which has its own check."""


def changes(run: Run, config: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return which arguments differ from those that the last checkpoint was trained with.

    Args:
        run: the run; its ``config.yaml`` may have been edited.
        config: arguments to go on with.

    Returns:
        By name, the value of before and the new one.

    Raises:
        ValueError: one of them can't change in the middle of a run; the message names it.
    """
    saved = run.load() or {}
    before = renewed(saved.get("arguments", run.config))  # version 0.1 saved none
    rate = before.get("learning_rate", 1.0)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf:
        raise ValueError(f"{run.path}: its checkpoint's learning_rate is {str(rate)[:40]}.")
    found = {
        name: [before[name], value]
        for name, value in config.items()
        if name not in PLACES and name in before and _short(before[name]) != _short(value)
    }
    if fixed := sorted(found.keys() - CHANGEABLE):
        name = fixed[0]
        raise ValueError(
            f"{run.path} can't go on with another {name} (it was {before[name]}, now "
            f"{config[name]}): it would be another pair, other data or other noise. Train another "
            f"run: --config {run.path / 'config.yaml'} --{name} ... --run ANOTHER."
        )
    return found


def _short(value: Any) -> Any:
    """Return arguments with the names of classes alone: a part has another path in a wheel."""
    if isinstance(value, list):
        return [_short(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        k: str(v).rpartition(".")[2] if k == "class_path" else _short(v) for k, v in value.items()
    }


def begin(run: Run, config: str, changed: Mapping[str, list[Any]], svi: SVI, train: Split) -> Run:
    """Go on with other arguments: write them, and let the checkpoint know.

    A new learning rate scales those of the optimiser and its scheduler, wherever that is. The rows
    that come have the number of the segment in the column ``segment`` of the trace, and
    ``environment.json`` lists each segment's first step and what changed.

    Args:
        run: the run.
        config: every argument, as YAML.
        changed: what `changes` returned.
        svi: prepared; it takes the state of the checkpoint.
        train: the data that it is of.

    Returns:
        The run as it is now.

    Raises:
        ValueError: the checkpoint is of another pair, or damaged; nothing is written.
        BlockingIOError: another process writes to it.
    """
    with run.writing():
        if (saved := run.load()) is not None:
            with rng.isolated():  # whether it can be gone on from, before anything is written
                take_up(saved, svi, train)
            run.trace.refuse_other(saved)
        # The checkpoint comes last: killed before it, the next start finds an edited config.yaml.
        with atomic(run.path / "config.yaml") as partial:
            partial.write_text(config)
        if new := bool(changed.keys() - BESIDE):
            step = saved["progress"]["step"] if saved else 0
            segment = {"step": step, "changed": dict(changed)}
            before = [each for each in run.environment.get("segments", []) if each != segment]
            with atomic(run.path / "environment.json") as partial:
                facts = {**run.environment, "segments": [*before, segment]}
                partial.write_text(json.dumps(facts, indent=2) + "\n")
        if saved is not None:
            saved["progress"]["segment"] = saved["progress"].get("segment", 0) + new
            if "learning_rate" in changed:
                _scale_rates(saved["svi"], *changed["learning_rate"])
            run.save({**saved, "arguments": yaml.safe_load(config)})
    return Run(run.path)


def _scale_rates(svi: dict[str, Any], before: float, now: float) -> None:
    def scaled(rate: float) -> float:
        return now if rate == before else rate * (now / before)

    for group in svi["optimizer"]["param_groups"]:
        group.update({name: scaled(group[name]) for name in ("lr", "initial_lr") if name in group})
    scheduler = svi.get("scheduler") or {}
    for name in ("base_lrs", "_last_lr"):
        if name in scheduler:
            scheduler[name] = [scaled(rate) for rate in scheduler[name]]

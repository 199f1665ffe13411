"""What train says before the first step and after the last."""

from pathlib import Path
from typing import Any

import torch

from inference import Trace
from inference.data import Dataset
from inference.training import Row
from scripts._pair import parameters


def first_line(
    data: Dataset,
    config: dict[str, Any],
    chosen: list[str],
    model: Any,
    guide: Any,
    device: torch.device,
) -> str:
    """Return what is going to run, in a line.

    Args:
        data: what it trains on.
        config: its arguments.
        chosen: parts that were chosen to suit the data.
        model: program of p(z) p(x | z).
        guide: program of q(z | x).
        device: where it computes.
    """
    sizes = ", ".join(f"{len(data.split(name)):,} {name}" for name in ("train", "valid", "test"))
    shape = "x".join(map(str, data.event_shape))
    names = (config[each]["class_path"] for each in ("prior", "likelihood", "guide"))
    pair = Path(config["pair"]).name if config["pair"] else ", ".join(names)
    suited = f" (so {', '.join(chosen)})" if chosen else ""
    owned = {id(p): p.numel() for program in (model, guide) for p in parameters(program)}
    return (
        f"{data.name}: {sizes} of {shape}, {type(data.train.view).__name__}{suited}. "
        f"{pair}: {sum(owned.values()):,} parameters. "
        f"{device}, {torch.get_num_threads()} threads."
    )


def kept(best: Row, trace: Trace, unit: str) -> str:
    """Return which weights are kept, and what chose them."""
    last = trace.split("valid")[-1]
    if not trace.weights:
        return (
            f"the last weights kept, validation ELBO {last.elbo:.2f} {unit}, epoch {last.epoch:g}"
        )
    if best.objective is None:
        return f"best validation ELBO {best.elbo:.2f} {unit}, epoch {best.epoch:g}"
    return (
        f"best validation objective {best.objective:.2f}, epoch {best.epoch:g}; ELBO there "
        f"{best.elbo:.2f} {unit}"
    )

"""Starting from another run's weights."""

from torch import Tensor

from ..training.svi import SVI
from .run import Run


def start_from(run: Run, svi: SVI) -> str:
    """Take over the weights that a run chose, where names and shapes agree.

    Args:
        run: a run with a checkpoint.
        svi: prepared; its pair's tensors change.

    Returns:
        How many tensors were taken, and which of the pair's were not, in words.

    Raises:
        ValueError: the run has no checkpoint, or no tensor agrees.
    """
    saved = run.load()
    if saved is None:
        raise ValueError(f"{run.path} has no checkpoint yet: train it first, with --resume.")
    theirs: dict[str, Tensor] = saved["progress"]["best_weights"] or saved["svi"]["weights"]
    mine = svi.weights()
    agree = [k for k, v in mine.items() if k in theirs and theirs[k].shape == v.shape]
    if not agree:
        raise ValueError(
            f"No tensor of the pair has the name and shape of one of {run.path}; there are "
            f"{', '.join(list(theirs)[:3])}, ..."
        )
    svi.load_weights({**mine, **{name: theirs[name].to(mine[name]) for name in agree}})
    said = f"{len(agree)} of {len(mine)} tensors start from {run.path}"
    left = [_why(name, value, theirs) for name, value in mine.items() if name not in agree]
    more = f" and {len(left) - 4} more" if len(left) > 4 else ""
    return f"{said}; not {', '.join(left[:4])}{more}." if left else f"{said}."


def _why(name: str, value: Tensor, theirs: dict[str, Tensor]) -> str:
    if name not in theirs:
        return name
    return f"{name} {tuple(value.shape)}, there {tuple(theirs[name].shape)}"

"""Why a bound is no longer finite, and what to do about it."""

from collections.abc import Mapping

from torch import Tensor

from ..data.records import Dataset
from ..data.streams import Streams
from ..evaluation.not_finite import blame_site, blame_tensor
from .svi import SVI

REMEDY = "Lower the learning rate, clip the gradient (clip_norm), or warm up the KL."


def why_diverged(svi: SVI, sound: Mapping[str, Tensor], data: Dataset | Streams, split: str) -> str:
    """Return where the first number is that is not finite, and the remedy, in words.

    Where the tensors are no longer finite, every site has lost its meaning: the pair is looked at
    with earlier weights, which tell a datum that the pair can't take from a step that was too long.

    Args:
        svi: the training, whose weights are put back.
        sound: weights of the best validation, or the first ones.
        data: what it trains on.
        split: where the bound was not finite.
    """
    now, tensor = svi.weights(), blame_tensor({**svi.parameters, **svi.tensors()})
    if tensor:
        svi.load_weights(dict(sound))
    try:
        site = _site(svi, data, split)
    finally:
        svi.load_weights(now)
    if site or not tensor:
        return site or REMEDY
    return f"{tensor} A step was too long: with earlier weights all of {split} is finite. {REMEDY}"


def _site(svi: SVI, data: Dataset | Streams, split: str) -> str | None:
    try:
        return blame_site(svi.model, svi.guide, data.split(split), split)
    except Exception:  # the bound is what is to be told, whatever the programs raise beside it
        return None

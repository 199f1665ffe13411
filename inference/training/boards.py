"""TensorBoard: an observer that writes each row of the trace to a folder that the board reads."""

from pathlib import Path
from typing import Any

from .observers import Observer, Plan
from .svi import SVI
from .trace import Row, Trace


class TensorBoard(Observer):
    """Writes the trace for TensorBoard: a scalar for each column, ``train/elbo``, ``valid/elbo``.

    ``tensorboard --logdir runs`` shows the folders of several runs together. A run that is resumed
    hides the rows after its last checkpoint, which are taken again.

    Args:
        folder: where to write.

    Raises:
        ImportError: the package is missing.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "TensorBoard is not installed: pip install 'lowerbound[tensorboard]'"
            ) from error
        self._make: Any = SummaryWriter
        self._folder, self._writer = str(folder), None

    def start(self, svi: SVI, plan: Plan) -> None:  # noqa: ARG002
        """Open the folder."""
        self._writer = self._make(self._folder, purge_step=plan.taken + 1 if plan.taken else None)

    def row(self, row: Row, svi: SVI) -> None:  # noqa: ARG002
        """Write the row's numbers."""
        values = {**row._asdict(), **row.extra}
        for name, value in values.items():
            if isinstance(value, int | float) and name != "step" and self._writer is not None:
                self._writer.add_scalar(f"{row.split}/{name}", value, row.step)
        if row.split == "valid" and self._writer is not None:
            self._writer.flush()

    def end(self, trace: Trace, svi: SVI, error: BaseException | None) -> None:  # noqa: ARG002
        """Close the folder."""
        if self._writer is not None:
            self._writer.close()

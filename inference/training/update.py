"""One step of SVI in its two halves: the gradient of an objective, and the optimiser's update."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import distributed
from ..capture.products import MatrixProducts
from ..kl_weight import KLWeight
from ..objectives.bounds import Estimate, Objective
from ..precision import Precision
from ..programs import Batch, Program, as_tuple, owner

Source = Callable[..., Batch]
"""Makes the batch of what a step is given: rows of a data set of their places, say."""


def make_batch(inputs: Sequence[Tensor], source: Source | None) -> Batch:
    """Return the batch that the inputs are, or that the source makes of them."""
    if source is not None:
        return source(*inputs)
    return inputs[0] if len(inputs) == 1 else tuple(inputs)


@dataclass
class Update:
    """What a step does and to what.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        objective: whose gradient is followed.
        optimizer: follows it.
        parameters: what it updates, by name.
        clip_norm: the gradient is scaled down to this norm where it is longer; None leaves it.
        precision: of the factors of matrix products.
    """

    model: Program
    guide: Program
    objective: Objective
    optimizer: Optimizer
    parameters: dict[str, Tensor]
    clip_norm: float | None = None
    precision: Precision = "32"

    def __post_init__(self) -> None:
        """List the modules that the programs are or belong to, and what the objective remembers."""
        roots = filter(None, (owner(self.model), owner(self.guide), self.objective.state))
        self.modules = list({id(m): m for root in roots for m in root.modules()}.values())
        self.buffers = [b for module in self.modules for b in module.buffers(recurse=False)]

    def gradients(
        self, inputs: Sequence[Tensor], kl_weight: float | Tensor | None, source: Source | None
    ) -> tuple[Estimate, list[Tensor | None]]:
        """Estimate the objective and its gradient by each parameter; None where it has none.

        Args:
            inputs: the batch, or what ``source`` makes the batch of.
            kl_weight: weight of the KL term in the loss; None is 1.
            source: makes the batch; None takes the inputs as they are.
        """
        parameters = list(self.parameters.values())
        lowered = MatrixProducts("bf16") if self.precision == "bf16" else nullcontext()
        # Validation reads values, which would wait for the device; prepare and check had it on.
        with pyro.validation_enabled(False), lowered:
            x = distributed.share(make_batch(inputs, source))
            weighted = nullcontext() if kl_weight is None else KLWeight(kl_weight)
            with weighted, distributed.drawing_for_all(len(as_tuple(x)[0])):
                estimate = self.objective(self.model, self.guide, x)
            if estimate.loss.requires_grad:
                found = list[Tensor | None](
                    torch.autograd.grad(estimate.loss, parameters, allow_unused=True)
                )
            else:  # the objective has run its own backward pass
                found = [parameter.grad for parameter in parameters]
                self._set(None)
        return estimate._replace(loss=estimate.loss.detach()), found

    def gather(self, values: Tensor, gradients: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return the means over the processes; buffers become theirs in place.

        Args:
            values: the estimate's, (4,).
            gradients: of the share of the batch that is this process's.
        """
        if distributed.world() == 1:
            return values, list(gradients)
        floats = [buffer for buffer in self.buffers if buffer.is_floating_point()]
        values, *others = distributed.mean([values, *gradients, *floats])
        for buffer, value in zip(floats, others[len(gradients) :], strict=True):
            buffer.copy_(value)
        return values, others[: len(gradients)]

    def apply(self, gradients: Sequence[Tensor | None]) -> None:
        """Clip the gradients, and let the optimiser take its step."""
        self._set(gradients)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters.values(), self.clip_norm)
        self.optimizer.step()
        self._set(None)

    def _set(self, gradients: Sequence[Tensor | None] | None) -> None:
        for place, parameter in enumerate(self.parameters.values()):
            parameter.grad = gradients[place] if gradients else None

    def changing(self) -> list[Tensor]:
        """Return every tensor that a step changes: parameters, buffers, the optimiser's moments."""
        moments = (v for state in self.optimizer.state.values() for v in state.values())
        return [
            *self.parameters.values(),
            *self.buffers,
            *(value for value in moments if isinstance(value, Tensor)),
        ]

    @property
    def counts_in_tensors(self) -> bool:
        """Whether the optimiser's state is tensors alone, as a captured update needs it."""
        values = (v for state in self.optimizer.state.values() for v in state.values())
        return all(value is None or isinstance(value, Tensor) for value in values)

    def settings(self) -> tuple[Any, ...]:
        """Return what a captured step has in it for good, but for the shapes of its inputs."""
        groups = self.optimizer.param_groups
        return (
            id(self.objective),
            id(self.optimizer.state),  # replaced when a state is loaded
            self.clip_norm,
            self.precision,
            *(v for g in groups for k, v in g.items() if k not in ("params", "lr", "initial_lr")),
            *(module.training for module in self.modules),
        )

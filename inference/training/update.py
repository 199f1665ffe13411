"""One step of SVI in its two halves: the gradient of an objective, and the optimiser's update."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import distributed
from ..capture.products import MatrixProducts
from ..data_plate import DataSize
from ..kl_weight import KLWeight
from ..objectives.bounds import Estimate, Objective
from ..precision import Precision
from ..programs import Batch, Program, as_tuple
from ..references import modules

Source = Callable[..., Batch]
"""Makes a batch of a step's inputs: rows of a data set of their places, say."""


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
        clip_norm: largest norm of the gradient; a longer one is scaled down. None leaves it.
        precision: of the factors of matrix products.
        data_size: number of training data; None takes that of the batch.
    """

    model: Program
    guide: Program
    objective: Objective
    optimizer: Optimizer
    parameters: dict[str, Tensor]
    clip_norm: float | None = None
    precision: Precision = "32"
    data_size: int | None = None

    def __post_init__(self) -> None:
        """Find the modules that the programs are or refer to, and what the objective remembers."""
        roots: dict[str, nn.Module] = {}
        for role, program in (("model", self.model), ("guide", self.guide)):
            roots |= {_joined(role, name): root for name, root in modules(program).items()}
        if self.objective.state is not None:
            roots["objective"] = self.objective.state
        named = {
            id(module): (module, _joined(name, inner))
            for name, root in reversed(roots.items())
            for inner, module in root.named_modules()
        }
        self._named = list(named.values())
        self.modules = [module for module, _ in self._named]

    def follow(
        self, model: Program, guide: Program, clip_norm: float | None, precision: Precision
    ) -> None:
        """Take over what may be assigned to an `SVI` between two steps.

        Raises:
            ValueError: it has got another model or guide.
        """
        if model is not self.model or guide is not self.guide:
            raise ValueError(
                "The model or the guide was assigned anew, and the optimiser holds the parameters "
                "of the former one: make another SVI of the new pair."
            )
        self.clip_norm, self.precision = clip_norm, precision

    @property
    def buffers(self) -> dict[str, Tensor]:
        """The modules' buffers as they are now, each once, by name."""
        found = {
            id(buffer): (_joined(name, inner), buffer)
            for module, name in self._named
            for inner, buffer in module.named_buffers(recurse=False)
        }
        return dict(found.values())

    def gradients(
        self, inputs: Sequence[Tensor], kl_weight: float | Tensor | None, source: Source | None
    ) -> tuple[Estimate, list[Tensor | None]]:
        """Estimate the objective and its gradient by each parameter; None where it has none.

        Args:
            inputs: the batch, or what ``source`` makes the batch of.
            kl_weight: weight of the KL term in the loss; None is 1.
            source: makes the batch; None takes the inputs as they are.
        """
        parameters = self.parameters.values()
        lowered = MatrixProducts("bf16") if self.precision == "bf16" else nullcontext()
        # Validation reads values and so waits for the device; `prepare` and `check` have it on.
        with pyro.validation_enabled(False), lowered:
            x = distributed.share(make_batch(inputs, source))
            weighted = nullcontext() if kl_weight is None else KLWeight(kl_weight)
            sized = nullcontext() if self.data_size is None else DataSize(self.data_size)
            with weighted, sized, distributed.drawing_for_all(len(as_tuple(x)[0])):
                estimate = self.objective(self.model, self.guide, x)
            learned = [parameter for parameter in parameters if parameter.requires_grad]
            if learned and estimate.loss.requires_grad:
                gradients = iter(torch.autograd.grad(estimate.loss, learned, allow_unused=True))
                # A frozen one has none, so no optimiser moves it, not even by weight decay.
                found = [next(gradients) if p.requires_grad else None for p in parameters]
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
        floats = [buffer for buffer in self.buffers.values() if buffer.is_floating_point()]
        values, *others = distributed.mean([values, *gradients, *floats])
        for buffer, value in zip(floats, others[len(gradients) :], strict=True):
            buffer.copy_(value)
        return values, others[: len(gradients)]

    def gather_all(
        self, estimate: Estimate, gradients: Sequence[Tensor | None]
    ) -> tuple[Estimate, list[Tensor | None]]:
        """Return the same of a whole step; a parameter without gradient has none in any process."""
        found = [gradient for gradient in gradients if gradient is not None]
        values, found = self.gather(torch.stack(estimate), found)
        rest = iter(found)
        return Estimate(*values.unbind()), [None if g is None else next(rest) for g in gradients]

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
            *self.buffers.values(),
            *(value for value in moments if isinstance(value, Tensor)),
        ]

    @contextmanager
    def attributes_kept(self) -> Iterator[list[str]]:
        """Put back, on leaving, what the block assigns to attributes of the modules.

        Yields:
            A list that names the buffers among them, once the block is left.
        """
        before = [
            (module, name, {**vars(module)}, dict(module.named_buffers(recurse=False)))
            for module, name in self._named
        ]
        assigned: list[str] = []
        try:
            yield assigned
        finally:
            for module, name, attributes, buffers in before:
                now = dict(module.named_buffers(recurse=False))
                for key, buffer in buffers.items():
                    if now.get(key) is not buffer:
                        assigned.append(_joined(name, key))
                        setattr(module, key, buffer)
                for key in vars(module).keys() - attributes.keys():
                    del vars(module)[key]
                vars(module).update(attributes)

    def settings(self) -> tuple[Any, ...]:
        """Return what is fixed in a captured gradient, besides the shapes of its inputs."""
        return (
            id(self.objective),
            id(self.optimizer.state),  # replaced when a state is loaded
            self.clip_norm,
            self.precision,
            self.data_size,
            *self.parameters,
            *(parameter.requires_grad for parameter in self.parameters.values()),
            *(module.training for module in self.modules),
        )


def optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """Return the state of an optimiser.

    Raises:
        ValueError: it has moments of a parameter that is in none of its groups any more.
    """
    try:
        return optimizer.state_dict()
    except KeyError:
        raise ValueError(
            "A parameter was taken out of the optimiser's param_groups, which leaves its moments "
            "behind. Freeze it by requires_grad_(False) instead: no optimiser moves it then."
        ) from None


def _joined(*names: str) -> str:
    return ".".join(filter(None, names))

"""A guide that is read off the model."""

from collections.abc import Callable
from math import prod
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.inspect import get_dependencies
from pyro.nn import PyroModule
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from .heads import Shape, head_of, one_hot_of


class AutoAmortized(PyroModule):
    r"""Given only a model: a posterior for each of its latent sites, from one encoder.

    The model is run once on an example. A site of a continuous support gets a normal, sent to the
    support by its bijection; bits get Bernoullis, categories categoricals. Sites outside the data
    plate get a learned distribution that all data share.

    With ``structured`` the sites are sampled in the reverse of the model's order, and each one's
    parameters are the encoder's plus a linear function of those before it that it depends on in
    the posterior: the model's graph, turned round and moralised, so that no dependence is lost.
    They start at zero: it starts as the mean-field guide, which it stays otherwise.

    Source: Webb et al. 2018, arXiv 1712.00287 (faithful inversion); Kucukelbir et al. 2017,
    arXiv 1603.00788 (transformed normals).

    Args:
        model: p(z) p(x|z); called with the batch.
        encoder: makes a network from x's event shape and a number of outputs, as `MLP` does.
        example: a batch: x (B, *event_shape), or a tuple whose first member is x. What else is in
            it goes through a linear layer beside the encoder; integers are categories, one more
            than the largest in the example, and a negative one is none of them.
        structured: whether sites depend on each other.

    Raises:
        ValueError: no latent site is in a plate over the batch, or a site has another plate, or a
            support that no bijection or finite family is known for.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        encoder: Callable[[Shape, int], nn.Module],
        example: Tensor | tuple[Tensor, ...],
        structured: bool = True,
    ) -> None:
        super().__init__()
        x, *others = example if isinstance(example, tuple) else (example,)
        sites = _latent_sites(model, (x, *others))
        plates = {name: _data_plate(name, sites[name], len(x)) for name in reversed(sites)}
        self.heads = {name: head_of(name, sites[name]) for name in plates}
        self.local = [name for name, plate in plates.items() if plate]
        if not self.local:
            raise ValueError(
                f"The model has no latent site in a plate of size {len(x)}, the batch's, at dim "
                f"-1; it has {', '.join(map(repr, sites)) or 'none at all'}. Wrap the sites of one "
                "datum in `with pyro.plate('data', len(x)):`."
            )
        self.plate = str(plates[self.local[0]])
        self.sizes = [self.heads[name].parameter_dim for name in self.local]
        self.encoder = encoder(tuple(x.shape[1:]), sum(self.sizes))
        self.classes = [0 if t.is_floating_point() else int(t.max()) + 1 for t in others]
        widths = [c or prod(t.shape[1:]) for c, t in zip(self.classes, others, strict=True)]
        self.beside = nn.Linear(sum(widths), sum(self.sizes), bias=False) if others else None
        self.parents: dict[str, list[str]] = {name: [] for name in self.local}
        if structured:
            blanket: Any = get_dependencies(model, (x, *others))["posterior_dependencies"]
            for place, name in enumerate(self.local):
                self.parents[name] = [p for p in self.local[:place] if p in blanket[name]]
        self.links = nn.ModuleDict(
            {_key(name): self._link(name) for name, known in self.parents.items() if known}
        )
        self.shared = nn.ParameterDict(
            {
                _key(name): nn.Parameter(torch.zeros(head.parameter_dim))
                for name, head in self.heads.items()
                if name not in self.local
            }
        )

    def forward(self, *batch: Tensor) -> dict[str, Tensor]:
        """Run the program on a batch; return each site's value, by name."""
        values: dict[str, Tensor] = {}
        own = dict(zip(self.local, self._encode(*batch).split(self.sizes, -1), strict=True))
        data = pyro.plate(self.plate, len(batch[0]), dim=-1)
        for name, head in self.heads.items():
            if name not in self.parents:
                values[name] = pyro.sample(name, head(self.shared[_key(name)]))
                continue
            parameters = own[name]
            if known := self.parents[name]:
                numbers = [self.heads[p].numbers(values[p]) for p in known]
                shape = torch.broadcast_shapes(*(n.shape[:-1] for n in numbers))
                together = torch.cat([n.expand(*shape, n.shape[-1]) for n in numbers], -1)
                parameters = parameters + self.links[_key(name)](together)
            with data:
                values[name] = pyro.sample(name, head(parameters))
        return values

    def _link(self, name: str) -> nn.Linear:
        width = sum(self.heads[p].numbers_dim for p in self.parents[name])
        link = nn.Linear(width, self.heads[name].parameter_dim, bias=False)
        nn.init.zeros_(link.weight)
        return link

    def _encode(self, x: Tensor, *others: Tensor) -> Tensor:
        """Return the parameters of all local sites, (B, sum of their sizes)."""
        parameters = self.encoder(x)
        if self.beside is None:
            return parameters
        flat = [
            one_hot_of(o, classes).to(parameters.dtype) if classes else o.flatten(1)
            for o, classes in zip(others, self.classes, strict=True)
        ]
        return parameters + self.beside(torch.cat(flat, -1))


def _latent_sites(model: Callable[..., Any], batch: tuple[Tensor, ...]) -> dict[str, Any]:
    """Run the model once, and leave the random state alone."""
    with torch.random.fork_rng(), torch.no_grad(), pyro.validation_enabled(False), poutine.block():
        trace = poutine.trace(model).get_trace(*batch)
    sites = ((name, trace.nodes[name]) for name in trace.stochastic_nodes)
    return {name: site for name, site in sites if not site_is_subsample(site)}


def _data_plate(name: str, site: dict[str, Any], size: int) -> str | None:
    """Return the name of the plate over the batch; None where the site is in no plate at all."""
    frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
    plates = [frame.name for frame in frames if frame.dim == -1 and frame.size == size]
    if len(frames) != len(plates):
        raise ValueError(
            f"Site {name!r} is in the plates {[frame.name for frame in frames]}; all but the one "
            f"over the batch (size {size}, dim -1) should be event dimensions: use .to_event()."
        )
    return plates[0] if plates else None


def _key(name: str) -> str:
    """A module's attributes have no dots in their names."""
    return name.replace(".", "_")

"""The amortized guide of any model, made from what a run of the model shows."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from .families import DiagonalNormal, Family
from .label import indicator
from .latent_sites import LatentSite, read
from .networks import MLP
from .site_posteriors import CategoricalPosterior, SitePosterior, posterior_for


class AutoAmortized(PyroModule):
    r"""A guide for any model: :math:`q(z \mid x) = \prod_i q(z_i \mid z_{\mathrm{pa}(i)}, x)`.

    A run of the model on a batch shows its latent sites: names, supports, event shapes and
    the order of dependence. One encoder puts out parameters :math:`e_i(x)` for all local sites. A
    site with parents, or with more in the batch than x, has

    .. math:: \mathrm{parameters}_i = e_i(x) + A_i u + f_i(e_i(x), u),

    u its parents' values, as unconstrained reals or one-hot, and the batch's other entries. A
    and the last layer of f start at 0: the guide starts as mean field. The parents are those of
    the minimal faithful inverse in the model's order, so that the guide factorises as the
    posterior does: a deep Markov model gives a Markov chain :math:`q(z_t \mid z_{t-1}, x)`, a
    hierarchy a pass from its top down.

    A site of the reals has the family's distribution, one with another continuous support that
    family under the transform to it, a discrete one a Bernoulli or categorical. Sites outside the
    data plate have parameters of their own, the same for every batch.

    The guide runs the model when it is made, if x is given, else at its first call, and does not
    keep it.

    Sources: Webb et al. 2018, arXiv 1712.00287; Kucukelbir et al. 2017, arXiv 1603.00788.

    >>> import torch
    >>> from guides import MLP, AutoAmortized
    >>> from models import MLP as Decoder, VAE, Bernoulli, StandardNormal
    >>> model = VAE(StandardNormal(2), Decoder(2, (8,)), Bernoulli((8,)))
    >>> guide = AutoAmortized(model, MLP, torch.zeros(2, 8))
    >>> guide(torch.zeros(5, 8))["z"].shape
    torch.Size([5, 2])

    Args:
        model: p(z) p(x | z), conditioned on the batch with ``obs=``.
        encoder: makes the network from x (B, *event_shape) to parameters (B, P), from that
            event_shape and P, as `MLP` does; or a network of your own from x to features (B, F),
            which gets a linear layer on top.
        x: a batch of two data or more, for their shapes; a tuple where the model takes one.
        structured: whether sites depend on each other given x; mean field otherwise.
        family: makes the posterior family of a continuous site from its number of reals.
        hidden: width of each f.
        classes: of an integer entry of the batch, by place, how many values it has; it is then
            seen as one-hot vectors, not as numbers.
        known: for a categorical site, the place of the batch's entry that says its value, -1
            where that is not known. Where it is, the whole mass lies on it.

    Raises:
        ValueError: the model has no data plate, nothing to amortise, or a site without a known
            posterior; or the encoder has another output. Without x, at the first call.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        encoder: Callable[[tuple[int, ...], int], nn.Module] | nn.Module = MLP,
        x: Tensor | tuple[Tensor, ...] | None = None,
        structured: bool = True,
        family: Callable[[int], Family] = DiagonalNormal,
        hidden: int = 64,
        classes: Mapping[int, int] | None = None,
        known: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.structured = structured
        self.hidden = hidden
        self.classes, self.known = dict(classes or {}), dict(known or {})
        self.sites: list[LatentSite] = []
        self._waiting: tuple[Any, ...] = (model, encoder, family)  # a tuple hides them from torch
        if x is not None:
            self._build(x if isinstance(x, tuple) else (x,))

    @property
    def factorisation(self) -> str:
        """How q factorises, such as ``q(z_2 | x) q(z_1 | z_2, x)``."""
        factors = []
        for site in self.sites:
            given = [*site.parents, *["x"] * site.local]
            factors.append(f"q({site.name} | {', '.join(given)})" if given else f"q({site.name})")
        return " ".join(factors)

    def forward(self, *batch: Tensor) -> dict[str, Tensor]:
        """Run the program on x (B, *event_shape) and what else the model takes; return the draws.

        Those of a local site have shape (..., B, *event_shape).
        """
        if not self.sites:
            self._build(batch)
        parameters = [*self.shared, *self.encoder(_vector(batch[0])).split(self._sizes, -1)]
        beside = self._beside(batch, parameters[-1].dtype)
        draws: dict[str, Tensor] = {}
        vectors: dict[str, Tensor] = {}

        def sample(index: int) -> None:
            site, posterior = self.sites[index], cast(SitePosterior, self.posteriors[index])
            given = [vectors[name] for name in site.parents] + (beside if site.local else [])
            theta = self.shifts[index](parameters[index], given)
            known = [batch[self.known[site.name]]] if site.name in self.known else []
            draws[site.name] = value = pyro.sample(site.name, posterior(theta, *known))
            vectors[site.name] = posterior.vector(value).to(theta.dtype)

        for index in range(len(self.shared)):
            sample(index)
        with pyro.plate(self.plate, len(batch[0])):
            for index in range(len(self.shared), len(self.sites)):
                sample(index)
        return draws

    def _build(self, batch: tuple[Tensor, ...]) -> None:
        model, encoder, family = self._waiting
        x = batch[0]
        self.plate, sites = read(model, batch, self.structured)
        posteriors = [posterior_for(s.name, s.support, s.event_shape, family) for s in sites]
        self._check_known(sites, posteriors, len(batch))
        shared = [p for s, p in zip(sites, posteriors, strict=True) if not s.local]
        self._sizes = [p.parameter_dim for s, p in zip(sites, posteriors, strict=True) if s.local]
        lengths = {s.name: p.vector_dim for s, p in zip(sites, posteriors, strict=True)}
        beside = sum(entry.shape[-1] for entry in self._beside(batch, torch.get_default_dtype()))
        self.encoder = _network(encoder, _vector(x), sum(self._sizes))
        self.posteriors = nn.ModuleList(posteriors)
        self.shared = nn.ParameterList([torch.zeros(p.parameter_dim) for p in shared])
        self.shifts = nn.ModuleList(
            Shift(
                posterior.parameter_dim,
                sum(lengths[name] for name in site.parents) + beside * site.local,
                self.hidden,
            )
            for site, posterior in zip(sites, posteriors, strict=True)
        )
        self.to(device=x.device, dtype=x.dtype if x.is_floating_point() else None)
        self.sites, self._waiting = sites, ()

    def _beside(self, batch: tuple[Tensor, ...], dtype: torch.dtype) -> list[Tensor]:
        """Return the batch's other entries as vectors (B, V)."""
        entries = []
        for place, entry in enumerate(batch):
            if place in self.classes:
                entry = indicator(entry, self.classes[place], dtype)
            if place and place not in self.known.values():
                entries.append(_vector(entry).flatten(1).to(dtype))
        return entries

    def _check_known(
        self, sites: list[LatentSite], posteriors: list[SitePosterior], entries: int
    ) -> None:
        categorical = [
            site.name
            for site, posterior in zip(sites, posteriors, strict=True)
            if isinstance(posterior, CategoricalPosterior) and site.local
        ]
        for name, place in self.known.items():
            if name not in categorical or not 0 < place < entries:
                raise ValueError(
                    f"Expected known= to name a categorical site, of which there are "
                    f"{categorical}, and a place from 1 to {entries - 1} in the batch; got "
                    f"{{{name!r}: {place}}}."
                )


class Shift(nn.Module):
    r"""Parameters that depend on given vectors u too: :math:`e + A u + f(e, u)`, at first e.

    Args:
        parameter_dim: length P of e.
        given_dim: length V of u; 0 for none.
        hidden: width of f's hidden layer.
    """

    def __init__(self, parameter_dim: int, given_dim: int, hidden: int) -> None:
        super().__init__()
        self.given_dim = given_dim
        if given_dim:
            self.linear = nn.Linear(given_dim, parameter_dim, bias=False)
            last = nn.Linear(hidden, parameter_dim, bias=False)
            self.bend = nn.Sequential(nn.Linear(parameter_dim + given_dim, hidden), nn.ReLU(), last)
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(last.weight)

    def forward(self, parameters: Tensor, given: list[Tensor]) -> Tensor:
        """Shift parameters e (..., P), given vectors that make up u (..., V)."""
        if not self.given_dim:
            return parameters
        front = torch.broadcast_shapes(*(v.shape[:-1] for v in (parameters, *given)))
        e, *rest = (v.expand(*front, v.shape[-1]) for v in (parameters, *given))
        u = torch.cat(rest, -1)
        return e + self.linear(u) + self.bend(torch.cat([e, u], -1))


def _vector(x: Tensor) -> Tensor:
    """Give data that are single numbers (B,) the shape of vectors (B, 1)."""
    return x.unsqueeze(-1) if x.dim() == 1 else x


def _network(encoder: Any, x: Tensor, size: int) -> nn.Module:
    """Return a network from x to (B, size)."""
    given = isinstance(encoder, nn.Module)
    network = encoder if given else encoder(tuple(x.shape[1:]), size)
    dtype = x.dtype if x.is_floating_point() else None
    network.to(device=x.device, dtype=dtype)
    training = network.training
    with torch.no_grad():
        shape = tuple(network.eval()(x).shape)
    network.train(training)
    wanted = "F" if given else size
    if len(shape) != 2 or shape[0] != len(x) or not (given or shape[1] == size):
        raise ValueError(
            f"Expected the encoder to map x {tuple(x.shape)} to shape ({len(x)}, {wanted}); got "
            f"{shape}. Flatten its output, and let its last layer have the size that it is given."
        )
    return nn.Sequential(network, nn.Linear(shape[1], size)) if given else network

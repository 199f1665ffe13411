"""The pairs that are trained in the benchmark, each also as the plain networks in it."""

from dataclasses import dataclass, replace
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.distributions.transforms import AffineAutoregressive
from pyro.nn import AutoRegressiveNN
from torch import Tensor, nn

from guides import Amortized, DiagonalNormal, Encoder
from inference import SVI, Elbo, Iwae
from inference.data import Binarised, Split
from inference.objectives import Bound
from models import VAE, Decoder
from scripts._pair import compose

Shape = tuple[int, ...]
Pair = tuple[VAE, Amortized]


class ConvEncoder(Encoder):
    """Two convolutions of stride 2, 32 and 64 channels, and a dense layer.

    Args:
        event_shape: (channels, height, width), the latter two divisible by 4.
        parameter_dim: how many numbers the posterior family wants for each datum.
    """

    def __init__(self, event_shape: Shape, parameter_dim: int) -> None:
        super().__init__()
        channels, height, width = event_shape
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * (height // 4) * (width // 4), parameter_dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, channels, height, width) to parameters (B, P)."""
        return self.layers(x)


class ConvDecoder(Decoder):
    """The mirror of `ConvEncoder`.

    Args:
        latent_dim: number Z of latent coordinates.
        parameter_shape: (channels, height, width), the latter two divisible by 4.
    """

    def __init__(self, latent_dim: int, parameter_shape: Shape) -> None:
        super().__init__()
        channels, height, width = parameter_shape
        self.layers = nn.Sequential(
            nn.Linear(latent_dim, 64 * (height // 4) * (width // 4)),
            nn.ReLU(),
            nn.Unflatten(1, (64, height // 4, width // 4)),
            nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(32, channels, 4, stride=2, padding=1),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Map z (..., Z) to parameters (..., channels, height, width)."""
        parameters = self.layers(z.reshape(-1, z.shape[-1]))
        return parameters.reshape(*z.shape[:-1], *parameters.shape[1:])


class Autoregressive(DiagonalNormal):
    """A diagonal normal taken through inverse autoregressive flows.

    Source: Kingma et al. 2016, arXiv 1606.04934.

    Args:
        latent_dim: number Z of latent coordinates.
        flows: how many.
        hidden: width of each one's hidden layer.
    """

    def __init__(self, latent_dim: int, flows: int = 2, hidden: int = 400) -> None:
        super().__init__(latent_dim)
        networks = (AutoRegressiveNN(latent_dim, [hidden]) for _ in range(flows))
        self.flows = nn.ModuleList(AffineAutoregressive(network) for network in networks)

    def forward(self, parameters: Tensor) -> TorchDistributionMixin:
        """Return q for parameters (B, 2Z): batch_shape (B,), event_shape (Z,)."""
        base = super().forward(parameters)
        return dist.TransformedDistribution(base, list(self.flows))


@dataclass(frozen=True)
class Case:
    """What one training step does.

    Args:
        batch_size: data B of a step.
        particles: draws K for each datum; several make the importance-weighted bound.
        parts: arguments of `compose` that differ from its defaults, MLP 784-400-50.
    """

    batch_size: int
    particles: int = 1
    parts: tuple[tuple[str, Any], ...] = ()

    @property
    def objective(self) -> Bound:
        """What is optimised."""
        return Elbo() if self.particles == 1 else Iwae(self.particles)


CASES = {
    "mlp16": Case(16),
    "mlp128": Case(128),
    "mlp1024": Case(1024),
    "conv128": Case(128, parts=(("encoder", ConvEncoder), ("decoder", ConvDecoder))),
    "iaf128": Case(128, parts=(("guide", Autoregressive),)),
    "iwae16": Case(16, particles=50),
}


@dataclass(frozen=True)
class Setting:
    """A case on a device, and the weights that every contender starts from.

    Args:
        case: what a step does.
        split: the data.
        weights: of the model and of the guide, None for fresh ones.
        learning_rate: of every contender's Adam; at 0 the weights stay as they are.
    """

    case: Case
    split: Split
    weights: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None
    learning_rate: float = 1e-3

    @property
    def levels(self) -> int:
        """The stored value of full ink."""
        assert isinstance(self.split.view, Binarised)
        return self.split.view.levels

    def pair(self) -> Pair:
        """Make a new pair."""
        pair = compose(self.split.event_shape, self.split.device, **dict(self.case.parts))
        for module, weights in zip(pair, self.weights or (), strict=False):
            module.load_state_dict(weights)
        return pair

    def trained(self, steps: int) -> "Setting":
        """Return the same setting some steps on, where reconstruction and KL both count."""
        model, guide = self.pair()
        svi = SVI(model, guide, objective=self.case.objective, compile="off")
        for places in self.places(steps):
            svi.step(self.split.batch(places))
        weights = (model.state_dict(), guide.state_dict())
        return replace(self, weights=weights)

    def places(self, steps: int) -> Tensor:
        """Draw which data each of some steps takes, (steps, B)."""
        shape = (steps, self.case.batch_size)
        return torch.randint(len(self.split), shape, device=self.split.device)


Networks = tuple[nn.Module, nn.Module, list[nn.Module]]


def networks(pair: Pair) -> Networks:
    """Return encoder, decoder and flow networks of a pair, with nothing of Pyro around them.

    The encoder takes x (B, *event_shape), the decoder z (..., Z); its output may be flat.
    """
    model, guide = pair
    flows = [flow.arn for flow in getattr(guide.family, "flows", [])]
    if isinstance(model.decoder, ConvDecoder):
        return guide.encoder, model.decoder, flows
    return nn.Sequential(nn.Flatten(), *_dense(guide.encoder)), _dense(model.decoder), flows


def linear_layers(module: nn.Module) -> list[nn.Linear]:
    """Return the dense layers of a network in order."""
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]


def _dense(network: nn.Module) -> nn.Sequential:
    layers: list[nn.Module] = []
    for linear in linear_layers(network):
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])

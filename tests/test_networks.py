"""Networks: shapes for images of any size, particles, gradients, gates, refusals."""

import math
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import guides
import models

EVENTS = [(1, 4, 3), (28, 28), (3, 32, 32), (1, 28, 20), (5, 7), (2, 1, 1)]
ARGUMENTS: dict[str, dict[str, Any]] = {
    "MLP": {"hidden": [8]},
    "GatedMLP": {"hidden": [8, 7]},
    "Convolutional": {"channels": [8, 9, 8]},
    "ResidualConvolutional": {"channels": [8, 9], "blocks": 2},
}


def make(package: ModuleType, name: str, *sizes: Any) -> Any:
    """A network away from its start, where the last layer of a residual block is zero."""
    network = getattr(package, name)(*sizes, **ARGUMENTS[name])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network


@pytest.mark.parametrize("event", EVENTS, ids=str)
@pytest.mark.parametrize("name", ARGUMENTS)
def test_shapes_and_gradients(name: str, event: tuple[int, ...]) -> None:
    """One number an element and three; leading dimensions of z are flattened and put back."""
    encode = make(guides, name, event, 5)
    outputs = {encode: encode(torch.rand(4, *event))}
    assert outputs[encode].shape == (4, 5)
    for shape in (event, (3, *event)):
        decode = make(models, name, 2, shape)
        z = torch.randn(3, 4, 2)
        outputs[decode] = found = decode(z)
        assert found.shape == (3, 4, *shape)
        torch.testing.assert_close(found.flatten(0, 1), decode(z.flatten(0, 1)))
        torch.testing.assert_close(found[0, 0], decode(z[0, 0]), rtol=1e-4, atol=1e-5)
    for network, out in outputs.items():
        gradients = torch.autograd.grad(out.square().sum(), list(network.parameters()))
        assert all(g.isfinite().all() and g.any() for g in gradients)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_encoder_refuses_another_event(name: str) -> None:
    with pytest.raises(ValueError, match=r"Expected x of shape \(B, 4, 3\); got \(2, 1, 4, 3\)"):
        make(guides, name, (4, 3), 2)(torch.rand(2, 1, 4, 3))


@pytest.mark.parametrize(("package", "kind"), [(guides, guides.Encoder), (models, models.Decoder)])
def test_every_network_is_in_the_table(package: Any, kind: type) -> None:
    parts = {name: getattr(package, name) for name in package.__all__}
    found = {n for n, part in parts.items() if isinstance(part, type) and issubclass(part, kind)}
    assert found - {"Encoder", "Decoder", "LogMLP"} == ARGUMENTS.keys()


def test_gate_is_a_product_with_a_sigmoid() -> None:
    """One hidden layer by hand: (W x + b) * sigmoid(V x + c), then the linear output."""
    x = torch.randn(4, 3)
    networks: list[Any] = [guides.GatedMLP((3,), 2, [6]), models.GatedMLP(3, (2,), [6])]
    for network in networks:
        first, _, last = network.layers
        (W, V), (b, c) = first.weight.chunk(2), first.bias.chunk(2)  # noqa: N806
        h = (x @ W.T + b) / (1 + torch.exp(-(x @ V.T + c)))
        torch.testing.assert_close(network(x), h @ last.weight.T + last.bias)


def test_residual_blocks_start_as_the_identity() -> None:
    """With the weights of the plain network beside them the output is the same to the bit."""
    shape, x, z = (1, 9, 6), torch.rand(2, 1, 9, 6), torch.randn(2, 3)
    for package, sizes, given in ((guides, (shape, 4), x), (models, (3, shape), z)):
        residual: Any = package.ResidualConvolutional(*sizes, channels=[4, 4])
        plain: Any = package.Convolutional(*sizes, channels=[4, 4], kernel_size=3)
        for stage, other in zip(plain.stages, residual.stages, strict=True):
            (kept,) = (m for m in other if isinstance(m, nn.Conv2d | nn.ConvTranspose2d))
            (conv,) = (m for m in stage if isinstance(m, nn.Conv2d | nn.ConvTranspose2d))
            conv.load_state_dict(kept.state_dict())
        plain.dense.load_state_dict(residual.dense.state_dict())
        assert torch.equal(plain(given), residual(given))


def test_decoder_is_the_shape_of_the_encoders_transpose() -> None:
    """<conv(x), y> = <x, conv'(y)> with the weights shared: they pair the same pixels."""
    event = (2, 9, 6)
    encoder: Any = guides.Convolutional(event, 1, [3])
    decoder: Any = models.Convolutional(1, event, [3])
    down, up = encoder.stages[0][0], decoder.stages[0][1]
    with torch.no_grad():
        up.weight.copy_(down.weight)
        up.bias.zero_()
        down.bias.zero_()
        x, y = torch.randn(1, *event), torch.randn(1, 3, 5, 3)
        assert (down(x) * y).sum().item() == pytest.approx((x * up(y)).sum().item(), rel=1e-4)


EVENT = (1, 4, 3)
CONVOLUTIONS: list[tuple[dict[str, Any], str]] = [
    ({"channels": []}, r"at least one convolution; got \[\]. .*take an MLP"),
    ({"channels": [4, 0]}, r"at least one convolution; got \[4, 0\]"),
    ({"kernel_size": 4}, "odd kernel_size of at least 3, such as 5; got 4"),
    ({"kernel_size": 1}, "odd kernel_size of at least 3, such as 5; got 1"),
]

WRONG: list[tuple[str, Any, dict[str, Any], str]] = [
    *(
        (name, None, arguments, words)
        for name, cases in {
            "GatedMLP": [({"hidden": []}, r"at least one hidden layer; got hidden=\[\]")],
            "Convolutional": CONVOLUTIONS,
            "ResidualConvolutional": [
                *CONVOLUTIONS,
                ({"blocks": 0}, "at least 1 residual block; got blocks=0. .*take Convolutional"),
            ],
        }.items()
        for arguments, words in cases
    ),
    ("Convolutional", (12,), {}, r"H, W\).*; got \(12,\). Take an MLP, or give the data the shape"),
    ("ResidualConvolutional", (12,), {}, r"got \(12,\). Take an MLP"),
]


@pytest.mark.parametrize(("name", "event", "arguments", "words"), WRONG)
def test_wrong_arguments_are_refused(
    name: str, event: Any, arguments: dict[str, Any], words: str
) -> None:
    for package, sizes in ((guides, (event or EVENT, 4)), (models, (2, event or EVENT))):
        with pytest.raises(ValueError, match=words):
            getattr(package, name)(*sizes, **arguments)


def test_encoder_refuses_volumes() -> None:
    with pytest.raises(ValueError, match=r"Expected images.*got \(1, 2, 3, 4\)"):
        guides.Convolutional((1, 2, 3, 4), 4)


def test_defaults_are_sized_for_mnist() -> None:
    """The count by hand, so that a change of a default is a decision."""
    conv = 25 * 1 * 32 + 32 + 25 * 32 * 64 + 64
    dense = 64 * 7 * 7
    encoder, decoder = guides.Convolutional((1, 28, 28), 100), models.Convolutional(50, (1, 28, 28))
    up = 25 * 64 * 32 + 32 + 25 * 32 * 1 + 1
    for network, count in (
        (encoder, conv + dense * 100 + 100),
        (decoder, up + dense * 50 + dense),
    ):
        assert sum(math.prod(p.shape) for p in network.parameters()) == count

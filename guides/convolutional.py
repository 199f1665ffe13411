"""Encoders of images: strided convolutions, plain or with residual blocks."""

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from .networks import Encoder, refuse_other_events


class Convolutional(Encoder):
    r"""Strided convolutions with ReLU, then a dense layer, for images (C, H, W) or (H, W).

    Each convolution halves height and width, rounded up: 28 x 20, 14 x 10, 7 x 5. So an image may
    have any size, odd ones too. It shares its weights over places, where a perceptron learns each
    place by itself.

    Source: LeCun et al. 1989; strides in the place of pooling, Springenberg et al. 2015, arXiv
    1412.6806.

    Args:
        event_shape: shape (C, H, W) of an image, or (H, W), read as one channel.
        parameter_dim: how many numbers the posterior family wants for each datum.
        channels: of each convolution, from the image on; each halves height and width.
        kernel_size: height and width of the kernels, odd and at least 3.

    Raises:
        ValueError: the event is not an image, or a number is out of range.
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        parameter_dim: int,
        channels: Sequence[int] = (32, 64),
        kernel_size: int = 5,
    ) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        if len(self.event_shape) not in (2, 3):
            raise ValueError(
                f"Expected images, event_shape (C, H, W) or (H, W); got {self.event_shape}. "
                "Take an MLP, or give the data the shape of images."
            )
        if not channels or min(channels) < 1:
            raise ValueError(
                f"Expected the channels of at least one convolution; got {list(channels)}. "
                "Without any, take an MLP."
            )
        if kernel_size < 3 or kernel_size % 2 == 0:
            raise ValueError(
                f"Expected an odd kernel_size of at least 3, such as 5; got {kernel_size}."
            )
        *depth, height, width = self.event_shape
        self.image_shape = (math.prod(depth), height, width)
        half = kernel_size // 2
        self.stages = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, kernel_size, stride=2, padding=half), nn.ReLU())
                for a, b in pairwise((math.prod(depth), *channels))
            )
        )
        for _ in channels:
            height, width = (height + 1) // 2, (width + 1) // 2
        self.dense = nn.Linear(channels[-1] * height * width, parameter_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map images x (B, *event_shape) to parameters (B, P).

        Raises:
            ValueError: x has another event shape than the one the network was built for.
        """
        refuse_other_events(x, self.event_shape)
        return self.dense(self.stages(x.reshape(-1, *self.image_shape)).flatten(1))


class ResidualConvolutional(Convolutional):
    r"""A `Convolutional` encoder with residual blocks, :math:`h + f(h)`, at each size of the image.

    A block is ReLU, convolution, ReLU, convolution (pre-activation), the last of them zero at the
    start: every block begins as the identity, so depth costs nothing and the network needs no
    normalisation. Batch normalisation makes the ELBO of a datum depend on its batch.

    Sources: He et al. 2016, arXiv 1603.05027 (the block); Zhang, Dauphin and Ma 2019, arXiv
    1901.09321 (the start, in the place of normalisation).

    Args:
        event_shape: shape (C, H, W) of an image, or (H, W), read as one channel.
        parameter_dim: how many numbers the posterior family wants for each datum.
        channels: of each strided convolution, from the image on, and of the blocks behind it.
        kernel_size: height and width of the kernels, odd and at least 3.
        blocks: residual blocks behind each strided convolution.

    Raises:
        ValueError: the event is not an image, or a number is out of range.
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        parameter_dim: int,
        channels: Sequence[int] = (32, 64),
        kernel_size: int = 3,
        blocks: int = 2,
    ) -> None:
        super().__init__(event_shape, parameter_dim, channels, kernel_size)
        if blocks < 1:
            raise ValueError(
                f"Expected at least 1 residual block; got blocks={blocks}. "
                "Without any, take Convolutional."
            )
        for stage, width in zip(self.stages, channels, strict=True):
            for _ in range(blocks):
                stage.insert(1, _ResidualBlock(width, kernel_size))  # type: ignore[operator]


class _ResidualBlock(nn.Module):
    """From h (B, C, H, W) to h + f(h) of the same shape; the identity at the start."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        half = kernel_size // 2
        last = nn.Conv2d(channels, channels, kernel_size, padding=half)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        first = nn.Conv2d(channels, channels, kernel_size, padding=half)
        self.branch = nn.Sequential(nn.ReLU(), first, nn.ReLU(), last)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.branch(h)

"""Convolutional encoders and decoders for images of any size, with or without residual blocks."""

import itertools
import math
from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from elbo_bench.data_info import DataInfo
from elbo_bench.models.likelihoods.base import LikelihoodModule
from elbo_bench.models.networks import Activation, linear, nonlinearity, perceptron

Channels = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
"""Of each stage, of which there is at least one."""
_SMALLEST = 8
"""Least height and width of an image: below, there is nothing for a convolution to find."""


def image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return channels, height and width of data `[H, W]` or `[C, H, W]`.

    Raises:
        ValueError: The data are no images.
    """
    if len(shape) not in (2, 3) or min(shape[-2:]) < _SMALLEST:
        raise ValueError(
            f"convolutions need images [H, W] or [C, H, W] of at least {_SMALLEST} x {_SMALLEST}, and this data has "
            f"the shape {list(shape)}: use model=mlp"
        )
    channels = shape[0] if len(shape) == 3 else 1
    return channels, shape[-2], shape[-1]


class ImageFeatures(nn.Module):
    """Maps images `[B, C, H, W]` to features `[B, num_features]`.

    Each stage halves the image, rounding up, by a convolution of stride two; residual blocks may follow it. A
    perceptron ends it. Nothing is normalised over the batch: a bound of one example would depend on its neighbours.

    Args:
        image: C, H and W.
        channels: Channels after each stage.
        num_blocks: Residual blocks in a stage.
        hidden: Widths of the perceptron's layers.
        kernel_size: Side of the convolutions, odd.
        activation: Nonlinearity.
    """

    def __init__(
        self,
        image: tuple[int, int, int],
        channels: Sequence[int],
        num_blocks: int,
        hidden: Sequence[int],
        kernel_size: int,
        activation: Activation,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise([image[0], *channels]):
            layers.append(_started(nn.Conv2d(before, after, kernel_size, stride=2, padding=kernel_size // 2)))
            layers += _blocks(after, num_blocks, len(channels), kernel_size, activation)
            layers.append(nonlinearity(activation))
        self.stages = nn.Sequential(*layers)
        last = [image[0], *channels][-1]
        self.perceptron, self.num_features = perceptron(
            last * math.prod(_sizes(image, channels)[-1]), hidden, activation
        )

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F"]:
        """Return the features."""
        features: Tensor = self.perceptron(self.stages(x).flatten(1))
        return features


class ImageDecoder(nn.Module):
    """Maps latents `[*lead, D]` to what a likelihood of images takes, `[*lead, *data, num_outputs]`.

    It mirrors `ImageFeatures`, transposed convolutions in the place of convolutions. The last bias is each pixel's
    own, and begins where the likelihood wants it.

    Args:
        latent_dim: D.
        info: Facts of the data.
        channels: Channels after each stage of the encoder.
        num_blocks: Residual blocks in a stage.
        hidden: Widths of the encoder's perceptron.
        kernel_size: Side of the convolutions, odd.
        activation: Nonlinearity.
        likelihood: What takes the outputs.
    """

    def __init__(
        self,
        latent_dim: int,
        info: DataInfo,
        channels: Sequence[int],
        num_blocks: int,
        hidden: Sequence[int],
        kernel_size: int,
        activation: Activation,
        likelihood: LikelihoodModule,
    ) -> None:
        super().__init__()
        image = image_shape(info.shape)
        self.outputs = (image[0], likelihood.num_outputs)
        sizes = _sizes(image, channels)
        widths = [math.prod(self.outputs), *channels]
        self.start = (widths[-1], *sizes[-1])
        self.perceptron, width = perceptron(latent_dim, tuple(reversed(hidden)), activation)
        self.first = linear(width, math.prod(self.start))
        layers: list[nn.Module] = []
        for stage in reversed(range(len(channels))):
            larger, smaller = sizes[stage], sizes[stage + 1]
            # Of two sizes that are halved to one, this is the one that the encoder had.
            odd = (larger[0] - 2 * smaller[0] + 1, larger[1] - 2 * smaller[1] + 1)
            up = nn.ConvTranspose2d(
                widths[stage + 1],
                widths[stage],
                kernel_size,
                stride=2,
                padding=kernel_size // 2,
                output_padding=odd,
                bias=stage > 0,
            )
            layers += _blocks(widths[stage + 1], num_blocks, len(channels), kernel_size, activation)
            layers += [nonlinearity(activation), _started(up)]
        self.stages = nn.Sequential(*layers)
        self.bias = nn.Parameter(likelihood.bias.clone())

    def forward(self, z: Float[Tensor, "*lead D"]) -> Float[Tensor, "*outputs"]:
        """Return `[*lead, *data, num_outputs]`."""
        first = self.first(self.perceptron(z.reshape(-1, z.shape[-1])))
        images: Tensor = self.stages(first.unflatten(-1, self.start))
        by_pixel = images.unflatten(1, self.outputs).movedim(2, -1)  # [n, C, H, W, num_outputs]
        outputs: Tensor = by_pixel.reshape(*z.shape[:-1], *self.bias.shape) + self.bias
        return outputs


class ResidualBlock(nn.Module):
    r"""Adds to an image what two convolutions make of it, the nonlinearity before each.

    .. math:: x + W_2 f(W_1 f(x))

    The pre-activation block of He et al., 2016, "Identity mappings in deep residual networks", without its batch
    normalisation; the second convolution begins small instead, by one over the root of the number of blocks.

    Args:
        channels: Channels of the image.
        depth: Blocks of the whole network.
        kernel_size: Side of the convolutions, odd.
        activation: Nonlinearity.
    """

    def __init__(self, channels: int, depth: int, kernel_size: int, activation: Activation) -> None:
        super().__init__()
        first, second = (
            _started(nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2)) for _ in range(2)
        )
        with torch.no_grad():
            second.weight.mul_(1 / math.sqrt(depth))
        self.change = nn.Sequential(nonlinearity(activation), first, nonlinearity(activation), second)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return the changed image."""
        changed: Tensor = x + self.change(x)
        return changed


def _sizes(image: tuple[int, int, int], channels: Sequence[int]) -> list[tuple[int, int]]:
    """Return height and width before the first stage, and after each."""
    sizes = [image[1:]]
    for _ in channels:
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes


def _blocks(
    channels: int, num_blocks: int, num_stages: int, kernel_size: int, activation: Activation
) -> list[nn.Module]:
    depth = num_blocks * num_stages
    return [ResidualBlock(channels, depth, kernel_size, activation) for _ in range(num_blocks)]


def _started(layer: "nn.Conv2d | nn.ConvTranspose2d") -> "nn.Conv2d | nn.ConvTranspose2d":
    """Return a convolution with Glorot-uniform weights and no bias to begin with."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer

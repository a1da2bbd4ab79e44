"""Convolutional encoders and decoders for images of any size, with or without residual blocks."""

import dataclasses
import itertools
import math
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from elbo_bench.models.likelihoods.base import LikelihoodModule
from elbo_bench.models.networks.mlp_layers import Activation, linear, nonlinearity, perceptron

Channels = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
"""Number of channels of each stage. There is at least one stage."""
_SMALLEST = 8
"""Smallest height and width of an image."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageLayers:
    """The layers of a convolutional encoder. The decoder mirrors them.

    Attributes:
        channels: Number of channels after each stage.
        num_blocks: Number of residual blocks in each stage.
        hidden: Widths of the perceptron's layers after the last stage.
        kernel_size: Side of the convolutions, odd.
        activation: Nonlinearity.
    """

    channels: tuple[int, ...]
    num_blocks: int = 0
    hidden: tuple[int, ...]
    kernel_size: int = 3
    activation: Activation

    def sizes(self, image: tuple[int, int, int]) -> list[tuple[int, int]]:
        """Return height and width before the first stage and after each stage."""
        sizes = [image[1:]]
        for _ in self.channels:
            height, width = sizes[-1]
            sizes.append(((height + 1) // 2, (width + 1) // 2))
        return sizes

    def blocks(self, channels: int) -> list[nn.Module]:
        """Return the residual blocks of one stage."""
        return [ResidualBlock(channels, self) for _ in range(self.num_blocks)]


def image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return channels, height and width of data `[H, W]` or `[C, H, W]`.

    Raises:
        ValueError: The data are not images of at least 8 x 8 pixels.
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

    Each stage halves the image, rounding up, by a convolution of stride two. Residual blocks may follow. A perceptron
    comes last. There is no batch normalisation: the bound of one example would depend on the other examples.
    """

    def __init__(self, image: tuple[int, int, int], layers: ImageLayers) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        size = layers.kernel_size
        for before, after in itertools.pairwise([image[0], *layers.channels]):
            stages.append(_initialised(nn.Conv2d(before, after, size, stride=2, padding=size // 2)))
            stages += [*layers.blocks(after), nonlinearity(layers.activation)]
        self.stages = nn.Sequential(*stages)
        num_inputs = layers.channels[-1] * math.prod(layers.sizes(image)[-1])
        self.perceptron, self.num_features = perceptron(num_inputs, layers.hidden, layers.activation)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F"]:
        """Return the features."""
        features: Tensor = self.perceptron(self.stages(x).flatten(1))
        return features


class ImageDecoder(nn.Module):
    """Maps latents `[*lead, D]` to the parameters of a likelihood of images, `[*lead, *data, num_outputs]`.

    The decoder mirrors `ImageFeatures`, with transposed convolutions. The last bias is separate for each pixel. It
    starts at the bias of the likelihood.
    """

    def __init__(self, latent_dim: int, layers: ImageLayers, likelihood: LikelihoodModule) -> None:
        super().__init__()
        image = image_shape(likelihood.bias.shape[:-1])
        self.outputs = (image[0], likelihood.num_outputs)
        sizes, size = layers.sizes(image), layers.kernel_size
        widths = [math.prod(self.outputs), *layers.channels]
        self.start = (widths[-1], *sizes[-1])
        self.perceptron, width = perceptron(latent_dim, tuple(reversed(layers.hidden)), layers.activation)
        self.first = linear(width, math.prod(self.start))
        stages: list[nn.Module] = []
        for stage in reversed(range(len(layers.channels))):
            larger, smaller = sizes[stage], sizes[stage + 1]
            # Two sizes have the same half, rounded up. The padding selects the one that the encoder had.
            padding = (larger[0] - 2 * smaller[0] + 1, larger[1] - 2 * smaller[1] + 1)
            up = nn.ConvTranspose2d(
                widths[stage + 1],
                widths[stage],
                size,
                stride=2,
                padding=size // 2,
                output_padding=padding,
                bias=stage > 0,
            )
            stages += [*layers.blocks(widths[stage + 1]), nonlinearity(layers.activation), _initialised(up)]
        self.stages = nn.Sequential(*stages)
        self.bias = nn.Parameter(likelihood.bias.clone())

    def forward(self, z: Float[Tensor, "*lead D"]) -> Float[Tensor, "*outputs"]:
        """Return `[*lead, *data, num_outputs]`."""
        first = self.first(self.perceptron(z.reshape(-1, z.shape[-1])))
        images: Tensor = self.stages(first.unflatten(-1, self.start))
        by_pixel = images.unflatten(1, self.outputs).movedim(2, -1)  # [n, C, H, W, num_outputs]
        outputs: Tensor = by_pixel.reshape(*z.shape[:-1], *self.bias.shape) + self.bias
        return outputs


class ResidualBlock(nn.Module):
    r"""Adds the output of two convolutions to an image, each after a nonlinearity.

    .. math:: x + W_2 f(W_1 f(x))

    This is the pre-activation block of He et al., 2016, "Identity mappings in deep residual networks", without batch
    normalisation. Instead the initial weights of the second convolution are divided by the square root of the number
    of blocks of the network.
    """

    def __init__(self, channels: int, layers: ImageLayers) -> None:
        super().__init__()
        size, activation = layers.kernel_size, layers.activation
        first, second = (_initialised(nn.Conv2d(channels, channels, size, padding=size // 2)) for _ in range(2))
        with torch.no_grad():
            second.weight.mul_(1 / math.sqrt(layers.num_blocks * len(layers.channels)))
        self.change = nn.Sequential(nonlinearity(activation), first, nonlinearity(activation), second)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return the changed image."""
        changed: Tensor = x + self.change(x)
        return changed


def _initialised(layer: "nn.Conv2d | nn.ConvTranspose2d") -> "nn.Conv2d | nn.ConvTranspose2d":
    """Return a convolution with Glorot-uniform weights and zero biases."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer

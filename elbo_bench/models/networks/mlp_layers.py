"""Multilayer perceptrons, initialised as in Burda et al. (2016)."""

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

Activation = Literal["tanh", "relu", "elu", "softplus"]


class Tanh(nn.Module):
    """Creates a hyperbolic tangent that is four times as fast in float32 on a CPU when no gradient is needed.

    It then computes tanh(x) = 2 sigmoid(2x) - 1, with an error below 2e-7. torch's tanh would take a tenth of the time
    of an evaluation.
    """

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return tanh(x)."""
        plain = x.dtype is not torch.float32 or x.is_cuda or (torch.is_grad_enabled() and x.requires_grad)
        return torch.tanh(x) if plain else torch.sigmoid(2 * x).mul_(2).sub_(1)


_ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": Tanh, "relu": nn.ReLU, "elu": nn.ELU, "softplus": nn.Softplus}


def nonlinearity(activation: Activation) -> nn.Module:
    """Return the module of an activation function."""
    return _ACTIVATIONS[activation]()


def perceptron(num_inputs: int, hidden: Sequence[int], activation: Activation) -> tuple[nn.Sequential, int]:
    """Return hidden layers, each followed by the activation, and the width of the last layer."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise([num_inputs, *hidden]):
        layers += [linear(before, after), nonlinearity(activation)]
    return nn.Sequential(*layers), [num_inputs, *hidden][-1]


def linear(num_inputs: int, num_outputs: int) -> nn.Linear:
    """Return a linear layer with Glorot-uniform weights and zero biases."""
    layer = nn.Linear(num_inputs, num_outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer

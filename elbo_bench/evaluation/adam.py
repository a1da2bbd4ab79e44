"""Adam's moments, for gradient ascent with a step size of the caller's own."""

import torch
from torch import Tensor

_BETAS = (0.9, 0.99)
_TINY = 1e-8


class Moments:
    """Adam's bias-corrected moments of a gradient (Kingma & Ba, 2015, algorithm 1).

    Args:
        like: A tensor of the shape and dtype of the parameters.
    """

    def __init__(self, like: Tensor) -> None:
        self._first, self._second, self._count = torch.zeros_like(like), torch.zeros_like(like), 0

    def moments(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean of the gradients so far and their root mean square: the direction is their ratio."""
        self._count += 1
        first, second = _BETAS
        self._first = first * self._first + (1 - first) * gradient
        self._second = second * self._second + (1 - second) * gradient.square()
        mean = self._first / (1 - first**self._count)
        return mean, (self._second / (1 - second**self._count)).sqrt() + _TINY

"""Bisection."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def solve_increasing(
    function: Callable[[Tensor], Tensor], target: Float[Tensor, "*shape"], low: float, high: float
) -> Float[Tensor, "*shape"]:
    """Return the arguments between `low` and `high` at which an increasing function has the values `target`."""
    below, above = torch.full_like(target, low), torch.full_like(target, high)
    for _ in range(_HALVINGS):
        middle = (below + above) / 2
        too_low = function(middle) < target
        below, above = torch.where(too_low, middle, below), torch.where(too_low, above, middle)
    return (below + above) / 2


_HALVINGS = 64
"""After so many halvings the interval is below the precision of float64."""

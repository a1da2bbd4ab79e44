"""All values of a small discrete latent."""

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

MOST_STATES = 2**17
"""Largest number of values of a discrete latent that a sum runs over."""


def num_states(prior: Distribution) -> int | None:
    """Return the number of values of a latent, or None if the latent is not discrete and finite."""
    base, size = _base(prior)
    if not base.has_enumerate_support:
        return None
    return int(base.enumerate_support(expand=False).shape[0] ** size)


def states(prior: Distribution) -> Tensor:
    """Return all values of a discrete latent, `[S, *event]`."""
    base, size = _base(prior)
    if base is prior:
        return base.enumerate_support()
    values = base.enumerate_support()  # [S, size, *event]
    choice = torch.cartesian_prod(*[torch.arange(len(values), device=values.device)] * size).reshape(-1, size)
    return values[choice, torch.arange(size, device=values.device)]


def _base(prior: Distribution) -> tuple[Distribution, int]:
    """Return the distribution of one variable of a latent, and the number of independent variables."""
    if (
        isinstance(prior, Independent)
        and prior.reinterpreted_batch_ndims == 1
        and len(prior.base_dist.batch_shape) == 1
    ):
        return prior.base_dist, int(prior.base_dist.batch_shape[0])
    return prior, 1

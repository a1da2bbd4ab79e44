"""Every value of a discrete latent, where there are few enough to be summed over."""

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

MOST_STATES = 2**17
"""Largest number of values of a discrete latent that are summed over."""


def num_states(prior: Distribution) -> int | None:
    """Return how many values a discrete latent takes, or None if it is not discrete and finite."""
    base, sites = _base(prior)
    if not base.has_enumerate_support:
        return None
    return int(base.enumerate_support(expand=False).shape[0] ** sites)


def states(prior: Distribution) -> Tensor:
    """Return every value of a discrete latent, `[S, *event]`."""
    base, sites = _base(prior)
    if base is prior:
        return base.enumerate_support()
    values = base.enumerate_support()  # [S, sites, *event]
    choice = torch.cartesian_prod(*[torch.arange(len(values), device=values.device)] * sites).reshape(-1, sites)
    return values[choice, torch.arange(sites, device=values.device)]


def _base(prior: Distribution) -> tuple[Distribution, int]:
    """Return the distribution of one site of a latent, and the number of independent sites."""
    if (
        isinstance(prior, Independent)
        and prior.reinterpreted_batch_ndims == 1
        and len(prior.base_dist.batch_shape) == 1
    ):
        return prior.base_dist, int(prior.base_dist.batch_shape[0])
    return prior, 1

"""The logistic distribution rounded to levels: probability, mean and samples of single values."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus


def log_level_mass(
    value: Float[Tensor, "*other"], loc: Float[Tensor, "*shape"], log_scale: Float[Tensor, "*shape"], num_levels: int
) -> Float[Tensor, "*lead"]:
    r"""Return the log-probability of the level that a logistic variable is rounded to, in nats.

    .. math:: \log[\sigma(a) - \sigma(b)] = \log\sigma(a) + \log\sigma(-b) + \log(1 - e^{-1/s}), \quad
        a, b = (v \pm \tfrac12 - \mu) / s

    The first level has all that lies below, sigma(a), and the last all that lies above, sigma(-b): they sum to one.

    So it is exact in the tails, where a difference of probabilities is lost.

    Args:
        value: The levels v, of 0 .. num_levels - 1.
        loc: The logistic's mean mu, in levels.
        log_scale: Logarithm of its scale s, in levels; beyond +-80 it is taken for that, which a float32 can hold.
        num_levels: Number of levels.
    """
    first, last = value == 0, value == num_levels - 1
    precision = (-_within_reach(log_scale)).exp()
    # Beyond the default threshold of 20 torch leaves out exp(-a), which float64 sees.
    above_the_upper_edge = softplus((loc - (value + 0.5)) * precision, threshold=40)
    below_the_lower_edge = softplus(((value - 0.5) - loc) * precision, threshold=40)
    log_width = (-torch.expm1(-precision)).log()
    return (
        torch.where(first | last, 0.0, log_width)
        - torch.where(last, 0.0, above_the_upper_edge)
        - torch.where(first, 0.0, below_the_lower_edge)
    )


def level_mean(
    loc: Float[Tensor, "*shape"], log_scale: Float[Tensor, "*shape"], num_levels: int
) -> Float[Tensor, "*shape"]:
    """Return the mean level, sum_v P(V >= v): the ends take the tails, so that it is not `loc`."""
    precision = (-_within_reach(log_scale)).exp()
    total = torch.zeros_like(loc)
    for level in range(1, num_levels):  # one at a time: all of them would be as many arrays
        total = total + torch.sigmoid((loc - level + 0.5) * precision)
    return total


def round_logistic(
    uniform: Float[Tensor, "*sample"], loc: Float[Tensor, "*shape"], log_scale: Float[Tensor, "*shape"], num_levels: int
) -> Float[Tensor, "*sample"]:
    """Return levels made from uniform noise in [0, 1)."""
    return (loc + _within_reach(log_scale).exp() * torch.logit(uniform)).round().clamp(0, num_levels - 1)


def _within_reach(log_scale: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return log_scale.clamp(-80, 80)

"""The logistic distribution, rounded to levels: probability, mean and samples of single values."""

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

    The first level has the probability sigma(a), with all that is below. The last level has sigma(-b). The
    probabilities sum to one. The form is exact in the tails, where a difference of sigmoids would round to zero.

    Args:
        value: The levels v, of 0 .. num_levels - 1.
        loc: The logistic's mean mu, in levels.
        log_scale: Logarithm of its scale s, in levels. It is clamped to [-80, 80], for float32.
        num_levels: Number of levels.
    """
    first, last = value == 0, value == num_levels - 1
    precision = (-_within_reach(log_scale)).exp()
    # Above its default threshold of 20, torch drops exp(-a), which float64 can represent.
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
    """Return the mean level, sum_v P(V >= v). It differs from `loc`, as the first and last level include the tails."""
    precision = (-_within_reach(log_scale)).exp()
    total = torch.zeros_like(loc)
    for level in range(1, num_levels):  # a loop needs less memory
        total = total + torch.sigmoid((loc - level + 0.5) * precision)
    return total


def round_logistic(
    uniform: Float[Tensor, "*sample"], loc: Float[Tensor, "*shape"], log_scale: Float[Tensor, "*shape"], num_levels: int
) -> Float[Tensor, "*sample"]:
    """Return levels for uniform noise in [0, 1)."""
    return (loc + _within_reach(log_scale).exp() * torch.logit(uniform)).round().clamp(0, num_levels - 1)


def _within_reach(log_scale: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return log_scale.clamp(-80, 80)

"""Pareto k-hat: how heavy the tail of the importance weights is, and so whether their mean can be trusted."""

import math

import numpy as np
from jaxtyping import Float


def tail_size(num_samples: int) -> int:
    """Return how many of K weights are the tail, min(K/5, 3 sqrt K) (Vehtari et al., 2024)."""
    return math.ceil(min(0.2 * num_samples, 3 * math.sqrt(num_samples)))


def pareto_k(largest: Float[np.ndarray, "M1 B"]) -> Float[np.ndarray, " B"]:
    """Return the shape of a generalised Pareto distribution fitted to each example's largest weights.

    Below 0.7 the mean of the weights can be trusted for the usual K. From 0.5 on the weights have no finite variance,
    from 1 on no finite mean (Vehtari, Simpson, Gelman, Yao & Gabry, 2024, "Pareto smoothed importance sampling").

    Args:
        largest: The cut-off, then the M largest log-weights, ascending along the first axis (M1 = M + 1).

    Returns:
        k-hat, NaN where it does not exist: fewer than 5 weights in the tail, or a tail without spread.
    """
    if len(largest) < 6:
        return np.full(largest.shape[1], np.nan)
    with np.errstate(all="ignore"):
        scaled = np.exp(largest - largest[-1])
        return _fit((scaled[1:] - scaled[0]).T)


def _fit(x: Float[np.ndarray, "B M"]) -> Float[np.ndarray, " B"]:
    """Return the shape that Zhang & Stephens (2009, "A new and efficient estimation method...") estimate.

    Each row of `x` is sorted, ascending. The prior of Vehtari et al. (2024, appendix G) pulls short tails to 1/2.
    """
    num_tail = x.shape[1]
    num_grid = 30 + int(math.sqrt(num_tail))
    quartile = x[:, int(num_tail / 4 + 0.5) - 1, None]
    steps = np.arange(1, num_grid + 1)
    grid = (1 - np.sqrt(num_grid / (steps - 0.5))) / (3 * quartile) + 1 / x[:, -1:]
    k = np.log1p(-grid[:, :, None] * x[:, None, :]).mean(2)
    log_likelihood = num_tail * (np.log(-grid / k) - k - 1)
    weights = np.exp(log_likelihood - log_likelihood.max(1, keepdims=True))
    grid_mean = (grid * weights).sum(1) / weights.sum(1)
    shape = np.log1p(-grid_mean[:, None] * x).mean(1)
    shape = (num_tail * shape + 10 * 0.5) / (num_tail + 10)
    spread = np.isfinite(x).all(1) & (x[:, -1] > 0) & (quartile[:, 0] > 0)
    return np.where(spread & np.isfinite(shape), shape, np.nan)

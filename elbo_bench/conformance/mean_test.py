"""Tests of a mean: what may be concluded from independent replications, and how small an error they can see."""

import math

import torch
from torch import Tensor

from elbo_bench.conformance.law import LawBroken

FALSE_FAIL = 1e-9
"""Over seeds, the probability that a test fails a component which keeps the law; seeds are fixed."""

_SURE = 3.1
"""Standard errors by which an error must exceed the threshold to be found with probability 0.999."""


def _threshold(count: int) -> float:
    """Return the standard errors that a mean is allowed, two-sided, over `count` coordinates together.

    The tail is taken ten times thinner than asked: means of some thousand skewed values are not quite normal there.
    """
    tail = torch.tensor(FALSE_FAIL / 10 / 2 / count, dtype=torch.float64)
    return -float(torch.special.ndtri(tail))


def require_mean_at_most(samples: Tensor, limit: float, what: str, rounding: float = 1e-9) -> float:
    """Return the smallest excess over `limit` that a mean over the first axis shows with probability 0.999.

    Raises:
        LawBroken: The mean lies above it.
    """
    mean, error, smallest = _moments(samples, rounding)
    if not bool((mean - limit <= _threshold(mean.numel()) * error + rounding).all()):
        raise LawBroken(f"{what} by {float((mean - limit).max()):.4g} +- {float(error.max()):.1g}")
    return smallest


def require_mean(samples: Tensor, expected: Tensor | float, what: str, rounding: float = 1e-9) -> float:
    """Return the smallest error of a mean over the first axis that is found with probability 0.999.

    Raises:
        LawBroken: The mean is another one, in some coordinate.
    """
    mean, error, smallest = _moments(samples, rounding)
    away = (mean - expected).abs()
    # A NaN is no number that is close enough.
    excess = torch.where(away <= _threshold(mean.numel()) * error + rounding, 0.0, away / (error + rounding))
    if bool((excess != 0).any()):
        at = int(excess.nan_to_num(math.inf).flatten().argmax())
        figures = f"{(mean - expected).flatten()[at]:.4g} +- {error.flatten()[at]:.1g}"
        raise LawBroken(f"{what}: off by {figures}")
    return smallest


def _moments(samples: Tensor, rounding: float) -> tuple[Tensor, Tensor, float]:
    samples = samples.detach().double()
    mean = samples.mean(0)
    error = samples.std(0) / math.sqrt(len(samples))
    return mean, error, float(((_threshold(mean.numel()) + _SURE) * error).max()) + rounding


def features(values: Tensor) -> Tensor:
    """Return functions of standardised values `[S, D]` by whose means two distributions are told apart, `[S, F]`."""
    pair = values[:, :1] * values[:, -1:]
    return torch.cat([values, values.square(), pair, torch.sin(2 * values), torch.cos(2 * values)], 1)

"""Statistical tests of a mean of independent values, and the smallest error that they detect."""

import math

import torch
from torch import Tensor

from elbo_bench.conformance.law import LawBroken

FALSE_FAIL = 1e-9
"""Probability, over seeds, that a test fails for a correct component. The seeds are fixed."""

_SURE = 3.1
"""An error this many standard errors above the threshold is detected with probability 0.999."""


def _threshold(count: int) -> float:
    """Return the largest accepted deviation in standard errors, two-sided, for `count` coordinates together.

    The tail probability is divided by ten, as the mean of some thousand skewed values is not exactly normal there.
    """
    tail = torch.tensor(FALSE_FAIL / 10 / 2 / count, dtype=torch.float64)
    return -float(torch.special.ndtri(tail))


def require_mean_at_most(samples: Tensor, limit: float, what: str, rounding: float = 1e-9) -> float:
    """Require that a mean over the first axis is at most `limit`; return the smallest excess that is detected.

    Raises:
        LawBroken: The mean is above the limit.
    """
    mean, error, smallest = _moments(samples, rounding)
    if not bool((mean - limit <= _threshold(mean.numel()) * error + rounding).all()):
        raise LawBroken(f"{what} by {float((mean - limit).max()):.4g} +- {float(error.max()):.1g}")
    return smallest


def require_mean(samples: Tensor, expected: Tensor | float, what: str, rounding: float = 1e-9) -> float:
    """Require that a mean over the first axis is `expected`; return the smallest error that is detected.

    Raises:
        LawBroken: The mean differs in some coordinate.
    """
    mean, error, smallest = _moments(samples, rounding)
    away = (mean - expected).abs()
    # The comparison is false for NaN, so NaN counts as an error.
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


def require_samples(samples: Tensor, points: Tensor, weights: Tensor, what: str, *, rounding: float = 1e-3) -> float:
    """Require that samples `[S, *event]` have the distribution with these weights `[G]` at points `[G, *event]`.

    Returns:
        The smallest error in the mean of a feature that is detected, in standard deviations.

    Raises:
        LawBroken: The mean of a feature differs.
    """
    samples, points = samples.double().flatten(1), points.double().flatten(1)
    centre, scale = samples.mean(0), samples.std(0) + 1e-12
    expected = weights @ _features((points - centre) / scale) / weights.sum()
    return require_mean(_features((samples - centre) / scale), expected, what, rounding)


def _features(values: Tensor) -> Tensor:
    """Return functions of standardised values `[S, D]`, `[S, F]`. Their means distinguish two distributions."""
    pair = values[:, :1] * values[:, -1:]
    return torch.cat([values, values.square(), pair, torch.sin(2 * values), torch.cos(2 * values)], 1)

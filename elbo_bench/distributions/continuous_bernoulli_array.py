"""The distribution of an array of independent continuous Bernoulli values."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions.constraints import Constraint, independent, unit_interval

from elbo_bench.distributions.value_array import ValueArray


class ContinuousBernoulliArray(ValueArray):
    r"""Creates the distribution of an array of independent continuous Bernoulli values. The array is one event.

    .. math:: p(x) = \frac{l}{e^l - 1} e^{l x}, \quad 0 \le x \le 1

    At l = 0 the density is uniform and the constant is 0/0. Near l = 0 a series replaces it, with an error below the
    rounding of float64. (torch's distribution switches to its series with an error that is visible in float32.)

    Source: Loaiza-Ganem & Cunningham, 2019, "The continuous Bernoulli: fixing a pervasive error in variational
    autoencoders".

    Args:
        logits: Natural parameter l of each value, `[*batch, *event]`. Its sigmoid is the paper's lambda.
        event_dims: Number of axes of the event.
    """

    def __init__(self, logits: Float[Tensor, "*shape"], event_dims: int) -> None:
        self.logits = logits
        super().__init__(logits.shape, logits.dtype, event_dims)

    @property
    def support(self) -> Constraint:
        """Arrays of numbers in [0, 1]."""
        return independent(unit_interval, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """Mean of each value."""
        return continuous_bernoulli_mean(self.logits)

    def log_prob_of_each(self, value: Float[Tensor, "*other"]) -> Float[Tensor, "*lead"]:
        """Return the log-density of each value in nats."""
        log_p: Tensor = _LogDensity.apply(self.logits, value)
        return log_p

    def impossible(self, value: Float[Tensor, "*other"]) -> Bool[Tensor, "*other"]:
        """Return where a value is not in [0, 1]."""
        return (value < 0) | (value > 1)

    def draw(self, shape: torch.Size) -> Tensor:
        """Return samples of `shape`, by inversion of the distribution function."""
        uniform = torch.rand(shape, dtype=self.dtype, device=self.logits.device)
        rate = self.logits.abs().clamp_min(1e-20)  # avoids 0/0 at 0; the distribution is the same
        from_likelier_end = (-torch.log1p(uniform * torch.expm1(-rate)) / rate).clamp(0, 1)
        return torch.where(self.logits > 0, 1 - from_likelier_end, from_likelier_end)


class _LogDensity(torch.autograd.Function):
    """The log-density with its gradient, value minus mean. Intermediate results are not stored."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(logits, value)
        # l (x - c) - log[(e^l - 1) / l e^(-c l)], with c = 1/2 near l = 0 and otherwise the likelier end of [0, 1].
        # This avoids differences of large numbers.
        near = logits.abs() < _NEAR
        far = logits.abs().clamp_min(_NEAR)
        centre = torch.where(near, 0.5, (logits > 0).to(logits.dtype))
        log_constant = torch.where(near, _series(logits), (-torch.expm1(-far)).log() - far.log())
        return logits * (value - centre) - log_constant

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        logits, value = ctx.saved_tensors
        # torch sums the gradient over the axes along which the input was broadcast.
        return gradients[0] * (value - continuous_bernoulli_mean(logits)), gradients[0] * logits


def continuous_bernoulli_mean(logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the mean of a continuous Bernoulli value, 1 / (1 - e^-l) - 1/l. It increases from 0 to 1."""
    far = logits.abs().clamp_min(_NEAR)
    from_likelier_end = 1 / far - 1 / torch.expm1(far)
    mean_far = torch.where(logits > 0, 1 - from_likelier_end, from_likelier_end)
    return torch.where(logits.abs() < _NEAR, 0.5 + _series_slope(logits), mean_far)


_NEAR = 0.5
"""Largest |l| for which the series is used. Its truncation error is 6e-17 there."""

_COEFFICIENTS = tuple(
    float(numerator / (denominator * 2 * n * math.factorial(2 * n)))
    for n, (numerator, denominator) in enumerate([(1, 6), (-1, 30), (1, 42), (-1, 30), (5, 66), (-691, 2730)], 1)
)
"""Coefficients of log[sinh(l/2) / (l/2)] = sum_n B_2n / (2n (2n)!) l^2n, with the Bernoulli numbers B_2n."""


def _series(logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return log[sinh(l/2) / (l/2)] for small l. Larger l are clamped, so that their powers do not overflow."""
    square = logits.clamp(-_NEAR, _NEAR).square()
    total = torch.full_like(square, _COEFFICIENTS[-1])
    for coefficient in reversed(_COEFFICIENTS[:-1]):
        total = total * square + coefficient
    return total * square


def _series_slope(logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the derivative of the series."""
    small = logits.clamp(-_NEAR, _NEAR)
    square, total = small.square(), torch.zeros_like(logits)
    for n in range(len(_COEFFICIENTS), 0, -1):
        total = total * square + 2 * n * _COEFFICIENTS[n - 1]
    return total * small

"""The distribution of an array of independent normal values."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions.constraints import Constraint, independent, real

from elbo_bench.distributions.diagonal_normal import LOG_2_PI
from elbo_bench.distributions.value_array import ValueArray


class NormalArray(ValueArray):
    r"""Creates the distribution of an array of independent normal values. The array is one event.

    .. math:: \log p(x) = -\tfrac12 \sum_d \left[(x_d - \mu_d)^2 / \sigma_d^2 + \log \sigma_d^2 + \log 2\pi\right]

    Args:
        loc: Mean of each value, `[*batch, *event]`.
        log_scale: Logarithm of the standard deviation of each value. It broadcasts to `loc`.
        event_dims: Number of axes of the event.
    """

    def __init__(self, loc: Float[Tensor, "*shape"], log_scale: Float[Tensor, "*other"], event_dims: int) -> None:
        self.loc, self.log_scale = loc, log_scale
        super().__init__(loc.shape, loc.dtype, event_dims)

    @property
    def support(self) -> Constraint:
        """Arrays of real numbers."""
        return independent(real, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """Mean of each value."""
        return self.loc

    def log_prob_of_each(self, value: Float[Tensor, "*other"]) -> Float[Tensor, "*lead"]:
        """Return the log-density of each value in nats."""
        log_p: Tensor = -0.5 * ((value - self.loc) * (-self.log_scale).exp()).square() - (
            self.log_scale + 0.5 * LOG_2_PI
        )
        return log_p

    def impossible(self, value: Float[Tensor, "*other"]) -> Bool[Tensor, "*other"]:
        """Return where a value is infinite."""
        return value.isinf()

    def draw(self, shape: torch.Size) -> Tensor:
        """Return samples of `shape`."""
        noise = torch.randn(shape, dtype=self.dtype, device=self.loc.device)
        return self.loc + self.log_scale.exp() * noise

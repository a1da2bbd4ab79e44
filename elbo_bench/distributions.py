"""Posteriors, priors and likelihoods as `torch.distributions`, with what torch lacks.

Posteriors here expose `transport(noise) -> z`, which turns standard normal noise into samples, so that noise can be
drawn outside and passed in. Arguments are not validated: a number that is not finite must reach the loss, where it
stops the run with its step and its example named, and not be swallowed or raised from the depths.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, register_kl
from torch.distributions.constraints import Constraint, boolean, independent

from elbo_bench.numerics import log_sigmoid_sum, negative_softplus_sum


class DiagonalNormal(Independent):  # type: ignore[type-arg]
    """Creates a normal distribution with independent dimensions.

    Args:
        loc: Mean, `[*batch, D]`.
        scale: Standard deviation, `[*batch, D]`.
    """

    def __init__(self, loc: Float[Tensor, "*batch D"], scale: Float[Tensor, "*batch D"]) -> None:
        super().__init__(Normal(loc, scale, validate_args=False), 1, validate_args=False)

    def expand(self, batch_shape: torch.Size | list[int], _instance: object = None) -> "DiagonalNormal":  # type: ignore[override]
        """Return the same distribution for every element of a larger batch."""
        shape = (*batch_shape, *self.event_shape)
        return DiagonalNormal(self.base_dist.loc.expand(shape), self.base_dist.scale.expand(shape))

    def transport(self, noise: Float[Tensor, "*sample D"]) -> Float[Tensor, "*sample D"]:
        """Return `loc + scale * noise`."""
        z: Tensor = self.base_dist.loc + self.base_dist.scale * noise
        return z

    def log_prob(self, value: Float[Tensor, "*sample D"]) -> Float[Tensor, "*sample"]:
        """Return log N(value; loc, scale^2) in nats; what does not depend on `value` is computed once a batch."""
        loc, scale = self.base_dist.loc, self.base_dist.scale
        constant = scale.log().sum(-1) + 0.5 * LOG_2_PI * loc.shape[-1]
        log_p: Tensor = -0.5 * ((value - loc) / scale).square().sum(-1) - constant
        return log_p


class FullNormal(MultivariateNormal):
    """Creates a normal distribution with a full covariance, from its Cholesky factor.

    Args:
        loc: Mean, `[*batch, D]`.
        scale_tril: Lower triangular factor with a positive diagonal, `[*batch, D, D]`.
    """

    def __init__(self, loc: Float[Tensor, "*batch D"], scale_tril: Float[Tensor, "*batch2 D D"]) -> None:
        super().__init__(loc, scale_tril=scale_tril, validate_args=False)

    def expand(self, batch_shape: torch.Size | list[int], _instance: object = None) -> "FullNormal":  # type: ignore[override]
        """Return the same distribution for every element of a larger batch."""
        event = self.event_shape
        return FullNormal(self.loc.expand(*batch_shape, *event), self.scale_tril.expand(*batch_shape, *event, *event))

    def transport(self, noise: Float[Tensor, "*sample D"]) -> Float[Tensor, "*sample D"]:
        """Return `loc + scale_tril @ noise`."""
        return self.loc + (self.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)


class BernoulliArray(Distribution):
    """Creates an array of independent binary values, all of it one event.

    `log_prob` costs one sigmoid or softplus for each logit; a probability that rounds to 0 or 1 does no harm.

    Args:
        logits: Log-odds of each value being 1, `[*batch, *event]`.
        event_dims: How many of the last axes are the event.
    """

    arg_constraints: dict[str, Constraint] = {}  # noqa: RUF012 - torch reads it from the class

    def __init__(self, logits: Tensor, event_dims: int) -> None:
        if event_dims < 1:
            raise ValueError(f"an array has at least one dimension, not {event_dims}")
        self.logits = logits
        split = logits.dim() - event_dims
        super().__init__(logits.shape[:split], logits.shape[split:], validate_args=False)

    @property
    def support(self) -> Constraint:
        """Arrays of zeros and ones."""
        return independent(boolean, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """Probability of each value being 1."""
        return torch.sigmoid(self.logits)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(value) in nats; `value` must hold only zeros and ones."""
        event_dims = len(self.event_shape)
        sign = 2 * value.flatten(-event_dims).to(self.logits.dtype) - 1
        return log_sigmoid_sum(self.logits.flatten(-event_dims), sign)

    def cross_log_prob(self, value: Float[Tensor, "N *event"]) -> Float[Tensor, "S N"]:
        """Return log p(value) in nats of each of N values under each of S arrays of logits: one matrix product."""
        logits = self.logits.flatten(-len(self.event_shape))
        return logits @ value.flatten(1).mT + negative_softplus_sum(logits)[:, None]

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Return arrays of zeros and ones, by torch's global generator."""
        with torch.no_grad():
            return torch.bernoulli(self.mean.expand(torch.Size(sample_shape) + self.logits.shape))


@register_kl(MultivariateNormal, Independent)
def _kl_full_diagonal(q: MultivariateNormal, p: Independent) -> Tensor:  # type: ignore[type-arg]
    r"""Return KL(q ‖ p) of a full-covariance normal from one with independent dimensions, in nats."""
    if not isinstance(p.base_dist, Normal) or p.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    variance = p.base_dist.scale.square()
    trace = q.scale_tril.square().sum(-1) / variance
    distance = (q.loc - p.base_dist.loc).square() / variance
    log_det = 2 * p.base_dist.scale.log().sum(-1) - 2 * q.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return 0.5 * ((trace + distance - 1).sum(-1) + log_det)


def standard_normal(num_dims: int, like: Tensor) -> DiagonalNormal:
    """Return N(0, I) of `num_dims` dimensions, with the dtype and device of `like`."""
    return DiagonalNormal(like.new_zeros(num_dims), like.new_ones(num_dims))


LOG_2_PI = math.log(2 * math.pi)

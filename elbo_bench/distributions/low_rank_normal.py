"""The normal distribution with a diagonal plus low-rank covariance."""

import functools

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent, LowRankMultivariateNormal, register_kl

from elbo_bench.distributions.diagonal_normal import LOG_2_PI
from elbo_bench.distributions.normal_kl import kl_from_moments
from elbo_bench.distributions.transported_vector import TransportedVector


class LowRankNormal(TransportedVector):
    r"""Creates a normal distribution with covariance `diag(scale^2) + factor factor'`.

    .. math:: \Sigma = S (I + U U') S, \quad S = \mathrm{diag}(\text{scale}), \quad U = S^{-1} \text{factor}

    Let L L' = I + U'U, an R x R matrix. Then I + U (I + L)^-1 U' is a square root of I + U U': its product with its
    transpose is I + U B U' with B = (I + L)^-1 [(I + L') + (I + L) + (L L' - I)] (I + L')^-1 = I. A sample and its
    density therefore cost O(D R), and a sample needs D normal numbers.

    Args:
        loc: Mean, `[*batch, D]`.
        factor: The low-rank factor, `[*batch, D, R]`.
        scale: Square root of the diagonal part, `[*batch, D]`.
    """

    def __init__(
        self, loc: Float[Tensor, "*batch D"], factor: Float[Tensor, "*batch2 D R"], scale: Float[Tensor, "*batch3 D"]
    ) -> None:
        batch = torch.broadcast_shapes(loc.shape[:-1], factor.shape[:-2], scale.shape[:-1])
        self.loc, self.factor, self.scale = loc, factor, scale
        self._directions = factor / scale.unsqueeze(-1)
        identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        lower, failed = torch.linalg.cholesky_ex(identity + self._directions.mT @ self._directions)
        # The Cholesky factor of a matrix with NaN is undefined. Make it NaN.
        self._lower = torch.where((failed == 0)[..., None, None], lower, torch.nan)
        self._root = self._lower + identity
        super().__init__(batch, loc.shape[-1], like=loc)

    @property
    def mean(self) -> Tensor:
        """The mean, `[*batch, D]`."""
        return self.loc.expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """The variance of each dimension, `[*batch, D]`."""
        variance = self.scale.square() + self.factor.square().sum(-1)
        return variance.expand(self.batch_shape + self.event_shape)

    @property
    def covariance_matrix(self) -> Tensor:
        """The covariance, `[*batch, D, D]`."""
        covariance = self.factor @ self.factor.mT + self.scale.square().diag_embed()
        return covariance.expand(*self.batch_shape, *self.event_shape, *self.event_shape)

    @functools.cached_property
    def log_det(self) -> Tensor:
        """Log-determinant of the covariance, `[*batch]`."""
        half = self.scale.log().sum(-1) + self._lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return (2 * half).expand(self.batch_shape)

    def expand(self, batch_shape: torch.Size | list[int], _instance: object = None) -> "LowRankNormal":  # type: ignore[override]
        """Return the same distribution for every element of a larger batch."""
        shape = (*batch_shape, *self.event_shape)
        factor = self.factor.expand(*shape, self.factor.shape[-1])
        return LowRankNormal(self.loc.expand(shape), factor, self.scale.expand(shape))

    def transport(self, noise: Float[Tensor, "*sample D"]) -> Float[Tensor, "*sample D"]:
        """Return `loc + root @ noise`, where the root is `S (I + U (I + L)^-1 U')`."""
        inner = self._directions.mT @ noise.unsqueeze(-1)
        added = self._directions @ torch.linalg.solve_triangular(self._root, inner, upper=False)
        z: Tensor = self.loc + self.scale * (noise + added.squeeze(-1))
        return z

    def log_prob(self, value: Float[Tensor, "*sample D"]) -> Float[Tensor, "*grid"]:
        """Return log N(value; loc, covariance) in nats, by inverting `transport`."""
        # A sum of squares of the noise. Woodbury's identity has a difference, which loses digits in float32.
        scaled = (value - self.loc) / self.scale
        inner = torch.linalg.solve_triangular(self._lower, self._directions.mT @ scaled.unsqueeze(-1), upper=False)
        taken = self._directions @ torch.linalg.solve_triangular(self._root.mT, inner, upper=True)
        noise = scaled - taken.squeeze(-1)
        log_p: Tensor = -0.5 * (noise.square().sum(-1) + self.log_det + LOG_2_PI * value.shape[-1])
        return log_p

    def entropy(self) -> Tensor:
        """Return the entropy in nats, `[*batch]`."""
        return 0.5 * (self.log_det + (1 + LOG_2_PI) * self.event_shape[0])


@register_kl(LowRankNormal, Independent)
def _kl_low_rank_diagonal(q: LowRankNormal, p: Independent) -> Tensor:  # type: ignore[type-arg]
    """Return KL(q ‖ p) in nats, for q with a low-rank covariance and p with independent dimensions."""
    return kl_from_moments(q.mean, q.variance, q.log_det, p)


@register_kl(LowRankMultivariateNormal, Independent)
def _kl_torchs_low_rank_diagonal(q: LowRankMultivariateNormal, p: Independent) -> Tensor:  # type: ignore[type-arg]
    """Return KL(q ‖ p) in nats, for q of torch's low-rank family and p with independent dimensions."""
    capacitance = q._capacitance_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_det = 2 * capacitance + q._unbroadcasted_cov_diag.log().sum(-1)
    return kl_from_moments(q.mean, q.variance, log_det.expand(q.batch_shape), p)

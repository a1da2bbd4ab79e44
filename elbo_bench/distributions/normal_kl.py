"""The KL divergence of any normal distribution from a diagonal one. torch does not have it."""

from jaxtyping import Float
from torch import Tensor
from torch.distributions import Independent, Normal


def kl_from_moments(
    loc: Float[Tensor, "*batch D"],
    variance: Float[Tensor, "*batch D"],
    log_det: Float[Tensor, "*batch"],
    p: Independent,  # type: ignore[type-arg]
) -> Float[Tensor, "*any"]:
    r"""Return KL(q ‖ p) in nats.

    .. math:: \tfrac12 \Big[\sum_j \frac{v_j + (\mu_j - m_j)^2}{s_j^2} - D + \sum_j \log s_j^2 - \log|\Sigma|\Big]

    Args:
        loc: Mean of q.
        variance: Variance of each dimension of q, the diagonal of its covariance.
        log_det: Log-determinant of q's covariance.
        p: N(m, diag s^2).

    Raises:
        NotImplementedError: `p` is not a vector of independent normals.
    """
    if not isinstance(p.base_dist, Normal) or p.reinterpreted_batch_ndims != 1:
        raise NotImplementedError
    scale = p.base_dist.scale
    distance = (variance + (loc - p.base_dist.loc).square()) / scale.square()
    kl: Tensor = 0.5 * ((distance - 1).sum(-1) + 2 * scale.log().sum(-1) - log_det)
    return kl

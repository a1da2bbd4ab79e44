"""The beta-TCVAE objective: the ELBO with a weighted total correlation."""

import dataclasses
import math
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.distributions import Independent

from elbo_bench.draws import Draws, NoClosedFormError
from elbo_bench.objectives.base import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class BetaTC(Objective):
    r"""ELBO with its total correlation weighted by beta, in nats.

    .. math:: \log p(x|z) - I_q(x; z) - \beta \, \mathrm{TC}(z) - \sum_j \mathrm{KL}(q(z_j) \| p(z_j))

    For beta = 1 the last three terms sum to the rate, and the value is the Monte Carlo ELBO. For other values of beta
    it is no bound, because the estimated total correlation may have either sign.

    The aggregated posterior q(z) is the mean of q(z|x) over the N training examples. It is estimated from the B
    examples of the batch. `"weighted"` sums their densities and divides by N B, which is biased low. `"stratified"`
    gives an example's own density the weight 1/N, which is unbiased for q(z). The logarithm of either is biased.

    Source: Chen et al., 2018, "Isolating sources of disentanglement in variational autoencoders".

    Attributes:
        beta: Weight of the total correlation.
        estimator: Estimator of q(z) from a batch.
        num_train: Number of training examples, N. The program fills it in.
    """

    beta: NonNegativeFloat = 6.0
    estimator: Literal["weighted", "stratified"] = "weighted"
    num_train: PositiveInt

    direction = "none"
    scope = "batch"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the weighted sum for each example."""
        joint, by_dim = self._log_densities(draws)
        log_shares = self._log_shares(joint)
        log_q_z = torch.logsumexp(joint + log_shares, 2)
        log_q_z_each = torch.logsumexp(by_dim + log_shares[..., None], 2).sum(-1)
        total_correlation = log_q_z - log_q_z_each
        return (draws.log_w - (self.beta - 1) * total_correlation).mean(0)

    @staticmethod
    def _log_densities(draws: Draws) -> tuple[Float[Tensor, "K B B"], Float[Tensor, "K B B D"]]:
        """Return log q(z_i|x_j) for every sample i and example j, as a sum and for each dimension.

        Raises:
            NoClosedFormError: The dimensions of q(z|x) are not independent.
        """
        q = draws.posterior
        if not isinstance(q, Independent) or q.reinterpreted_batch_ndims != 1:
            raise NoClosedFormError(f"q(z_j) of {type(q).__name__}, whose dimensions are not independent given x")
        by_dim = q.base_dist.log_prob(draws.z[:, :, None])
        return by_dim.sum(-1), by_dim

    def _log_shares(self, like: Float[Tensor, "K B B"]) -> Float[Tensor, "B B"]:
        """Return the logarithm of the weight of example j in the estimate of q(z_i)."""
        size = like.shape[-1]
        if self.estimator == "weighted" or size == 1:
            return like.new_full((size, size), -math.log(self.num_train * size))
        others = size - 1
        shares = like.new_full((size, size), 1 / others)
        rows = torch.arange(size, device=like.device)
        shares[rows, (rows + 1) % size] = (self.num_train - others) / (self.num_train * others)
        shares[rows, rows] = 1 / self.num_train
        return shares.log()

"""The InfoVAE objective: the ELBO with a divergence between q(z) and p(z)."""

import dataclasses
import math
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from elbo_bench.draws import Draws, NoClosedFormError, NotReparameterisableError, RateForm, sample
from elbo_bench.objectives.base import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class InfoVAE(Objective):
    r"""InfoVAE with a maximum mean discrepancy (MMD), in nats.

    .. math:: \frac1K \sum_k \log p(x|z_k) - (1 - \alpha) \, \mathrm{KL}(q(z|x) \| p(z))
        - (\alpha + \lambda - 1) \, \mathrm{MMD}^2(q(z), p(z))

    alpha = 0 and lambda = 1 give the ELBO. Other values are no bound on log p(x). The MMD compares all samples of the
    batch with as many samples of the prior. It has a Gaussian kernel, is unbiased, and is one number for the batch.

    Source: Zhao, Song & Ermon, 2019, "InfoVAE: balancing learning and inference in variational autoencoders".

    Attributes:
        alpha: The rate has the weight 1 - alpha.
        lam: lambda; the MMD has the weight alpha + lambda - 1.
        bandwidth: Standard deviation of the kernel; None for the square root of the number of latent dimensions.
        kl: `"analytic"` for the rate in closed form, `"mc"` for the mean of log q(z|x) - log p(z) over the samples.
    """

    alpha: Annotated[float, Field(le=1)] = 0.0
    lam: NonNegativeFloat = 10.0
    bandwidth: PositiveFloat | None = None
    kl: RateForm = "analytic"

    direction = "none"
    scope = "batch"

    def __call__(self, draws: Draws) -> Float[Tensor, " B"]:
        """Return the weighted sum for each example.

        Raises:
            NoClosedFormError: The rate has no closed form, or the draws have no `prior`.
            NotReparameterisableError: The prior is learned, and its samples have no gradient.
            ValueError: The draws have no `noise`.
        """
        value = draws.log_p_x_given_z.mean(0) - (1 - self.alpha) * draws.rate(self.kl)
        weight = self.alpha + self.lam - 1
        return value if weight == 0 else value - weight * self._discrepancy(draws)

    def _discrepancy(self, draws: Draws) -> Float[Tensor, ""]:
        """Return an unbiased estimate of the squared MMD between the samples of the batch and of the prior."""
        num_samples, size = draws.z.shape[:2]
        codes, reference = draws.z.flatten(0, 1).flatten(1), _prior_samples(draws).flatten(0, 1).flatten(1)
        width = self.bandwidth or math.sqrt(codes.shape[1])

        def kernel(a: Tensor, b: Tensor) -> Tensor:
            return torch.exp(-0.5 * (a[:, None] - b).square().sum(-1) / width**2)

        def among(a: Tensor, independent: Tensor) -> Tensor:
            return torch.where(independent, kernel(a, a), 0.0).sum() / max(int(independent.sum()), 1)

        # Two samples of one q(z|x) are not independent samples of q(z), and a sample is no pair with itself.
        others = ~torch.eye(size, dtype=torch.bool, device=codes.device).repeat(num_samples, num_samples)
        distinct = ~torch.eye(len(codes), dtype=torch.bool, device=codes.device)
        return among(codes, others) + among(reference, distinct) - 2 * kernel(codes, reference).mean()


def _prior_samples(draws: Draws) -> Float[Tensor, "K B *event"]:
    """Return as many samples of the prior as there are samples of q(z|x)."""
    if draws.prior is None:
        raise NoClosedFormError("these draws have no prior p(z)")
    if draws.noise is None:
        raise ValueError("these draws have no noise, and InfoVAE draws from the prior")
    shape = draws.z.shape
    if hasattr(draws.prior, "transport"):
        noise = draws.noise.normal(shape, dtype=draws.z.dtype, device=draws.z.device)
        samples: Tensor = draws.prior.transport(noise)
        return samples
    if not draws.prior.has_rsample:
        raise NotReparameterisableError(f"samples of the prior, {type(draws.prior).__name__}, have no gradient")
    count = shape[0] * shape[1]
    return sample(draws.prior, count, draws.noise, like=draws.z).view(shape)

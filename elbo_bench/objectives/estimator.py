"""A value with the gradient of another function: three weights for each sample define the gradient."""

import torch
from jaxtyping import Float
from torch import Tensor

from elbo_bench.draws import Draws
from elbo_bench.numerics import weighted_sum


def estimator(
    value: Float[Tensor, " B"],
    draws: Draws,
    *,
    decoder: Float[Tensor, "K B"],
    path: Float[Tensor, "K B"] | None = None,
    score: Float[Tensor, "K B"] | None = None,
) -> Float[Tensor, " B"]:
    r"""Return `value` with the gradient of an estimator.

    .. math:: \sum_k d_k \nabla_\theta \log p(x, z_k) + d_k\, r_k\, (\nabla_\phi z_k)' \nabla_z \log w_k
        + s_k \nabla_\phi \log q(z_k|x)

    for theta the decoder and the prior, phi the encoder, and z_k held fixed in the last term.

    Args:
        value: The reported value, in nats.
        draws: The draws. Each set of draws can have one estimator only.
        decoder: The weights d.
        path: The factor r on the gradient that flows through the samples. None is 1.
        score: The weights s of the score of q. None is 0.

    Raises:
        NoClosedFormError: A gradient is required, and the draws have no `posterior`.
    """
    if not torch.is_grad_enabled():
        return value.detach()
    ascended = weighted_sum(decoder, draws.path_log_w)
    if score is not None:
        ascended = ascended + weighted_sum(score, draws.score_of_q)
    if path is not None:
        draws.scale_path(path)
    # An infinite sum would give inf - inf = NaN. There the gradient is zero.
    return value.detach() + torch.where(ascended.isinf() | value.isinf(), 0.0, ascended - ascended.detach())

"""A gradient that is not the value's own: three weights for each sample say what an estimator ascends."""

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
        value: What is reported, in nats.
        draws: Where it comes from; they serve this estimator alone.
        decoder: The weights d.
        path: The factor r on what flows through the samples; 1 if None. Of no effect on samples without a gradient.
        score: The weights s of the score of q; 0 if None.

    Raises:
        NoClosedFormError: A gradient is asked for, and the draws do not say what q(z|x) is.
    """
    if not torch.is_grad_enabled():
        return value.detach()
    ascended = weighted_sum(decoder, draws.path_log_w)
    if score is not None:
        ascended = ascended + weighted_sum(score, draws.score_of_q)
    if path is not None:
        draws.scale_path(path)
    # Where the sum is infinite the value says so, or does without it: inf - inf would make it NaN.
    return value.detach() + torch.where(ascended.isinf() | value.isinf(), 0.0, ascended - ascended.detach())

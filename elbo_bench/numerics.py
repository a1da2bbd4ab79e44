"""Arithmetic on log-weights that neither overflows nor hides a number that is not finite."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def log_mean_exp(log_w: Float[Tensor, "K *batch"]) -> Float[Tensor, "*batch"]:
    r"""Return :math:`\log \frac1K \sum_k \exp \log w_k` over the first axis, in nats.

    A log-weight of -inf is a weight of zero; NaN and +inf come out as they went in.
    """
    return torch.logsumexp(log_w, 0) - math.log(len(log_w))


def negative_softplus_sum(
    logits: Float[Tensor, "*batch D"],
) -> Float[Tensor, "*batch"]:
    r"""Return :math:`-\sum_d \log(1 + \exp l_d)`, the log-probability that a Bernoulli vector is all zeros."""
    # Beyond the default threshold of 20 torch leaves out exp(-l), 2e-9 nats a logit: visible in float64.
    return -torch.nn.functional.softplus(logits, threshold=40).sum(-1)

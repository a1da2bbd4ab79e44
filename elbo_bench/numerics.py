"""Arithmetic on log-weights without overflow. NaN and infinity are kept."""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

NOTHING = -1e30
"""A finite log-weight for a weight of zero.

The gradient at a log-weight of -inf is NaN. This value is finite in float32, its exponential is zero, and no log-weight
of a real example is close to it.
"""


def log_mean_exp(log_w: Float[Tensor, "K *batch"]) -> Float[Tensor, "*batch"]:
    r"""Return :math:`\log \frac1K \sum_k \exp \log w_k` over the first axis, in nats.

    A log-weight of -inf is a weight of zero. NaN gives NaN and +inf gives +inf.
    """
    return torch.logsumexp(log_w, 0) - math.log(len(log_w))


def log_sum_exp_of_others(log_w: Float[Tensor, "K *batch"]) -> Float[Tensor, "K *batch"]:
    """Return, for each entry of the first axis, the log-sum-exp of all other entries, in nats.

    It adds cumulative sums from both ends. Subtracting an entry from the total would lose all digits if the entry is
    almost the total.
    """
    log_w = log_w.clamp(min=NOTHING)
    nothing = torch.full_like(log_w[:1], NOTHING)
    before = torch.cat([nothing, torch.logcumsumexp(log_w, 0)[:-1]])
    after = torch.cat([nothing, torch.logcumsumexp(log_w.flip(0), 0)[:-1]]).flip(0)
    others = torch.logaddexp(before, after)
    return others.masked_fill(others < NOTHING / 2, -math.inf)


def without_each(log_w: Float[Tensor, "K *batch"]) -> Iterator[Float[Tensor, "R *batch"]]:
    """Yield, for each entry of the first axis, the R = K - 1 other entries.

    A generator needs memory for K numbers at a time instead of K squared.
    """
    for k in range(len(log_w)):
        yield torch.cat([log_w[:k], log_w[k + 1 :]])


def weighted_sum(weights: Float[Tensor, "K *batch"], values: Float[Tensor, "K *batch"]) -> Float[Tensor, "*batch"]:
    """Return the sum over the first axis of weights times values. No gradient flows through the weights.

    A weight of zero adds zero, also where the value is -inf.
    """
    weights = weights.detach()
    return (weights * values.masked_fill(weights == 0, 0.0)).sum(0)


def negative_softplus_sum(
    logits: Float[Tensor, "*batch D"],
) -> Float[Tensor, "*batch"]:
    r"""Return :math:`-\sum_d \log(1 + \exp l_d)`, the log-probability that a Bernoulli vector is all zeros."""
    return log_sigmoid_sum(logits, logits.new_full((1,), -1.0))


def log_sigmoid_sum(logits: Float[Tensor, "*lead D"], sign: Float[Tensor, "*other S"]) -> Float[Tensor, "*batch"]:
    r"""Return :math:`\sum_d \log \sigma(s_d l_d)`, the log-probability of independent signs, in nats.

    In float32 on the CPU without a gradient, a fast path computes one sigmoid for each logit and one logarithm for each
    group of logits, instead of a softplus for each logit.

    Args:
        logits: Log-odds l of the sign +1.
        sign: The signs s, +1 or -1. They broadcast with the logits.
    """
    if not _is_plain_float32(logits, sign) or not logits.numel():
        # Above its default threshold of 20, torch drops exp(-l): 2e-9 nats for each logit, visible in float64.
        return -torch.nn.functional.softplus(-sign * logits, threshold=40).sum(-1)
    logits, sign = torch.broadcast_tensors(logits, sign)
    if logits.dim() < 2:
        return _log_sigmoid_sum(logits * sign)
    count = max(1, _SLICE // logits[0].numel())
    pieces = [_log_sigmoid_sum(each * by) for each, by in zip(logits.split(count), sign.split(count), strict=True)]
    return torch.cat(pieces)


_SLICE = 2**19
"""Number of logits in one slice of the fast path. A slice fits into the CPU's cache."""

_GROUP = 64
"""Number of factors in one product. A product of so many factors between 1/2 and 1 does not underflow in float32."""

_SMALLEST = 2.0**-100
"""Products below this value are recomputed, because float32 may have lost digits."""


def _is_plain_float32(*tensors: Tensor) -> bool:
    """Return whether the fast path applies: float32 on a CPU without a gradient."""
    needs_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return not needs_gradient and all(
        tensor.dtype is torch.float32 and tensor.device.type == "cpu" for tensor in tensors
    )


def _log_sigmoid_sum(
    signed: Float[Tensor, "*batch D"],
) -> Float[Tensor, "*batch"]:
    """Return the sum of log sigmoid over the last axis, with one logarithm for each product of 64 sigmoids."""
    products = _grouped_products(torch.sigmoid(signed))
    total = products.log().sum(-1)
    if not products.min() >= _SMALLEST:  # or it is NaN
        # log sigmoid(t) = min(t, 0) + log sigmoid(|t|), and products of sigmoid(|t|) are not small.
        robust = signed.clamp_max(0).sum(-1) + _grouped_products(signed.abs().sigmoid_()).log().sum(-1)
        total = torch.where((products >= _SMALLEST).all(-1), total, robust)
    return total


def _grouped_products(factors: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch G"]:
    """Return the products of groups of 64 neighbours and the product of the remainder."""
    end = factors.shape[-1] // _GROUP * _GROUP
    remainder = factors[..., end:].prod(-1, keepdim=True)
    if not end:
        return remainder
    return torch.cat([factors[..., :end].unflatten(-1, (-1, _GROUP)).prod(-1), remainder], -1)

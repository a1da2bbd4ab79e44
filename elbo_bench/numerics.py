"""Arithmetic on log-weights that neither overflows nor hides a number that is not finite."""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

NOTHING = -1e30
"""A log-weight that stands for a weight of zero until the end of a sum.

The gradient of the logarithm of zero is no number. This is finite in float32 with room to spare, the exponential of it
is zero, and no log-weight of a real example is near it.
"""


def log_mean_exp(log_w: Float[Tensor, "K *batch"]) -> Float[Tensor, "*batch"]:
    r"""Return :math:`\log \frac1K \sum_k \exp \log w_k` over the first axis, in nats.

    A log-weight of -inf is a weight of zero; NaN and +inf come out as they went in.
    """
    return torch.logsumexp(log_w, 0) - math.log(len(log_w))


def log_sum_exp_of_others(log_w: Float[Tensor, "K *batch"]) -> Float[Tensor, "K *batch"]:
    """Return, for each entry of the first axis, the log of the summed exponentials of all the others, in nats.

    By sums from both ends: subtracting the entry from the whole would leave nothing where it is nearly all of it.
    """
    log_w = log_w.clamp(min=NOTHING)
    nothing = torch.full_like(log_w[:1], NOTHING)
    before = torch.cat([nothing, torch.logcumsumexp(log_w, 0)[:-1]])
    after = torch.cat([nothing, torch.logcumsumexp(log_w.flip(0), 0)[:-1]]).flip(0)
    others = torch.logaddexp(before, after)
    return others.masked_fill(others < NOTHING / 2, -math.inf)


def without_each(log_w: Float[Tensor, "K *batch"]) -> Iterator[Float[Tensor, "R *batch"]]:
    """Yield, for each entry of the first axis, all the others, R = K - 1 of them.

    One at a time: a mean over each then never holds K squared numbers.
    """
    for k in range(len(log_w)):
        yield torch.cat([log_w[:k], log_w[k + 1 :]])


def weighted_sum(weights: Float[Tensor, "K *batch"], values: Float[Tensor, "K *batch"]) -> Float[Tensor, "*batch"]:
    """Return the sum over the first axis of values times weights that are held fixed.

    A weight of zero adds nothing, even where its value is -inf: that is what the value of a log-weight is there.
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

    Where no gradient is asked for, in float32 on the CPU, it costs one sigmoid and two cheap passes over the logits,
    a few of them at a time, in place of a softplus for each.

    Args:
        logits: Log-odds l of each sign being +1.
        sign: The signs s, +1 or -1; logits and signs broadcast.
    """
    if not _is_plain_float32(logits, sign) or not logits.numel():
        # Beyond the default threshold of 20 torch leaves out exp(-l), 2e-9 nats a logit: visible in float64.
        return -torch.nn.functional.softplus(-sign * logits, threshold=40).sum(-1)
    logits, sign = torch.broadcast_tensors(logits, sign)
    if logits.dim() < 2:
        return _log_sigmoid_sum(logits * sign)
    count = max(1, _SLICE // logits[0].numel())
    pieces = [_log_sigmoid_sum(each * by) for each, by in zip(logits.split(count), sign.split(count), strict=True)]
    return torch.cat(pieces)


_SLICE = 2**19
"""Logits worked on at once: few enough to stay in a cache, enough that calls cost little."""

_GROUP = 64
"""Factors between 1/2 and 1 whose product a float32 holds with room to spare; and a multiple of a vector's width."""

_SMALLEST = 2.0**-100
"""The smallest product that is taken for one: what is far smaller a float32 cannot hold."""


def _is_plain_float32(*tensors: Tensor) -> bool:
    """Return whether the way that suits a CPU is open: float32 that no gradient flows through."""
    asked = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return not asked and all(tensor.dtype is torch.float32 and tensor.device.type == "cpu" for tensor in tensors)


def _log_sigmoid_sum(
    signed: Float[Tensor, "*batch D"],
) -> Float[Tensor, "*batch"]:
    """Return the sum of log sigmoid over the last axis: one logarithm for the product of a group of sigmoids."""
    products = _grouped_products(torch.sigmoid(signed))
    total = products.log().sum(-1)
    if not products.min() >= _SMALLEST:  # or it is NaN
        # log sigmoid(t) = min(t, 0) + log sigmoid(|t|), and products of the latter are never small.
        robust = signed.clamp_max(0).sum(-1) + _grouped_products(signed.abs().sigmoid_()).log().sum(-1)
        total = torch.where((products >= _SMALLEST).all(-1), total, robust)
    return total


def _grouped_products(factors: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch G"]:
    """Return the products of 64 neighbours each, and of those that are left over."""
    whole = factors.shape[-1] // _GROUP * _GROUP
    left = factors[..., whole:].prod(-1, keepdim=True)
    if not whole:
        return left
    return torch.cat([factors[..., :whole].unflatten(-1, (-1, _GROUP)).prod(-1), left], -1)

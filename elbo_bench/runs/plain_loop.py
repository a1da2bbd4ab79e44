"""Log p(x) as most code in the field computes it, to measure the evaluator against."""

import math
from typing import cast

import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn import functional

from elbo_bench.distributions import BernoulliArray, DiagonalNormal
from elbo_bench.draws import LatentVariableModel
from elbo_bench.noise import NormalSource

CHUNK = 100
"""Samples that are drawn at once, for one example."""


def no_plain_loop(model: LatentVariableModel, x: Tensor) -> str:
    """Return why a model is none that the plain loop knows; nothing if it is one."""
    posterior, prior = model.posterior(x[:1]), model.prior()
    if not isinstance(posterior, DiagonalNormal) or not isinstance(prior, DiagonalNormal):
        return "it knows only normal posteriors and priors with independent dimensions"
    if not isinstance(model.likelihood(posterior.mean), BernoulliArray):
        return "it knows only Bernoulli likelihoods"
    return ""


@torch.no_grad()
def plain_loop(model: LatentVariableModel, x: Tensor, num_samples: int, noise: NormalSource) -> Tensor:
    """Return log p(x) `[B]` by the usual loop: one x at a time, encoded again for each chunk of samples."""
    drawn = noise.normal((num_samples, len(x), *model.prior().event_shape), dtype=x.dtype, device=x.device)
    log_p_x = []
    for row, example in enumerate(x):
        log_w = []
        for part in drawn[:, row].split(CHUNK):
            q, p = _normal(model.posterior(example[None])), _normal(model.prior())
            z = q.loc + q.scale * part
            probability = torch.sigmoid(cast("BernoulliArray", model.likelihood(z)).logits).flatten(1)
            pixels = example.flatten().expand_as(probability)
            log_p_x_given_z = -functional.binary_cross_entropy(probability, pixels, reduction="none").sum(1)
            log_w.append(log_p_x_given_z + p.log_prob(z).sum(1) - q.log_prob(z).sum(1))
        log_p_x.append(torch.logsumexp(torch.cat(log_w), 0) - math.log(num_samples))
    return torch.stack(log_p_x)


def _normal(distribution: object) -> Normal:
    base = cast("DiagonalNormal", distribution).base_dist
    return Normal(base.loc, base.scale)

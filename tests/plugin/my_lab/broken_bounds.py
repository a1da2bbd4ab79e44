"""Bounds with one mistake each, as they are made: `elbo-bench check` must find every one of them."""

import dataclasses
from typing import Any

import torch
from pydantic import PositiveInt

from elbo_bench.numerics import log_mean_exp
from elbo_bench.objectives.base import Objective
from elbo_bench.objectives.estimator import estimator


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bound(Objective):
    num_samples: PositiveInt = 5
    direction = "lower"

    def __call__(self, draws):
        return log_mean_exp(draws.log_w)


class NoLogK(Bound):
    def __call__(self, draws):
        return torch.logsumexp(draws.log_w, 0)


class WrongSign(Bound):
    def __call__(self, draws):
        return -log_mean_exp(draws.log_w)


class Surrogate(Bound):
    def __call__(self, draws):
        return (draws.log_w.softmax(0).detach() * draws.log_w).sum(0)


class OneForAll(Bound):
    def __call__(self, draws):
        return draws.log_w.mean()


class SumOverTheBatch(Bound):
    def __call__(self, draws):
        return log_mean_exp(draws.log_w) + 0.01 * (draws.log_w - draws.log_w.mean(1, keepdim=True)).mean(0)


class Naive(Bound):
    def __call__(self, draws):
        return draws.log_w.exp().mean(0).log()


class NoDecoderGradient(Bound):
    def __call__(self, draws):
        log_q = draws.log_q_z_given_x
        return log_mean_exp((draws.log_w + log_q).detach() - log_q)


class PathOnly(Bound):
    def __call__(self, draws):
        return log_mean_exp(draws.path_log_w)


class NotSquared(Bound):
    gradient = "unbiased"

    def __call__(self, draws):
        return estimator(log_mean_exp(draws.log_w), draws, decoder=draws.log_w.softmax(0))


class Filtered(Bound):
    def __call__(self, draws):
        return log_mean_exp(draws.log_w.nan_to_num())


class LastCountsTwice(Bound):
    def __call__(self, draws):
        return (draws.log_w.sum(0) + draws.log_w[-1]) / (len(draws.log_w) + 1)


class OftenTheFirst(Bound):
    def __call__(self, draws):
        chosen = draws.noise.normal(draws.log_w.shape[1:], dtype=draws.log_w.dtype, device=draws.log_w.device) > 0
        return torch.where(chosen, draws.log_w[0], draws.log_w.mean(0))


class Random(Bound):
    def __call__(self, draws):
        return draws.log_w.mean(0) + 1e-3 * torch.randn(draws.log_w.shape[1], dtype=draws.log_w.dtype)


class InPlace(Bound):
    def __call__(self, draws):
        value = log_mean_exp(draws.log_w)
        draws.log_p_z.data.add_(1.0)
        return value


class Widened(Bound):
    def __call__(self, draws):
        return log_mean_exp(draws.log_w.double())


class TwoFaced(Bound):
    def __call__(self, draws):
        value = log_mean_exp(draws.log_w)
        return value if torch.is_grad_enabled() else value + 0.25


class ZeroTimesInfinity(Bound):
    def __call__(self, draws):
        weights = draws.log_w.softmax(0)
        entropy = -(weights.detach() * draws.log_w).sum(0)
        return log_mean_exp(draws.log_w) + 0 * entropy


class NoNumberWithGradient(Bound):
    def __call__(self, draws):
        surrogate = (draws.log_w.softmax(0).detach() * draws.log_w).sum(0)
        value = log_mean_exp(draws.log_w)
        return value.detach() + surrogate - surrogate.detach() if torch.is_grad_enabled() else value


class ProductOfAxes(Bound):
    num_estimates = 2

    @property
    def samples_required(self):
        return 2 * self.num_samples


class Sideways(Bound):
    direction = "sideways"


class Careless(Bound):
    def __post_init__(self):
        pass


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnyAlpha(Bound):
    alpha: Any = 0.5


class Unlike(Bound):
    __eq__ = object.__eq__
    __hash__ = object.__hash__


class Truncated(Bound):
    def __call__(self, draws):
        return log_mean_exp(draws.log_w.clamp(min=-50))


class Largest(Bound):
    def __call__(self, draws):
        return draws.log_w.amax(0)


class Generous(Bound):
    def __call__(self, draws):
        return draws.log_w.mean(0) + 0.05


class NotUnbiased(Bound):
    direction = "unbiased"


class UpsideDown(Bound):
    direction = "upper"


class Remembers(Bound):
    seen = []  # noqa: RUF012 - the mistake

    def __call__(self, draws):
        self.seen.append(1)
        return log_mean_exp(draws.log_w) + 1e-6 * len(self.seen)


class ClipsGradient(Bound):
    def __call__(self, draws):
        value = log_mean_exp(draws.log_w)
        return value.detach() + 0.5 * (value - value.detach())


class RaisesAtOnce(Bound):
    def __call__(self, draws):
        return draws.log_weights.mean(0)

"""Laws of an objective's value."""

import dataclasses
import math

import torch
from torch import Tensor

from elbo_bench.conformance.law import LawBroken, law, require_close, skip_if
from elbo_bench.conformance.mean_test import require_mean, require_mean_at_most
from elbo_bench.conformance.objective_subject import ObjectiveSubject as S
from elbo_bench.draws import Draws, score
from elbo_bench.noise import Noise

CONTRACT = "objectives/base.py"


def _with(draws: Draws, **tensors: Tensor) -> Draws:
    return dataclasses.replace(draws, **tensors)  # type: ignore[arg-type]


@law("one finite value for each example", CONTRACT)
def _shape(subject: S) -> str:
    value, size = subject.objective(subject.draws()), len(subject.case.x)
    if not isinstance(value, Tensor) or value.shape != (size,):
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value)
        raise LawBroken(f"for B = {size} it returns {shape}")
    if value.dtype is not torch.float64:
        raise LawBroken(f"for float64 draws it returns {value.dtype}")
    if not bool(value.isfinite().all()):
        raise LawBroken(f"the value is {value.tolist()}")
    axes = f"K = {subject.objective.samples_required}, B = {size}, L = {subject.draws().z.shape[-1]}"
    return f"{axes}, D = {subject.case.x.shape[-1]}"


@law("the value is the same with and without a gradient", CONTRACT)
def _same_without_gradient(subject: S) -> None:
    require_close(subject.objective(subject.draws(subject.case.leaves())), subject.value(), "with a gradient", atol=0.0)


@law("float32 and float64 give the same value", CONTRACT)
def _float32(subject: S) -> str:
    wide = subject.draws()
    value = subject.value(subject.draws_at(subject.case.to(torch.float32), _with(wide, z=wide.z.float())))
    if value.dtype is not torch.float32:
        raise LawBroken(f"for float32 draws it returns {value.dtype}; it must keep the dtype of the draws")
    return f"differ by {require_close(value, subject.value(wide), 'in float32', atol=1e-4, rtol=1e-4):.1g} nats"


@law("adding c to log p(x|z) adds c to the value", "log p(x) + c is the log of exp(c) p(x)")
def _shifted(subject: S) -> None:
    draws = subject.draws()
    for constant in (-3.75, 512.0, -1000.0):
        found = subject.value(_with(draws, log_p_x_given_z=draws.log_p_x_given_z + constant))
        require_close(found, subject.value(draws) + constant, f"c = {constant}", atol=1e-9)


@law("the order of the samples does not matter", CONTRACT)
def _permuted(subject: S) -> str | None:
    draws = subject.draws()
    skip_if(subject.grouped, "its samples come in groups")
    skip_if(len(draws.z) == 1, "it takes one sample")
    if subject.randomised:
        # The order may change a value, but not its mean over the objective's own random numbers. One example, often.
        case, _ = subject.replicated(subject.case.select(torch.zeros(1, dtype=torch.int64)))
        z = draws.z[:, :1].expand(-1, len(case.x), -1)
        draws = dataclasses.replace(score(case, case.posterior(case.x), case.x, z), noise=draws.noise)
    expected, smallest = subject.value(draws), 0.0
    names = ("z", "log_p_x_given_z", "log_p_z", "log_q_z_given_x")
    for position in range(3):
        order = Noise(3, "conformance/order", position).permutation(len(draws.z))
        found = subject.value(_with(draws, **{name: getattr(draws, name)[order] for name in names}))
        if subject.randomised:
            smallest = require_mean(found - expected, 0.0, "the mean with the samples in another order")
        else:
            require_close(found, expected, "with the samples in another order", atol=1e-10, rtol=1e-12)
    return f"detects {smallest:.2g} nats in the mean over its random numbers" if subject.randomised else None


@law("the value of an example does not depend on the other examples", CONTRACT)
def _other_examples(subject: S) -> None:
    skip_if(subject.objective.scope == "batch", "it declares the scope `batch`")
    case, expected = subject.case, subject.value()
    # Of the other examples everything changes: x, q(z|x) and z.
    others = case.moved("encoder", {name: torch.ones_like(v) for name, v in case.parameters["encoder"].items()}, 1.0)
    others = dataclasses.replace(others, x=others.x + 1)
    for row in range(len(case.x)):
        mine = (torch.arange(len(case.x)) == row)[:, None]
        encoder = {
            name: torch.where(mine, value, others.parameters["encoder"][name])
            for name, value in case.parameters["encoder"].items()
        }
        mixed = dataclasses.replace(case, x=torch.where(mine, case.x, others.x)).replaced("encoder", encoder)
        require_close(subject.value(subject.draws(mixed))[row], expected[row], f"example {row}", atol=1e-10)


@law("where q(z|x) is the posterior, the value is log p(x) for every draw", "all log-weights are log p(x) there")
def _exact(subject: S) -> str:
    skip_if(not subject.of_log_w, "it is not a function of the log-weights alone")
    case = subject.case.at_posterior()
    error = require_close(subject.value(subject.draws(case)), case.log_p_x(), "log p(x)", atol=1e-9)
    return f"differs by {error:.1g} nats"


@law("NaN in a log-density gives NaN", "values that are not finite are never dropped")
def _nan(subject: S) -> None:
    draws, expected = subject.draws(), subject.value()
    for sample in {0} if subject.randomised else {0, len(draws.z) - 1}:
        spoilt = draws.log_p_x_given_z.clone()
        spoilt[sample, 1] = math.nan
        value = subject.value(_with(draws, log_p_x_given_z=spoilt))
        if not bool(value[1].isnan()):
            raise LawBroken(f"with NaN in sample {sample} the value is {value[1]:.6g}")
        if subject.objective.scope == "example":
            kept = torch.arange(len(value)) != 1
            require_close(value[kept], expected[kept], "the other examples", atol=1e-12)


@law("a weight of zero gives the limit of small weights", "log w = -inf is a weight of zero")
def _zero_weight(subject: S) -> str:
    skip_if(subject.enumerates, "it takes every value of the latent")
    skip_if(subject.objective.num_samples == 1, "it takes one sample")
    return " and ".join(dict.fromkeys(_limit(subject, sample) for sample in (0, -1)))


def _limit(subject: S, sample: int) -> str:
    """Return what the value tends to as the weight of one sample tends to zero, and check the value at zero."""

    def value(log_weight: float, *, gradient: bool = False) -> Tensor:
        draws = subject.draws(subject.case.leaves() if gradient else subject.case)
        log_p = draws.log_p_x_given_z.clone()
        log_p[sample, 1] = log_weight
        draws = _with(draws, log_p_x_given_z=log_p)
        return (subject.objective(draws) if gradient else subject.value(draws))[1]

    near, far = value(-1e4), value(-2e4)
    finite = bool(abs(near - far) < 1e-9)
    expected = far if finite else torch.full_like(far, -math.inf if far < near else math.inf)
    for found in (value(-math.inf), value(-math.inf, gradient=True)):
        require_close(found, expected, "with a weight of zero", atol=1e-9)
    return "the sample adds nothing" if finite else f"its limit is {float(expected)}"


@law("the mean agrees with the declared direction", "`direction`, objectives/base.py")
def _direction(subject: S) -> str:
    direction, seen = subject.objective.direction, []
    skip_if(direction == "none", "it declares that it is no bound")
    skip_if(subject.objective.scope == "batch", "its values in a batch are not independent")
    # At the posterior a lower bound has no slack that could hide an error.
    for where, case in (("off the posterior", subject.case), ("at the posterior", subject.case.at_posterior())):
        replicas, index = subject.replicated(case)
        excess = subject.value(subject.draws(replicas)) - case.log_p_x()[index]
        if direction == "unbiased":
            smallest = require_mean(excess, 0.0, f"{where} the mean is not log p(x)")
        else:
            side, name = (1, "above") if direction == "lower" else (-1, "below")
            smallest = require_mean_at_most(side * excess, 0.0, f"{where} the mean is {name} log p(x)")
        seen.append(smallest)
    return f"detects {seen[0]:.2g} nats, at the posterior {seen[1]:.2g}, in {len(excess)} values"

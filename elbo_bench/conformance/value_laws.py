"""Laws of an objective's value, draw by draw."""

import dataclasses
import math

import torch
from torch import Tensor

from elbo_bench.conformance.law import Law, LawBroken, require_close
from elbo_bench.conformance.objective_subject import ObjectiveSubject
from elbo_bench.draws import Draws
from elbo_bench.noise import Noise

S = ObjectiveSubject
_TERMS = ("log_p_x_given_z", "log_p_z", "log_q_z_given_x")


def _with(draws: Draws, **terms: Tensor) -> Draws:
    return dataclasses.replace(draws, **terms)  # type: ignore[arg-type]


def _shape(subject: S) -> str:
    value, rows = subject.objective(subject.draws()), len(subject.case.x)
    if not isinstance(value, Tensor) or value.shape != (rows,):
        raise LawBroken(f"for B = {rows} it returns {tuple(value.shape) if isinstance(value, Tensor) else type(value)}")
    if value.dtype is not torch.float64:
        raise LawBroken(f"of float64 draws it makes {value.dtype}")
    if not bool(value.isfinite().all()):
        raise LawBroken(f"the value is {value.tolist()}")
    axes = f"K = {subject.objective.samples_required}, B = {rows}, L = {subject.draws().z.shape[-1]}"
    return f"{axes}, D = {subject.case.x.shape[-1]}"


def _same_without_gradient(subject: S) -> None:
    require_close(subject.objective(subject.draws(subject.case.leaves())), subject.value(), "with a gradient", atol=0.0)


def _float32(subject: S) -> str:
    wide = subject.draws()
    narrow = subject.case.to(torch.float32)
    drawn = subject.draws_at(narrow, dataclasses.replace(wide, z=wide.z.float()))
    value = subject.value(drawn)
    if value.dtype is not torch.float32:
        raise LawBroken(f"of float32 draws it makes {value.dtype}")
    return f"{require_close(value, subject.value(wide), 'in float32', atol=1e-4, rtol=1e-4):.1g} nats apart"


def _raised(subject: S) -> None:
    draws = subject.draws()
    for constant in (-3.75, 512.0, -1000.0):
        found = subject.value(_with(draws, log_p_x_given_z=draws.log_p_x_given_z + constant))
        require_close(found, subject.value(draws) + constant, f"c = {constant}", atol=1e-9)


def _unordered(subject: S) -> str | None:
    if subject.objective.ordered:
        return "it says that the order matters"
    if subject.grouped:
        return "its samples come in groups"
    return "one sample has no order" if len(subject.draws().z) == 1 else None


def _permuted(subject: S) -> None:
    draws, expected = subject.draws(), subject.value()
    for position in range(3):
        order = Noise(3, "conformance/order", position).permutation(len(draws.z))
        moved = _with(draws, **{name: getattr(draws, name)[order] for name in ("z", *_TERMS)})
        require_close(subject.value(moved), expected, "with its samples in another order", atol=1e-10, rtol=1e-12)


def _own_example(subject: S) -> str | None:
    return None if subject.objective.scope == "example" else "it says that it sees its whole batch"


def _alone(subject: S) -> None:
    case, expected = subject.case, subject.value()
    for row in range(len(case.x)):
        # Of the other examples nothing stays, neither x nor q nor z.
        ones = {name: torch.ones_like(value) for name, value in case.parameters["encoder"].items()}
        others = case.moved("encoder", ones, 1.0)
        others = dataclasses.replace(others, x=others.x + 1)
        mine = torch.arange(len(case.x)) == row
        mixed = dataclasses.replace(case, x=torch.where(mine[:, None], case.x, others.x)).replaced(
            "encoder",
            {
                name: torch.where(mine[:, None], value, others.parameters["encoder"][name])
                for name, value in case.parameters["encoder"].items()
            },
        )
        require_close(subject.value(subject.draws(mixed))[row], expected[row], f"example {row}", atol=1e-10)


def _of_log_w(subject: S) -> str | None:
    return None if subject.objective.of_log_w else "it says that it is no function of the log-weights alone"


def _resplit(subject: S) -> None:
    draws, expected = subject.draws(), subject.value()
    a, b = Noise(4, "conformance/split").normal((2, *draws.log_w.shape), dtype=torch.float64)
    terms = {
        "log_p_x_given_z": draws.log_p_x_given_z + 3 * a,
        "log_p_z": draws.log_p_z - b,
        "log_q_z_given_x": draws.log_q_z_given_x + 3 * a - b,
    }
    require_close(subject.value(_with(draws, **terms)), expected, "with the terms shared out anew", atol=1e-9)
    blind = dataclasses.replace(draws, z=torch.zeros_like(draws.z), posterior=None, prior=None)
    require_close(subject.value(blind), expected, "without z, q and p(z)", atol=1e-12)


def _exact(subject: S) -> str:
    case = subject.case.at_posterior()
    return f"{require_close(subject.value(subject.draws(case)), case.log_p_x(), 'log p(x)', atol=1e-9):.1g} nats apart"


def _nan(subject: S) -> None:
    draws, expected = subject.draws(), subject.value()
    last = len(draws.z) - 1
    for sample in {0} if subject.objective.ordered else {0, last}:
        spoilt = draws.log_p_x_given_z.clone()
        spoilt[sample, 1] = math.nan
        value = subject.value(_with(draws, log_p_x_given_z=spoilt))
        if not bool(value[1].isnan()):
            raise LawBroken(f"with NaN in sample {sample} the value is {value[1]:.6g}")
        if subject.objective.scope == "example":
            kept = torch.arange(len(value)) != 1
            require_close(value[kept], expected[kept], "the other examples", atol=1e-12)


def _several(subject: S) -> str | None:
    if subject.enumerates:
        return "it is given every value of the latent"
    return "a single weight of zero has no limit" if subject.objective.num_samples == 1 else None


def _zero_weight(subject: S) -> str:
    return " and ".join(dict.fromkeys(_without_sample(subject, place) for place in (0, -1)))


def _without_sample(subject: S, place: int) -> str:
    draws, row = subject.draws(), 1

    def value(log_weight: float, *, gradient: bool = False) -> Tensor:
        source = subject.draws(subject.case.leaves()) if gradient else draws
        log_p = source.log_p_x_given_z.clone()
        log_p[place, row] = log_weight
        changed = _with(source, log_p_x_given_z=log_p)
        return (subject.objective(changed) if gradient else subject.value(changed))[row]

    near, far, limit = value(-1e4), value(-2e4), value(-math.inf)
    if abs(near - far) < 1e-9:
        require_close(limit, far, "with a weight of zero", atol=1e-9)
        require_close(value(-math.inf, gradient=True), far, "with a weight of zero and a gradient", atol=1e-9)
        return "the sample adds nothing"
    expected = -math.inf if far < near else math.inf
    for found in (float(limit), float(value(-math.inf, gradient=True).detach())):
        if found != expected:
            raise LawBroken(f"with a weight of zero it is {found:.6g}, and its limit {expected}")
    return f"its limit is {expected}"


CONTRACT = "objectives/base.py"
VALUE_LAWS: tuple[Law[ObjectiveSubject], ...] = (
    Law(name="one finite value for each example", source=CONTRACT, check=_shape),
    Law(name="the value is the same with and without a gradient", source=CONTRACT, check=_same_without_gradient),
    Law(name="float32 gives what float64 gives", source=CONTRACT, check=_float32),
    Law(name="adding c to log p(x|z) adds c", source="log p(x) + c is the log of exp(c) p(x)", check=_raised),
    Law(name="the order of the samples does not matter", source=CONTRACT, check=_permuted, applies=_unordered),
    Law(name="an example's value is its own", source=CONTRACT, check=_alone, applies=_own_example),
    Law(name="only the log-weights matter", source=CONTRACT, check=_resplit, applies=_of_log_w),
    Law(
        name="where q is the posterior it is log p(x), draw by draw",
        source="all log-weights are log p(x) there",
        check=_exact,
        applies=_of_log_w,
    ),
    Law(name="NaN shows", source="nothing that is not finite is filtered", check=_nan),
    Law(
        name="a weight of zero counts as its limit",
        source="log w = -inf is a weight of zero",
        check=_zero_weight,
        applies=_several,
    ),
)

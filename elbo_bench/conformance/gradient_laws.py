"""Laws of an objective's gradient: of what it is the gradient is what the objective declares."""

import dataclasses

import torch
from torch import Tensor

from elbo_bench.conformance.cases import PARTS, Case, Part
from elbo_bench.conformance.law import Law, LawBroken
from elbo_bench.conformance.mean_test import require_mean
from elbo_bench.conformance.objective_subject import ObjectiveSubject
from elbo_bench.noise import Noise

S = ObjectiveSubject
_STEP = 1e-3
_TOLERANCE = 1e-6


def _slope(subject: S, case: Case, part: Part, direction: dict[str, Tensor]) -> Tensor:
    """Return the derivative of the values along a direction, `[B]`, by five-point differences.

    The samples move with the encoder if the objective's gradient flows through them, or if it says that it has the
    expectation of one that does.
    """
    moves = subject.objective.reparameterised or subject.objective.gradient == "unbiased"
    held = subject.draws(case)

    def value(step: float) -> Tensor:
        moved = case.moved(part, direction, step)
        return subject.value(
            subject.draws(moved) if moves and not subject.enumerates else subject.draws_at(moved, held)
        )

    near, far = value(_STEP) - value(-_STEP), value(2 * _STEP) - value(-2 * _STEP)
    return (8 * near - far) / (12 * _STEP)


def _require_slopes(subject: S, parts: tuple[Part, ...]) -> str:
    case, numbers = subject.case, Noise(5, "conformance/directions").stream()
    weights = 1 + numbers.uniform((len(case.x),))  # no two examples count the same
    largest = 0.0
    for part in parts:
        gradient = subject.gradients(case, part, weights)
        for _ in range(3):
            direction = {name: numbers.normal(v.shape, dtype=torch.float64) for name, v in gradient.items()}
            found = sum(float((gradient[name] * along).sum()) for name, along in direction.items())
            expected = float((weights * _slope(subject, case, part, direction)).sum())
            error = abs(found - expected) / (1 + abs(expected))
            if not error <= _TOLERANCE:
                raise LawBroken(f"{part}: along a direction it is {found:.6g}, and the value's slope {expected:.6g}")
            largest = max(largest, error)
    return f"relative error {largest:.0e}"


def _decoder_applies(subject: S) -> str | None:
    return "it says that its gradient is its own" if subject.objective.gradient == "own" else None


def _encoder_applies(subject: S) -> str | None:
    gradient = subject.objective.gradient
    return None if gradient == "value" else f"it says that its gradient there is another one ({gradient})"


def _unbiased_applies(subject: S) -> str | None:
    gradient = subject.objective.gradient
    if gradient == "value":
        return "it is the value's draw by draw"
    return None if gradient == "unbiased" else f"it says that its expectation is another one ({gradient})"


def _unbiased(subject: S) -> str:
    case, _ = subject.replicated(subject.case.rows(torch.zeros(1, dtype=torch.int64)))
    gradient = subject.gradients(case, "encoder", torch.ones(len(case.x), dtype=torch.float64))
    found, slopes = [], []
    for name, of_each in gradient.items():
        for place in range(of_each.shape[1]):
            along = {other: torch.zeros_like(v) for other, v in gradient.items()}
            along[name][:, place] = 1
            found.append(of_each[:, place])
            slopes.append(_slope(subject, case, "encoder", along))
    difference, mean = torch.stack(found, 1) - torch.stack(slopes, 1), torch.stack(slopes, 1).mean(0)
    size = float(mean.norm())
    smallest = require_mean(difference, 0.0, f"its mean, where the value's gradient has the size {size:.3g}")
    return f"sees a bias of {smallest:.2g} in a coordinate, {smallest / size:.0%} of the gradient"


def _finite(subject: S) -> None:
    case = subject.case.to(torch.float32).leaves()
    draws = subject.draws(case)
    pattern = torch.tensor([80.0, -80.0, 0.0])
    apart = pattern[torch.arange(len(draws.z)) % 3][:, None] - 1000
    value = subject.objective(dataclasses.replace(draws, log_p_x_given_z=draws.log_p_x_given_z + apart))
    if not bool(value.isfinite().all()):
        raise LawBroken(f"the value is {value.tolist()}")
    for part in PARTS:
        parameters = case.parameters[part]
        for name, parameter in parameters.items():
            (gradient,) = torch.autograd.grad(
                value.sum(), parameter, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            if not bool(gradient.isfinite().all()):
                raise LawBroken(f"the gradient in {part}.{name} is not finite")


DECLARED = "what `gradient` declares, objectives/base.py"
GRADIENT_LAWS: tuple[Law[ObjectiveSubject], ...] = (
    Law(
        name="the gradient in decoder and prior is the value's",
        source=DECLARED,
        check=lambda subject: _require_slopes(subject, ("decoder", "prior")),
        applies=_decoder_applies,
    ),
    Law(
        name="the gradient in the encoder is the value's",
        source=DECLARED,
        check=lambda subject: _require_slopes(subject, ("encoder",)),
        applies=_encoder_applies,
    ),
    Law(
        name="the gradient in the encoder is the value's in expectation",
        source=DECLARED,
        check=_unbiased,
        applies=_unbiased_applies,
    ),
    Law(
        name="gradients are finite where log-weights are far apart",
        source="log p(x|z) of an image is some -1000 nats, in float32",
        check=_finite,
    ),
)

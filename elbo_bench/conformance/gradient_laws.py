"""Laws of an objective's gradient. The class attribute `gradient` declares which of them apply."""

import dataclasses

import torch
from torch import Tensor

from elbo_bench.conformance.cases import PARTS, Case, Part
from elbo_bench.conformance.law import LawBroken, law, skip_if
from elbo_bench.conformance.mean_test import require_mean
from elbo_bench.conformance.objective_subject import ObjectiveSubject as S
from elbo_bench.noise import Noise

DECLARED = "`gradient`, objectives/base.py"
_STEP = 1e-3
_TOLERANCE = 1e-6


def _slope(subject: S, case: Case, part: Part, direction: dict[str, Tensor]) -> Tensor:
    """Return the derivative of the values along a direction, `[B]`, by five-point differences.

    The samples move with the encoder if the objective's gradient flows through them, or if its gradient is declared to
    have the expectation of such a gradient.
    """
    moves = (subject.objective.reparameterised or subject.objective.gradient == "unbiased") and not subject.enumerates
    held = subject.draws(case)

    def value(step: float) -> Tensor:
        moved = case.moved(part, direction, step)
        return subject.value(subject.draws(moved) if moves else subject.draws_at(moved, held))

    near, far = value(_STEP) - value(-_STEP), value(2 * _STEP) - value(-2 * _STEP)
    return (8 * near - far) / (12 * _STEP)


def _require_slopes(subject: S, *parts: Part) -> str:
    case, numbers = subject.case, Noise(5, "conformance/directions").stream()
    weights = 1 + numbers.uniform((len(case.x),))  # each example has another weight
    largest = 0.0
    for part in parts:
        gradient = subject.gradients(case, part, weights)
        for _ in range(3):
            direction = {name: numbers.normal(v.shape, dtype=torch.float64) for name, v in gradient.items()}
            found = sum(float((gradient[name] * along).sum()) for name, along in direction.items())
            expected = float((weights * _slope(subject, case, part, direction)).sum())
            error = abs(found - expected) / (1 + abs(expected))
            if not error <= _TOLERANCE:
                raise LawBroken(f"{part}: the slope by its gradient is {found:.6g}, by differences {expected:.6g}")
            largest = max(largest, error)
    return f"relative error {largest:.0e}"


@law("the decoder and prior gradient is the gradient of the value", DECLARED)
def _decoder(subject: S) -> str:
    skip_if(subject.objective.gradient == "own", "it declares a gradient of its own")
    return _require_slopes(subject, "decoder", "prior")


@law("the encoder gradient is the gradient of the value", DECLARED)
def _encoder(subject: S) -> str:
    gradient = subject.objective.gradient
    skip_if(gradient != "value", f"it declares another encoder gradient ({gradient})")
    return _require_slopes(subject, "encoder")


@law("the encoder gradient is the gradient of the value in expectation", DECLARED)
def _unbiased(subject: S) -> str:
    declared = subject.objective.gradient
    skip_if(declared == "value", "it is the gradient of the value for every draw")
    skip_if(declared != "unbiased", f"it declares an encoder gradient with another expectation ({declared})")
    case, _ = subject.replicated(subject.case.select(torch.zeros(1, dtype=torch.int64)))
    gradient = subject.gradients(case, "encoder", torch.ones(len(case.x), dtype=torch.float64))
    found, slopes = [], []
    for name, of_example in gradient.items():
        for column in range(of_example.shape[1]):
            along = {other: torch.zeros_like(v) for other, v in gradient.items()}
            along[name][:, column] = 1
            found.append(of_example[:, column])
            slopes.append(_slope(subject, case, "encoder", along))
    difference, size = torch.stack(found, 1) - torch.stack(slopes, 1), float(torch.stack(slopes, 1).mean(0).norm())
    smallest = require_mean(difference, 0.0, f"its mean, where the gradient of the value has norm {size:.3g}")
    return f"detects a bias of {smallest:.2g} in a coordinate, {smallest / size:.0%} of the gradient"


@law("gradients are finite for extreme log-weights", "log p(x|z) of an image is about -1000 nats, in float32")
def _finite(subject: S) -> None:
    case = subject.case.to(torch.float32).leaves()
    draws = subject.draws(case)
    offsets = torch.tensor([80.0, -80.0, 0.0])[torch.arange(len(draws.z)) % 3][:, None] - 1000
    value = subject.objective(dataclasses.replace(draws, log_p_x_given_z=draws.log_p_x_given_z + offsets))
    if not bool(value.isfinite().all()):
        raise LawBroken(f"the value is {value.tolist()}")
    for part in PARTS:
        for name, parameter in case.parameters[part].items():
            (gradient,) = torch.autograd.grad(
                value.sum(), parameter, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            if not bool(gradient.isfinite().all()):
                raise LawBroken(f"the gradient in {part}.{name} is not finite")

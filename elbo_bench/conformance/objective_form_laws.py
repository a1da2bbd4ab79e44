"""Laws of an objective as an object: its configuration, the input that it accepts, and the absence of side effects."""

import copy
import dataclasses
import math
import typing

import numpy as np
import torch

from elbo_bench.config.typed import parameters
from elbo_bench.conformance.law import LawBroken, law, require_close, skip_if
from elbo_bench.conformance.objective_subject import ObjectiveSubject as S
from elbo_bench.draws import Draws
from elbo_bench.objectives.base import Direction, Objective

CONTRACT = "objectives/base.py"
_TENSORS = ("z", "log_p_x_given_z", "log_p_z", "log_q_z_given_x")
_BAD_COUNTS: tuple[object, ...] = (0, -1, True, 2.5, math.nan, "3", None)
_BAD_NUMBERS: tuple[object, ...] = (math.nan, math.inf, -math.inf, "3", True)


@law("its class attributes have valid values", CONTRACT)
def _declares(subject: S) -> str:
    objective, hints = subject.objective, typing.get_type_hints(Objective)
    allowed = {name: typing.get_args(typing.get_args(hints[name])[0]) for name in ("scope", "latents", "gradient")}
    allowed |= {"direction": typing.get_args(Direction), "reparameterised": (True, False)}
    for name, values in allowed.items():
        if getattr(objective, name) not in values:
            raise LawBroken(f"{name} is {getattr(objective, name)!r}; valid: {', '.join(map(str, values))}")
    required = objective.samples_required
    if type(required) is not int or required < 1:
        raise LawBroken(f"samples_required is {required!r}, not a positive integer")
    return ", ".join(f"{name} {getattr(objective, name)}" for name in allowed)


@law("it is a frozen dataclass, equal to a copy made from its fields", CONTRACT)
def _configuration(subject: S) -> None:
    objective = subject.objective
    if not dataclasses.is_dataclass(objective):
        raise LawBroken("it is not a dataclass")
    values = {field.name: getattr(objective, field.name) for field in dataclasses.fields(objective)}
    if missing := set(values) - set(parameters(type(objective))):
        raise LawBroken(f"{', '.join(sorted(missing))} cannot be configured by name")
    for made in (type(objective)(**values), copy.deepcopy(objective)):
        if made != objective or hash(made) != hash(objective):
            raise LawBroken("two objectives with the same fields are not equal")
    try:
        objective.num_samples = 1  # type: ignore[misc]
    except dataclasses.FrozenInstanceError:
        return
    raise LawBroken("its fields can be changed: use @dataclasses.dataclass(frozen=True, kw_only=True)")


@law("a field outside its range is rejected", "config/typed.py")
def _range(subject: S) -> str:
    objective, checked = subject.objective, []
    hints = typing.get_type_hints(type(objective))
    for field in dataclasses.fields(objective):
        is_count = field.name in ("num_samples", "num_estimates")
        if not is_count and type(getattr(objective, field.name)) not in (int, float):
            continue
        for bad in _BAD_COUNTS if is_count else _BAD_NUMBERS:
            if bad is True and typing.get_origin(hints[field.name]) is typing.Literal:
                continue  # Literal[1] compares by equality, and True == 1
            try:
                dataclasses.replace(objective, **{field.name: bad})  # type: ignore[arg-type]
            except (ValueError, TypeError):
                continue
            raise LawBroken(f"it accepts {field.name}={bad!r}")
        checked.append(field.name)
    return ", ".join(checked)


@law("swapped axes are rejected", "draws.py")
def _swapped(subject: S) -> None:
    draws = subject.draws()
    swapped = {name: getattr(draws, name).transpose(0, 1) for name in _TENSORS}
    for tensors in ({**swapped, "z": draws.z}, swapped):
        try:
            Draws(**tensors, posterior=draws.posterior, prior=draws.prior)
        except (ValueError, TypeError):
            continue
        raise LawBroken("it accepts [B, K] where [K, B] is required")


@law("a wrong number of samples is rejected", CONTRACT)
def _wrong_number(subject: S) -> None:
    skip_if(not subject.grouped, "it accepts any number of samples")
    draws = subject.draws()
    try:
        value = subject.value(draws.samples(0, len(draws.z) - 1))
    except ValueError:
        return
    raise LawBroken(f"it needs {len(draws.z)} samples, and of {len(draws.z) - 1} it computes {value.tolist()}")


@law("the same draws give the same value", "noise.py")
def _twice(subject: S) -> None:
    require_close(subject.value(), subject.value(), "the second time", atol=0.0)


@law("the draws are not modified", CONTRACT)
def _unmodified(subject: S) -> None:
    draws = subject.draws(subject.case.leaves())
    before = {name: getattr(draws, name).detach().clone() for name in _TENSORS}
    subject.objective(draws).sum().backward()
    for name, value in before.items():
        require_close(getattr(draws, name), value, f"{name} afterwards", atol=0.0)


@law("the global random state is not used", "noise.py")
def _global_random_state(subject: S) -> None:
    # Python's own `random` is not compared: jaxtyping's run-time type checker uses it.
    def state() -> tuple[list[int], list[int]]:
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # type: ignore[index] # noqa: NPY002

    draws = subject.draws(subject.case.leaves())
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        before = state()
        first = subject.objective(draws).detach()
        if state() != before:
            raise LawBroken("it draws from the global random state; use `draws.noise`")
        torch.manual_seed(2)
        require_close(subject.value(), first, "with another global seed", atol=0.0)

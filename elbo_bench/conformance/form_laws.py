"""Laws of an objective as an object: what it accepts, what it leaves alone, and that it is its configuration."""

import copy
import dataclasses
import math
import typing

import numpy as np
import torch

from elbo_bench.conformance.law import Law, LawBroken, require_close
from elbo_bench.conformance.objective_subject import ObjectiveSubject
from elbo_bench.draws import Draws
from elbo_bench.objectives.base import Objective
from elbo_bench.typed import parameters

S = ObjectiveSubject
_TERMS = ("z", "log_p_x_given_z", "log_p_z", "log_q_z_given_x")


def _declares(subject: S) -> str:
    said = {name: getattr(subject.objective, name) for name in ("scope", "latents", "gradient", "direction")}
    hints = typing.get_type_hints(Objective)
    allowed = {
        **{name: typing.get_args(typing.get_args(hints[name])[0]) for name in ("scope", "latents", "gradient")},
        "direction": ("lower", "upper", "unbiased", "none"),
    }
    for name, value in said.items():
        if value not in allowed[name]:
            raise LawBroken(f"{name} is {value!r}, none of {', '.join(allowed[name])}")
    for name in ("reparameterised", "of_log_w", "ordered"):
        if type(getattr(subject.objective, name)) is not bool:
            raise LawBroken(f"{name} is {getattr(subject.objective, name)!r}, neither True nor False")
    required = subject.objective.samples_required
    if type(required) is not int or required < 1:
        raise LawBroken(f"samples_required is {required!r}")
    return ", ".join(f"{name} {value}" for name, value in said.items())


def _twice(subject: S) -> None:
    require_close(subject.value(), subject.value(), "the second time", atol=0.0)


def _untouched(subject: S) -> None:
    case = subject.case.leaves()
    draws = subject.draws(case)
    before = {name: getattr(draws, name).detach().clone() for name in _TERMS}
    subject.objective(draws).sum().backward()
    for name, value in before.items():
        require_close(getattr(draws, name), value, f"afterwards {name}", atol=0.0)


def _global_numbers(subject: S) -> None:
    # Python's own `random` is left out: where types are checked as a program runs, the checker uses it.
    def state() -> tuple[list[int], list[int]]:
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()  # type: ignore[index] # noqa: NPY002

    draws = subject.draws(subject.case.leaves())
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        before = state()
        first = subject.objective(draws).detach()
        if state() != before:
            raise LawBroken("it draws global random numbers: `draws.noise` is for that")
        torch.manual_seed(2)
        require_close(subject.value(), first, "with another global seed", atol=0.0)


def _swapped(subject: S) -> None:
    draws = subject.draws()
    turned = {name: getattr(draws, name).transpose(0, 1) for name in _TERMS}
    for terms in ({**turned, "z": draws.z}, turned):
        try:
            Draws(**terms, posterior=draws.posterior, prior=draws.prior)
        except (ValueError, TypeError):
            continue
        raise LawBroken("[B, K] is taken for [K, B]")


def _in_groups(subject: S) -> str | None:
    return None if subject.grouped else "any number of samples will do"


def _wrong_number(subject: S) -> None:
    draws = subject.draws()
    try:
        value = subject.value(draws.samples(0, len(draws.z) - 1))
    except ValueError:
        return
    raise LawBroken(f"of {len(draws.z) - 1} samples in the place of {len(draws.z)} it makes {value.tolist()}")


_NO_COUNTS: tuple[object, ...] = (0, -1, True, 2.5, math.nan, "3", None)
_NO_NUMBERS: tuple[object, ...] = (math.nan, math.inf, -math.inf, "3", True)


def _range(subject: S) -> str:
    objective, checked = subject.objective, []
    hints = typing.get_type_hints(type(objective))
    for field in dataclasses.fields(objective):
        value = getattr(objective, field.name)
        counts = field.name in ("num_samples", "num_estimates")
        if not counts and type(value) not in (int, float):
            continue
        for bad in _NO_COUNTS if counts else _NO_NUMBERS:
            if bad is True and typing.get_origin(hints[field.name]) is typing.Literal:
                continue  # Literal[1] goes by equality, and True == 1
            if _accepts(objective, field.name, bad):
                raise LawBroken(f"it accepts {field.name}={bad!r}")
        checked.append(field.name)
    return ", ".join(checked)


def _accepts(objective: Objective, name: str, value: object) -> bool:
    try:
        dataclasses.replace(objective, **{name: value})  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return False
    return True


def _configuration(subject: S) -> None:
    objective = subject.objective
    if not dataclasses.is_dataclass(objective):
        raise LawBroken("it is no dataclass: its fields are its configuration")
    values = {field.name: getattr(objective, field.name) for field in dataclasses.fields(objective)}
    missing = set(values) - set(parameters(type(objective)))
    if missing:
        raise LawBroken(f"{', '.join(sorted(missing))} cannot be configured by name")
    for made in (type(objective)(**values), copy.deepcopy(objective)):
        if made != objective or hash(made) != hash(objective):
            raise LawBroken("of the same values it makes an objective that is not equal to it")
    try:
        objective.num_samples = 1  # type: ignore[misc]
    except dataclasses.FrozenInstanceError:
        return
    raise LawBroken("it can be changed once it is made: say @dataclasses.dataclass(frozen=True, kw_only=True)")


CONTRACT = "objectives/base.py"
FORM_LAWS: tuple[Law[ObjectiveSubject], ...] = (
    Law(name="it declares what it is", source=CONTRACT, check=_declares),
    Law(name="it is frozen, and equal to what its fields make", source=CONTRACT, check=_configuration),
    Law(name="a number out of range is refused", source="typed parameters, typed.py", check=_range),
    Law(name="swapped axes are refused", source="draws.py", check=_swapped),
    Law(name="a wrong number of samples is refused", source=CONTRACT, check=_wrong_number, applies=_in_groups),
    Law(name="the same draws give the same value", source="noise without state", check=_twice),
    Law(name="the draws are left as they were", source=CONTRACT, check=_untouched),
    Law(name="global random numbers are left alone", source="noise without state", check=_global_numbers),
)

"""All laws, and the function that tests a component against them."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, TypeVar

from elbo_bench.conformance import (
    gradient_laws,
    likelihood_laws,
    model_density_laws,
    model_form_laws,
    objective_form_laws,
    value_laws,
)
from elbo_bench.conformance.law import Law, Verdict, judge
from elbo_bench.conformance.model_subject import ModelSubject
from elbo_bench.conformance.objective_subject import ObjectiveSubject

S = TypeVar("S")


def _laws(*modules: ModuleType) -> tuple[Law[Any], ...]:
    return tuple(value for module in modules for value in vars(module).values() if isinstance(value, Law))


OBJECTIVE_LAWS: tuple[Law[ObjectiveSubject], ...] = _laws(objective_form_laws, value_laws, gradient_laws)
MODEL_LAWS: tuple[Law[ModelSubject], ...] = _laws(model_form_laws, model_density_laws, likelihood_laws)


def judge_all(laws: Sequence[Law[S]], subject: S, progress: Callable[[int, str], None]) -> list[Verdict]:
    """Return the verdict of every law on one component.

    `progress` is called before each law with the number of finished laws and the name of the next one, and at the end.
    """
    verdicts = []
    for done, law in enumerate(laws):
        progress(done, law.name)
        verdicts.append(judge(law, subject))
    progress(len(laws), "")
    return verdicts

"""All laws, and a component held against them."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from elbo_bench.conformance.direction_law import DIRECTION_LAWS
from elbo_bench.conformance.form_laws import FORM_LAWS
from elbo_bench.conformance.gradient_laws import GRADIENT_LAWS
from elbo_bench.conformance.law import Law, Verdict, judge
from elbo_bench.conformance.likelihood_laws import LIKELIHOOD_LAWS
from elbo_bench.conformance.model_density_laws import DENSITY_LAWS
from elbo_bench.conformance.model_form_laws import MODEL_FORM_LAWS
from elbo_bench.conformance.model_subject import ModelSubject
from elbo_bench.conformance.objective_subject import ObjectiveSubject
from elbo_bench.conformance.value_laws import VALUE_LAWS

S = TypeVar("S")

OBJECTIVE_LAWS: tuple[Law[ObjectiveSubject], ...] = (*FORM_LAWS, *VALUE_LAWS, *DIRECTION_LAWS, *GRADIENT_LAWS)
MODEL_LAWS: tuple[Law[ModelSubject], ...] = (*MODEL_FORM_LAWS, *DENSITY_LAWS, *LIKELIHOOD_LAWS)


def _silent(_: int, __: str) -> None:
    """Tell nobody."""


def judge_all(laws: Sequence[Law[S]], subject: S, progress: Callable[[int, str], None] = _silent) -> list[Verdict]:
    """Return the verdict of every law on one component; `progress` is told how many are done, and which is next."""
    verdicts = []
    for done, law in enumerate(laws):
        progress(done, law.name)
        verdicts.append(judge(law, subject))
    progress(len(laws), "")
    return verdicts

"""Laws that every objective and every model must keep, whoever wrote it: `elbo-bench check` prints which ones hold."""

from elbo_bench.conformance.law import Law, LawBroken, Verdict
from elbo_bench.conformance.model_subject import ModelSubject
from elbo_bench.conformance.objective_subject import ObjectiveSubject
from elbo_bench.conformance.suite import MODEL_LAWS, OBJECTIVE_LAWS, judge_all

__all__ = [
    "MODEL_LAWS",
    "OBJECTIVE_LAWS",
    "Law",
    "LawBroken",
    "ModelSubject",
    "ObjectiveSubject",
    "Verdict",
    "judge_all",
]

"""Laws: properties that every objective and every model must have. `elbo-bench check` tests them."""

from elbo_bench.conformance.law import Law, LawBroken, LawSkipped, Verdict
from elbo_bench.conformance.model_subject import ModelSubject
from elbo_bench.conformance.objective_subject import ObjectiveSubject
from elbo_bench.conformance.suite import MODEL_LAWS, OBJECTIVE_LAWS, judge_all

__all__ = [
    "MODEL_LAWS",
    "OBJECTIVE_LAWS",
    "Law",
    "LawBroken",
    "LawSkipped",
    "ModelSubject",
    "ObjectiveSubject",
    "Verdict",
    "judge_all",
]

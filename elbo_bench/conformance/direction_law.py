"""The law of bounds: where the mean of an objective's values lies beside log p(x)."""

import torch
from torch import Tensor

from elbo_bench.conformance.cases import Case
from elbo_bench.conformance.law import Law
from elbo_bench.conformance.mean_test import require_mean, require_mean_at_most
from elbo_bench.conformance.objective_subject import ObjectiveSubject


def _applies(subject: ObjectiveSubject) -> str | None:
    if subject.objective.direction == "none":
        return "it says that it is no bound"
    return "its rows are not independent" if subject.objective.scope == "batch" else None


def _excess(subject: ObjectiveSubject, case: Case) -> Tensor:
    """Return how far each value lies above log p(x), `[R]`."""
    rows, index = subject.replicated(case)
    with torch.no_grad():
        return subject.value(subject.draws(rows)) - case.log_p_x()[index]


def _check(subject: ObjectiveSubject) -> str:
    direction, seen = subject.objective.direction, []
    # At the posterior a lower bound has no slack that could hide an error.
    for where, case in (("off the posterior", subject.case), ("at the posterior", subject.case.at_posterior())):
        excess = _excess(subject, case)
        if direction == "unbiased":
            smallest = require_mean(excess, 0.0, f"{where} it is not log p(x)")
        else:
            side, name = (1, "above") if direction == "lower" else (-1, "below")
            smallest = require_mean_at_most(side * excess, 0.0, f"{where} it lies {name} log p(x)")
        seen.append(smallest)
    return f"sees {seen[0]:.2g} nats, at the posterior {seen[1]:.2g}, in {len(excess)} values"


DIRECTION_LAWS = (
    Law(
        name="its mean lies where its direction says",
        source="what `direction` declares, objectives/base.py",
        check=_check,
        applies=_applies,
    ),
)

"""`evaluation=importance`: log p(x), every bound and every gap, on a set of examples."""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from elbo_bench.draws import LatentVariableModel
from elbo_bench.errors import in_a_line
from elbo_bench.evaluation.blocks import evaluating, placement, score_examples
from elbo_bench.evaluation.estimate import Estimate, Scores
from elbo_bench.evaluation.evaluator import Bound, Evaluation, Request, ScoredBound, Tier
from elbo_bench.evaluation.exact.log_p_x import Exact, exact_log_p_x
from elbo_bench.evaluation.importance_sampling.active_units import (
    active,
    active_unit_metrics,
    latent_layers,
    variance_of_mean,
)
from elbo_bench.evaluation.importance_sampling.choice import check_proposal
from elbo_bench.evaluation.importance_sampling.encoder_pass import Drawable, curve_sizes
from elbo_bench.evaluation.importance_sampling.enumerated import check_enumerable, is_enumerated
from elbo_bench.evaluation.importance_sampling.keys import ImportanceKeys
from elbo_bench.evaluation.importance_sampling.proposals import NAMES
from elbo_bench.evaluation.importance_sampling.sampler import ImportanceSampler
from elbo_bench.evaluation.metrics import ess_metric, exact_mean, mean_metrics, passes_gate, weight_diagnostics
from elbo_bench.metric import Metric

_MISSED_SHARE = 0.01
"""Share of passing examples whose estimate may have missed a mode; measured: 1 of 300."""
_LABELS = {
    "log_px_is": "log p(x), by importance sampling instead",
    "elbo_analytic": "ELBO, with the rate in closed form",
    "elbo_mc": "ELBO, by Monte Carlo",
    "elbo_gap": "ELBO gap: log p(x) - ELBO, in expectation KL(q(z|x) || p(z|x))",
    "bound": "the bound that the run was trained with",
    "bound_gap": "log p(x) - the bound that the run was trained with",
    "rate": "rate: KL(q(z|x) || p(z))",
    "distortion": "distortion: -E_q[log p(x|z)]",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Importance(ImportanceKeys):
    """Estimates log p(x) by importance sampling, and the gap between log p(x) and each bound.

    The estimate is a stochastic lower bound: a gap measured against it is too small. Where log p(x) can be computed
    exactly, it is, and the estimate is reported too. The attributes are those of `ImportanceKeys`.
    """

    ends_training: ClassVar[bool] = True

    def check(self, request: Request) -> None:
        """Refuse a bound that does not fit twice into K samples, or that is no bound of one example.

        Raises:
            ValueError: Its error needs two values of it, or its value depends on the other examples of the batch.
        """
        for each in request.scored_bounds():
            if getattr(each.bound, "scope", "example") == "batch":
                raise ValueError(
                    f"bounds: {each.name} depends on all examples of its batch, and examples are scored in blocks; "
                    "remove it"
                )
            required = each.bound.samples_required
            if 2 * required > self.num_samples and not is_enumerated(each.bound):
                whose = "the objective trained with" if each.bound is request.trained_with else each.name
                raise ValueError(
                    f"num_samples={self.num_samples} is too few for {whose} ({required} a value, "
                    f"and its error takes two values): at least {2 * required}"
                )

    def evaluate(
        self, model: LatentVariableModel | Drawable, x: Shaped[Tensor, "N *data"], request: Request
    ) -> Evaluation:
        """Score the examples."""
        self.check(request)
        bounds = request.scored_bounds()
        self._check_model(model, x, bounds)
        sampler = ImportanceSampler(self, bounds, request.seed)
        scores = score_examples(self, model, x, request, score=sampler.score)
        posterior_mean = scores.columns.pop("posterior_mean", None)
        notes = _fit_notes(scores.columns.pop("fit_problem"))
        passing = _passing(scores, scores.estimates["log_px"])
        diagnostics = self._diagnostics(scores, passing)
        cost = int(scores.columns["decoded"].sum())
        tier: Tier = "importance" if bool(passing.all()) else "lower-bound-only"
        estimator = f"importance sampling, proposal={self.proposal}"
        exact = None
        if self.truth == "auto":
            try:
                exact = exact_log_p_x(self, model, x, request)
            except Exception as error:  # a user's model may raise anything, and the estimate stands without it
                notes.append(f"no exact log p(x): {in_a_line(error)}")
        if exact is not None and bool((contradicting := contradicted(scores, exact, passing)).any()):
            diagnostics["exact_contradicted"] = scores.columns["id"][contradicting].tolist()
            notes.append(f"no exact log p(x): estimates of {int(contradicting.sum())} examples contradict it")
        elif exact is not None:
            diagnostics["exact"] = self._set_exact(scores, exact, passing, bounds)
            tier, estimator, cost = "exact", exact.method, cost + exact.decoder_evaluations
        metrics = self._metrics(scores, f"log p(x): {estimator}", bounds)
        try:
            metrics |= _active_units(posterior_mean, model)
        except Exception as error:  # the layers that a user's model names
            notes.append(f"no active units: {in_a_line(error)}")
        diagnostics |= {"notes": notes} if notes else {}
        return Evaluation(scores, metrics, tier, estimator, diagnostics, cost)

    @torch.no_grad()
    def _check_model(self, model: object, x: Shaped[Tensor, "N *data"], bounds: Sequence[ScoredBound]) -> None:
        if not len(x):
            return
        one = x[:1].to(*placement(model, x))
        with evaluating(model):
            check_enumerable(model, one, bounds)
            if isinstance(model, LatentVariableModel):
                check_proposal(model.posterior(one), self)

    def _set_exact(
        self, scores: Scores, exact: Exact, passing: Bool[np.ndarray, " N"], bounds: Sequence[ScoredBound]
    ) -> dict[str, Any]:
        """Replace the estimates by exact values and keep them as `log_px_is`; return how good they were."""
        estimates, truth, largest = scores.estimates, exact.log_px, f"L_{self.num_samples}"
        estimates |= {"log_px_is": estimates["log_px"], "log_px": truth}
        for bound, gap in (("elbo_mc", "elbo_gap"), *((each.estimate, each.gap) for each in bounds)):
            value = estimates[bound]
            estimates[gap] = Estimate(truth.value - value.value, np.hypot(truth.se_mc, value.se_mc))
        elbo, short = estimates["elbo_mc"].value, estimates["elbo_gap"].value
        means = {"mean": exact_mean(elbo), "short_mean": exact_mean(short), "short_max": float(short.max())}
        ids = scores.columns["id"]
        return {
            "method": exact.method,
            "error_max": float(truth.se_mc.max()),
            "log_px_is": _accuracy(estimates["log_px_is"], truth, passing, ids),
            largest: _accuracy(estimates[largest], truth, _passing(scores, estimates[largest], "encoder_"), ids),
            "elbo_mc": means if np.isfinite(elbo).all() else None,
        }

    def _metrics(self, scores: Scores, log_px_label: str, bounds: Sequence[ScoredBound]) -> dict[str, Metric]:
        labels = {"log_px": log_px_label}
        labels |= {each.estimate: f"the bound {each.name}" for each in bounds}
        labels |= {each.gap: f"log p(x) - the bound {each.name}" for each in bounds}
        sizes = (*curve_sizes(self.num_samples), self.num_samples)
        labels |= {f"L_{k}": f"L_{k}: the bound of {k} samples of the encoder's q(z|x)" for k in sizes}
        low = {"log_px", "elbo_gap", *(each.gap for each in bounds)}
        return mean_metrics(scores, labels | _LABELS, low) | {"ess": ess_metric(scores.columns)}

    def _diagnostics(self, scores: Scores, passing: Bool[np.ndarray, " N"]) -> dict[str, Any]:
        columns, error = scores.columns, scores.estimates["log_px"].se_mc
        infinite = {name: int(np.isneginf(each.value).sum()) for name, each in scores.estimates.items()}
        at_ceiling = {} if self.target_se is None else {"share_at_ceiling": float((error > self.target_se).mean())}
        return {
            "num_samples": self.num_samples,
            "share_passing": float(passing.mean()),
            "proposals": {name: float((columns["proposal"] == index).mean()) for index, name in enumerate(NAMES)},
            # Number of examples whose estimate is -inf, since a log-weight is; the estimate then has no mean.
            "minus_infinity": {name: count for name, count in infinite.items() if count},
            **weight_diagnostics(columns),
            "largest_weight_max": float(columns["largest_weight"].max()),
            "log_px_bias": exact_mean(columns["log_px_bias"]),
            "samples_mean": exact_mean(columns["decoded"]),
            **at_ceiling,
        }


def evaluate(
    model: LatentVariableModel | Drawable,
    x: Shaped[Tensor, "N *data"],
    *,
    seed: int = 0,
    bounds: Mapping[str, Bound] | None = None,
    ids: Int[Tensor, " N"] | None = None,
    progress: Callable[[int, int], None] | None = None,
    **keys: Any,
) -> Evaluation:
    """Estimate log p(x), every bound and every gap of a model, as `evaluation=importance` does.

    Args:
        model: An object with `posterior`, `prior` and `likelihood`. If it has only `draw`, its own samples are used.
        x: The examples.
        seed: Seed of the random numbers.
        bounds: Further bounds by name; each must fit twice into K samples. The estimates of a bound `x` are `bounds/x`
            and `gaps/x`.
        ids: Number of each example in its data set; 0 .. N-1 if None.
        progress: Called with (blocks done, blocks of this process).
        keys: Keys of `Importance`: `num_samples`, `proposal`, ...

    Returns:
        The evaluation: the same bytes on every process, for any number of processes and threads.

    Raises:
        ValueError: There are no examples, a key is wrong, or a bound needs more than K/2 samples.
        RunFailedError: A log-weight is NaN or +inf, or an estimate is not finite; the line names the example.
    """
    return Importance(**keys).evaluate(model, x, Request(seed=seed, ids=ids, bounds=bounds or {}, progress=progress))


def contradicted(scores: Scores, exact: Exact, passing: Bool[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
    """Return the examples whose estimate of log p(x) contradicts the exact value.

    An estimate is biased low, so one that lies clearly above the exact value contradicts it. One that lies clearly
    below and passes the gate either missed a mode, which the gate lets through in fewer than one of a hundred
    examples, or the exact value is too high. Examples below therefore count only if they are more than that.
    """
    estimate = scores.estimates["log_px"]
    difference = estimate.value - exact.log_px.value
    clearly = 5 * np.hypot(estimate.se_mc, exact.log_px.se_mc) + 1e-3
    above: np.ndarray = difference > clearly
    below: np.ndarray = passing & (difference < -clearly)
    return above | below if below.sum() > _MISSED_SHARE * passing.sum() else above


def _passing(scores: Scores, estimate: Estimate, whose: str = "") -> Bool[np.ndarray, " N"]:
    """Return which examples pass the gate by an estimate; `whose` is `encoder_` for the encoder's own."""
    columns = scores.columns
    missed, errors = columns.get(f"{whose}missed"), columns.get(f"{whose}missed_errors")
    return passes_gate(estimate.se_mc, columns[f"{whose}pareto_k"], missed, errors)


def _accuracy(
    estimate: Estimate, truth: Estimate, passing: Bool[np.ndarray, " N"], ids: Int[np.ndarray, " N"]
) -> dict[str, Any]:
    """Return how far an estimate of log p(x) lies below the exact values, and whether the gate noticed errors."""
    short = truth.value - estimate.value
    error = np.hypot(estimate.se_mc, truth.se_mc)
    wrong = np.abs(short) > np.maximum(4 * error, 0.25)
    return {
        "mean": exact_mean(estimate.value),
        "short_mean": exact_mean(short),
        "short_max": float(short.max()),
        "absolute_mean": exact_mean(np.abs(short)),
        "share_passing": float(passing.mean()),
        "coverage_where_passing": float((np.abs(short) <= 1.96 * error)[passing].mean()) if passing.any() else None,
        "wrong": int(wrong.sum()),
        "wrong_and_passing": [int(number) for number in ids[wrong & passing]],
    }


def _active_units(posterior_mean: np.ndarray | None, model: object) -> dict[str, Metric]:
    if posterior_mean is None:
        return {}
    layers = latent_layers(model, posterior_mean.shape[-1])
    return active_unit_metrics(active(variance_of_mean(posterior_mean)[0]), layers, len(posterior_mean))


def _fit_notes(problems: np.ndarray) -> list[str]:
    """Return a note for each reason why no proposal could be fitted."""
    found = collections.Counter(problems.tolist())
    return [
        f"no fitted proposal for {count} of {len(problems)} examples: {problem}"
        for problem, count in sorted(found.items())
        if problem
    ]

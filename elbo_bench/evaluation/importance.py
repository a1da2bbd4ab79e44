"""`evaluation=importance`: a model's log p(x), every bound and every gap, on a set of examples."""

import collections
import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped
from pydantic import Field, PositiveInt
from torch import Tensor

from elbo_bench.draws import LatentVariableModel
from elbo_bench.errors import in_a_line
from elbo_bench.evaluation.active_units import active, active_unit_metrics, latent_layers, variance_of_mean
from elbo_bench.evaluation.blocks import evaluating, placement, score_examples
from elbo_bench.evaluation.choice import check_proposal, num_pilot
from elbo_bench.evaluation.encoder_pass import Drawable
from elbo_bench.evaluation.enumerated import check_enumerable, is_enumerated
from elbo_bench.evaluation.evaluator import Bound, Evaluation, Evaluator, Request, Tier
from elbo_bench.evaluation.exact import Exact, exact_log_p_x
from elbo_bench.evaluation.metrics import exact_mean, means, passes, plain_metric, trusted, weight_diagnostics
from elbo_bench.evaluation.proposals import NAMES
from elbo_bench.evaluation.sampler import ImportanceSampler, ceiling

_MISSED_SHARE = 0.01
"""Share of passing examples whose estimate may have missed a mode; measured: 1 of 300."""
_OWN = re.compile(
    r"id|elbo|elbo_mc|elbo_analytic|rate|distortion|ess|pareto_k|largest_weight|missed|missed_errors|proposal|decoded"
    r"|posterior_mean|fit_problem|nan|infinite|zero|bits_per_dim|kl_from_truth|active_units.*|log_px.*|encoder_.*|L_\d+"
    r"|.*_gap|.*_se"
)
"""Names that a bound cannot have: its columns would take the place of the evaluation's own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Importance(Evaluator):
    """Estimates log p(x) by importance sampling, and how far each bound lies below it.

    The estimate is a stochastic lower bound: a gap measured against it understates the true gap. Where log p(x) can be
    computed exactly it is, and the estimate stands beside it.

    Attributes:
        num_samples: Samples of q(z|x) for each example, K.
        proposal: What log p(x) is estimated by: the encoder's q(z|x); q widened; a mixture of that with the prior;
            normal distributions fitted to each example's posterior; or the best of these for each example by a pilot.
            The bounds and the curve L_1 ... L_K are always those of q(z|x).
        widening: How much wider than q a widened proposal is; None is 1 + 2 sqrt(2/D) for D latent dimensions.
        prior_share: Share of the prior in a mixture.
        pilot_share: Samples of the pilot as a share of K. It chooses, feeds the fit, and gives a second opinion; its
            draws are in no estimate. 0 leaves it out.
        target_se: Standard error of log p(x) at which an example has had enough samples, in nats; None draws K.
        max_samples: Samples at which an example gets no more; None is 100 K.
        truth: Whether log p(x) is computed exactly where there is a way, or estimated everywhere.
        chunk_size: Samples decoded at once for a block; memory grows with it and not with `num_samples`.
    """

    num_samples: Annotated[int, Field(ge=2)] = 5000
    proposal: Literal["encoder", "widened", "mixture", "refined", "auto"] = "auto"
    widening: Annotated[float, Field(gt=0)] | None = None
    prior_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    pilot_share: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    target_se: Annotated[float, Field(gt=0)] | None = None
    max_samples: PositiveInt | None = None
    truth: Literal["auto", "importance"] = "auto"
    chunk_size: PositiveInt = 64

    ranks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.proposal in ("auto", "refined") and not self.pilot_share:
            raise ValueError(f"pilot_share=0: proposal={self.proposal} goes by a pilot; did you mean proposal=encoder?")
        if self.max_samples is not None and self.target_se is None:
            raise ValueError(f"max_samples={self.max_samples}: it is the ceiling of target_se, which is not set")

    @property
    def samples(self) -> int:
        """K."""
        return self.num_samples

    def check(self, bounds: Mapping[str, Bound]) -> None:
        """Refuse a bound that does not fit twice into K samples, or that is no bound of one example.

        Raises:
            ValueError: Its error needs two values of it; or its value depends on the examples beside it.
        """
        for name, bound in bounds.items():
            if _OWN.fullmatch(name):
                raise ValueError(f"bounds: {name} is the name of a column of the evaluation itself; take another name")
            if getattr(bound, "scope", "example") == "batch":
                raise ValueError(
                    f"bounds: {name} depends on its whole batch, and examples are scored in blocks; leave it out"
                )
            if 2 * bound.samples_required > self.num_samples and not is_enumerated(bound):
                whose = "the objective trained with" if name == "bound" else name
                raise ValueError(
                    f"num_samples={self.num_samples} is too few for {whose} ({bound.samples_required} a value, "
                    f"and its error takes two values): at least {2 * bound.samples_required}"
                )

    def evaluate(
        self, model: LatentVariableModel | Drawable, x: Shaped[Tensor, "N *data"], request: Request
    ) -> Evaluation:
        """Score the examples."""
        self.check(request.bounds)
        self._check_model(model, x, request.bounds)
        sampler = ImportanceSampler(
            model,
            self.num_samples,
            request.seed,
            self.chunk_size,
            request.bounds,
            self.proposal,
            self.widening,
            self.prior_share,
            self.pilot_share,
            self.target_se,
            ceiling(self.num_samples, self.max_samples, self.target_se),
        )
        examples = score_examples(
            model, x, sampler.score, block_size=self.block_size, workers=self.workers, request=request
        )
        posterior_mean, fit_problems = examples.pop("posterior_mean", None), examples.pop("fit_problem")
        passing = trusted(examples)
        notes = _about_fits(fit_problems)
        diagnostics = _diagnostics(examples, passing, self.num_samples)
        if self.target_se is not None:
            diagnostics["share_at_ceiling"] = float((examples["log_px_se"] > self.target_se).mean())
        cost = int(examples["decoded"].sum())
        tier: Tier = "importance" if bool(passing.all()) else "lower-bound-only"
        estimator = f"importance sampling, proposal={self.proposal}"
        exact = None
        if self.truth == "auto":
            try:
                exact = exact_log_p_x(model, x, workers=self.workers, request=request)
            except Exception as error:  # an extra never costs the estimate, whatever a user's model raises
                notes.append(f"no exact log p(x): {in_a_line(error)}")
        if exact is not None and bool((contradicting := contradicted(examples, exact, passing)).any()):
            diagnostics["exact_contradicted"] = examples["id"][contradicting].tolist()
            notes.append(f"no exact log p(x): estimates of {int(contradicting.sum())} examples contradict it")
        elif exact is not None:
            diagnostics["exact"] = _set_exact(examples, exact, passing, self.num_samples)
            tier, estimator, cost = "exact", exact.method, cost + exact.decoder_evaluations
        metrics = _metrics(examples)
        try:
            metrics |= _active_units(posterior_mean, model)
        except Exception as error:  # the layers that a user's model names
            notes.append(f"no active units: {in_a_line(error)}")
        return Evaluation(
            examples=examples,
            metrics=metrics,
            tier=tier,
            estimator=estimator,
            diagnostics=diagnostics | ({"notes": notes} if notes else {}),
            decoder_evaluations=cost,
        )

    @torch.no_grad()
    def _check_model(self, model: object, x: Shaped[Tensor, "N *data"], bounds: Mapping[str, Bound]) -> None:
        if not len(x):
            return
        one = x[:1].to(*placement(model, x))
        with evaluating(model):
            check_enumerable(model, one, bounds)
            if not isinstance(model, LatentVariableModel):
                return
            posterior = model.posterior(one)
        check_proposal(posterior, self.proposal, self.num_samples, num_pilot(self.num_samples, self.pilot_share))


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
    """Estimate log p(x), every bound and every gap of a model: `evaluation=importance` from Python.

    Args:
        model: Anything with `posterior`, `prior` and `likelihood`; what has only `draw` gets importance sampling by
            its own samples.
        x: The examples.
        seed: Seed of the random numbers.
        bounds: Further bounds, by the name that their columns get; each must fit twice into K samples.
        ids: Number of each example in its data set; 0 .. N-1 if None.
        progress: Called with (blocks done, blocks of this rank).
        keys: Keys of `Importance`: `num_samples`, `proposal`, ...

    Returns:
        The same on every rank, and the same bytes on any number of ranks and threads.

    Raises:
        ValueError: There are no examples, a key is wrong, or a bound needs more than K/2 samples.
        RunFailedError: A log-weight is NaN or +inf, or an estimate is not finite; the line names the example.
    """
    return Importance(**keys).evaluate(model, x, Request(seed=seed, ids=ids, bounds=bounds or {}, progress=progress))


def contradicted(
    examples: Mapping[str, np.ndarray], exact: Exact, passing: Bool[np.ndarray, " N"]
) -> Bool[np.ndarray, " N"]:
    """Return where estimates of log p(x) show that what should be exact is not.

    An estimate is biased low. One that lies clearly above the exact value contradicts it. One that lies clearly below
    and passes the gate is either wrong itself, since it missed a mode, which the gate lets through in fewer than one of
    a hundred examples; or the exact value is too high. So examples below count only where they are more than that.
    """
    error = np.hypot(examples["log_px_se"], exact.error)
    difference = examples["log_px"] - exact.log_px
    above: np.ndarray = difference > 5 * error + 1e-3
    below: np.ndarray = passing & (difference < -(5 * error + 1e-3))
    return above | below if below.sum() > _MISSED_SHARE * passing.sum() else above


def _set_exact(
    examples: dict[str, np.ndarray], exact: Exact, passing: Bool[np.ndarray, " N"], num_samples: int
) -> dict[str, Any]:
    """Put exact values in the place of the estimates, which stay under `log_px_is`; return how good these were."""
    estimate, error = examples["log_px"], examples["log_px_se"]
    examples |= {"log_px_is": estimate, "log_px_is_se": error, "log_px": exact.log_px, "log_px_se": exact.error}
    for gap in [name for name in examples if name.endswith("_gap")]:
        bound = gap.removesuffix("_gap") if gap != "elbo_gap" else "elbo_mc"
        examples[gap] = exact.log_px - examples[bound]
        examples[f"{gap}_se"] = np.hypot(exact.error, examples[f"{bound}_se"])
    whole = f"L_{num_samples}"
    by_encoder = passes(examples, whole, "encoder_")
    return {
        "method": exact.method,
        "error_max": float(exact.error.max()),
        "log_px_is": _beside(examples, "log_px_is", passing),
        whole: _beside(examples, whole, by_encoder),
        "elbo_mc": {
            "mean": exact_mean(examples["elbo_mc"]),
            "short_mean": exact_mean(examples["elbo_gap"]),
            "short_max": float(examples["elbo_gap"].max()),
        }
        if np.isfinite(examples["elbo_mc"]).all()
        else None,
    }


def _beside(examples: Mapping[str, np.ndarray], name: str, passing: Bool[np.ndarray, " N"]) -> dict[str, Any]:
    """Return how good an estimate is where log p(x) is known: how far it lies below, and whether its gate noticed."""
    short = examples["log_px"] - examples[name]
    error = np.hypot(examples[f"{name}_se"], examples["log_px_se"])
    wrong = np.abs(short) > np.maximum(4 * error, 0.25)
    return {
        "mean": exact_mean(examples[name]),
        "short_mean": exact_mean(short),
        "short_max": float(short.max()),
        "absolute_mean": exact_mean(np.abs(short)),
        "share_passing": float(passing.mean()),
        "coverage_where_passing": float((np.abs(short) <= 1.96 * error)[passing].mean()) if passing.any() else None,
        "wrong": int(wrong.sum()),
        "wrong_and_passing": [int(number) for number in examples["id"][wrong & passing]],
    }


def _metrics(examples: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    ess = plain_metric(exact_mean(examples["ess"]), len(examples["id"]), "samples")
    return means(examples) | {"ess": ess}


def _active_units(posterior_mean: np.ndarray | None, model: object) -> dict[str, dict[str, Any]]:
    if posterior_mean is None:
        return {}
    layers = latent_layers(model, posterior_mean.shape[-1])
    return active_unit_metrics(active(variance_of_mean(posterior_mean)[0]), layers, len(posterior_mean))


def _about_fits(problems: np.ndarray) -> list[str]:
    """Return a note for each reason why no proposal could be fitted."""
    found = collections.Counter(problems.tolist())
    return [
        f"no fitted proposal for {count} of {len(problems)} examples: {problem}"
        for problem, count in sorted(found.items())
        if problem
    ]


def _diagnostics(
    examples: Mapping[str, np.ndarray], passing: Bool[np.ndarray, " N"], num_samples: int
) -> dict[str, Any]:
    minus_infinity = {name: int(np.isneginf(column).sum()) for name, column in examples.items()}
    return {
        "num_samples": num_samples,
        "share_passing": float(passing.mean()),
        "proposals": {name: float((examples["proposal"] == index).mean()) for index, name in enumerate(NAMES)},
        # Examples by estimate that is -inf there, and so has no mean: a log-weight was.
        "minus_infinity": {name: count for name, count in minus_infinity.items() if count},
        **weight_diagnostics(examples),
        "largest_weight_max": float(examples["largest_weight"].max()),
        "log_px_bias": exact_mean(examples["log_px_bias"]),
        "samples_mean": exact_mean(examples["decoded"]),
    }

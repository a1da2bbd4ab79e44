"""`evaluation=importance`: a model's log p(x), every bound and every gap, on a set of examples."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor

from elbo_bench.draws import LatentVariableModel
from elbo_bench.evaluation.blocks import score_examples
from elbo_bench.evaluation.evaluator import Bound, Evaluation, Evaluator, Request
from elbo_bench.evaluation.metrics import exact_mean, mean_over_examples, plain_metric, trusted
from elbo_bench.evaluation.sampler import ImportanceSampler

ACTIVE_UNIT_LIMIT = 0.01
"""A latent is active if its posterior mean varies by more than this over x (Burda et al., 2016, section 5.2)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Importance(Evaluator):
    """Estimates log p(x) by importance sampling, and how far each bound lies below it.

    The estimate is a stochastic lower bound: a gap measured against it understates the true gap.

    Attributes:
        num_samples: Samples of q(z|x) for each example, K.
        chunk_size: Samples decoded at once for a block; memory grows with it and not with `num_samples`.
    """

    num_samples: Annotated[int, Field(ge=2)] = 5000
    chunk_size: PositiveInt = 64

    ranks: ClassVar[bool] = True

    @property
    def samples(self) -> int:
        """K."""
        return self.num_samples

    def check(self, bounds: Mapping[str, Bound]) -> None:
        """Refuse a bound that does not fit twice into K samples.

        Raises:
            ValueError: One does not: its error needs two values of it.
        """
        for name, bound in bounds.items():
            if 2 * bound.samples_required > self.num_samples:
                raise ValueError(
                    f"num_samples={self.num_samples} is too few: {name} takes {bound.samples_required} samples, and "
                    f"its error needs two values of it, {2 * bound.samples_required}"
                )

    def evaluate(self, model: LatentVariableModel, x: Float[Tensor, "N *data"], request: Request) -> Evaluation:
        """Score the examples."""
        self.check(request.bounds)
        sampler = ImportanceSampler(model, self.num_samples, request.seed, self.chunk_size, request.bounds)
        examples = score_examples(
            model, x, sampler.score, block_size=self.block_size, workers=self.workers, request=request
        )
        posterior_mean = examples.pop("posterior_mean", None)
        return Evaluation(
            examples=examples,
            metrics=_metrics(examples, posterior_mean),
            tier="importance" if bool(trusted(examples).all()) else "lower-bound-only",
            estimator="importance",
            diagnostics=_diagnostics(examples, self.num_samples),
            decoder_evaluations=self.num_samples * len(x),
        )


def evaluate(
    model: LatentVariableModel,
    x: Float[Tensor, "N *data"],
    *,
    seed: int = 0,
    bounds: Mapping[str, Bound] | None = None,
    ids: Int[Tensor, " N"] | None = None,
    progress: Callable[[int, int], None] | None = None,
    **keys: Any,
) -> Evaluation:
    """Estimate log p(x), every bound and every gap of a model: `evaluation=importance` from Python.

    Args:
        model: Anything with `posterior`, `prior` and `likelihood`.
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


def _metrics(examples: Mapping[str, np.ndarray], posterior_mean: np.ndarray | None) -> dict[str, dict[str, Any]]:
    metrics: dict[str, dict[str, Any]] = {}
    for name, values in examples.items():
        if f"{name}_se" in examples and np.isfinite(values).all():
            metrics[name] = mean_over_examples(values, examples[f"{name}_se"])
    count = len(examples["id"])
    metrics["ess"] = plain_metric(exact_mean(examples["ess"]), count, "samples")
    if posterior_mean is not None:
        active = int((posterior_mean.var(0) > ACTIVE_UNIT_LIMIT).sum())
        metrics["active_units"] = plain_metric(active, count, "dimensions")
    return metrics


def _diagnostics(examples: Mapping[str, np.ndarray], num_samples: int) -> dict[str, Any]:
    k_hat = examples["pareto_k"]
    exists = k_hat[np.isfinite(k_hat)]
    return {
        "num_samples": num_samples,
        "share_passing": float(trusted(examples).mean()),
        "pareto_k_max": float(exists.max()) if len(exists) else None,
        "pareto_k_median": float(np.median(exists)) if len(exists) else None,
        "ess_min": float(examples["ess"].min()),
        "ess_median": float(np.median(examples["ess"])),
        "log_px_bias": exact_mean(examples["log_px_bias"]),
    }

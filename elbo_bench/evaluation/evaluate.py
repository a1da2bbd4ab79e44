"""One evaluator for every run: the model's log p(x), every bound and every gap, on a set of examples."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from elbo_bench.draws import LatentVariableModel
from elbo_bench.errors import RunFailedError
from elbo_bench.evaluation.blocks import Rows, compute_blocks, default_workers
from elbo_bench.evaluation.importance import Bound, ImportanceSampler

PARETO_K_LIMIT = 0.7
"""Above it the mean of the weights is not to be trusted (Vehtari et al., 2024)."""
BIAS_LIMIT = 0.25
"""Largest |bias| / SE at which a 95 % interval still covers: k-hat alone misses it."""
ACTIVE_UNIT_LIMIT = 0.01
"""A latent is active if its posterior mean varies by more than this over x (Burda et al., 2016, section 5.2)."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        examples: One row an example: `id`, and each estimate with its Monte Carlo error in `<name>_se`.
        metrics: Means over the examples: `{name: {value, se, se_mc, n, unit}}`. `se` is the standard error over the
            finite set of examples, `se_mc` the part of it that more samples would remove.
        tier: What the estimate of log p(x) stands on.
        diagnostics: How much of it can be trusted.
        decoder_evaluations: Latents decoded.
    """

    examples: dict[str, np.ndarray]
    metrics: dict[str, dict[str, Any]]
    tier: Literal["importance", "lower-bound-only"]
    diagnostics: dict[str, Any]
    decoder_evaluations: int


def evaluate(
    model: LatentVariableModel,
    x: Float[Tensor, "N *data"],
    *,
    num_samples: int = 5000,
    seed: int = 0,
    bounds: Mapping[str, Bound] | None = None,
    ids: Int[Tensor, " N"] | None = None,
    block_size: int = 32,
    chunk_size: int = 64,
    workers: int | Literal["auto"] = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Estimate log p(x) by importance sampling, and how far each bound lies below it.

    The estimate is a stochastic lower bound: a gap measured against it understates the true gap.

    Args:
        model: Anything with `posterior`, `prior` and `likelihood`.
        x: The examples.
        num_samples: Samples of q(z|x) for each example, K.
        seed: Seed of the random numbers.
        bounds: Further bounds, by the name that their columns get; each must fit twice into K samples.
        ids: Number of each example in its data set; 0 .. N-1 if None.
        block_size: Examples in a block, the unit of work.
        chunk_size: Samples decoded at once.
        workers: Threads, each on one core.
        progress: Called with (blocks done, blocks of this rank).

    Returns:
        The same on every rank, and the same bytes on any number of ranks and threads.

    Raises:
        ValueError: There are no examples, or a bound needs more than K/2 samples.
        RunFailedError: A log-weight is NaN or +inf, or an estimate is not finite; the line names the example.
    """
    bounds = dict(bounds or {})
    for name, bound in bounds.items():
        if 2 * bound.samples_required > num_samples:
            raise ValueError(
                f"num_samples={num_samples} is too few: {name} takes {bound.samples_required} samples, and its error "
                f"needs two values of it, {2 * bound.samples_required}"
            )
    if not len(x):
        raise ValueError("there is no example to score")
    device, dtype = _placement(model, x)
    sampler = ImportanceSampler(model, num_samples, seed, chunk_size, bounds)
    num_blocks = math.ceil(len(x) / block_size)
    numbers = np.arange(len(x)) if ids is None else ids.cpu().numpy()

    def compute(block: int) -> Rows:
        inside = torch.arange(block * block_size, (block + 1) * block_size).clamp(max=len(x) - 1)
        kept = min(block_size, len(x) - block * block_size)
        rows = sampler.score(x[inside.to(x.device)].to(device, dtype), block)
        rows = {name: column[:kept] for name, column in rows.items()}
        first = block * block_size
        _refuse_non_finite(rows, numbers[first : first + kept])
        return rows

    with _evaluating(model):
        threads = default_workers(device) if workers == "auto" else workers
        blocks = compute_blocks(compute, num_blocks, workers=threads, progress=progress)
    rows = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    posterior_mean = rows.pop("posterior_mean", None)
    examples = {"id": numbers.astype(np.int64), **{name: rows[name] for name in rows if name not in _FLAGS}}
    return Evaluation(
        examples=examples,
        metrics=_metrics(examples, posterior_mean),
        tier="importance" if bool(trusted(examples).all()) else "lower-bound-only",
        diagnostics=_diagnostics(examples, num_samples),
        decoder_evaluations=num_samples * len(x),
    )


_FLAGS = ("nan", "infinite")


def _refuse_non_finite(rows: Rows, numbers: np.ndarray) -> None:
    """Fail on the first example whose numbers are not numbers: nothing is filtered, so nothing may pass."""
    # k-hat is NaN where the tail has no shape, and that is no error.
    broken: dict[str, np.ndarray] = {
        name: column if name in _FLAGS else np.asarray(~np.isfinite(column).reshape(len(column), -1).all(1))
        for name, column in rows.items()
        if name != "pareto_k"
    }
    bad = np.asarray(np.stack(list(broken.values())).any(0))
    if not bad.any():
        return
    first = int(np.argmax(bad))
    if rows["nan"][first]:
        what = "a log-weight is NaN"
    elif rows["infinite"][first]:
        what = "a log-weight is +inf"
    elif rows["log_px"][first] == -math.inf:
        what = "every log-weight is -inf"
    else:
        name = next(name for name, column in broken.items() if column[first])
        what = f"{name} is {rows[name][first]}"
    raise RunFailedError(f"example {numbers[first]}: {what}")


def trusted(examples: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return which examples pass the gate: k-hat <= 0.7 and |bias| / SE <= 0.25.

    Weights without spread have no k-hat and need none. The gate is not proof: of examples whose q is far too narrow
    it let through 23 % and 14 % in `tests/test_coverage.py`, as weights that were never drawn cannot be seen. A whole
    evaluation is therefore called `importance` only if every example of it passes.
    """
    error = examples["log_px_se"]
    light_tail = (examples["pareto_k"] <= PARETO_K_LIMIT) | (error < 1e-6)
    passing: np.ndarray = light_tail & (np.abs(examples["log_px_bias"]) <= BIAS_LIMIT * error)
    return passing


def _metrics(examples: Mapping[str, np.ndarray], posterior_mean: np.ndarray | None) -> dict[str, dict[str, Any]]:
    metrics: dict[str, dict[str, Any]] = {}
    for name, values in examples.items():
        if name.endswith("_se") or name in ("id", "pareto_k", "ess", "log_px_bias"):
            continue
        metrics[name] = mean_over_examples(values, examples[f"{name}_se"])
    metrics["ess"] = {"value": _mean(examples["ess"]), "se": None, "se_mc": None, "n": len(values), "unit": "samples"}
    if posterior_mean is not None:
        active = int((posterior_mean.var(0) > ACTIVE_UNIT_LIMIT).sum())
        metrics["active_units"] = {"value": active, "se": None, "se_mc": None, "n": len(values), "unit": "dimensions"}
    return metrics


def mean_over_examples(values: Float[np.ndarray, " N"], errors: Float[np.ndarray, " N"]) -> dict[str, Any]:
    """Return a metric: the mean in nats, its standard error over the examples, and the Monte Carlo part of that.

    Sums are exact (`math.fsum`), so they do not depend on the order of the examples.
    """
    mean, count = _mean(values), len(values)
    squares = math.fsum((value - mean) ** 2 for value in values.tolist())
    se = math.sqrt(squares / (count - 1) / count) if count > 1 else None
    se_mc = math.sqrt(math.fsum(error**2 for error in errors.tolist())) / count
    return {"value": mean, "se": se, "se_mc": se_mc, "n": count, "unit": "nats"}


def _mean(values: np.ndarray) -> float:
    return math.fsum(values.tolist()) / len(values)


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
        "log_px_bias": _mean(examples["log_px_bias"]),
    }


def _placement(model: object, x: Tensor) -> tuple[torch.device, torch.dtype]:
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return (x.device, x.dtype) if parameter is None else (parameter.device, parameter.dtype)


@contextlib.contextmanager
def _evaluating(model: object) -> Iterator[None]:
    """Put the model in evaluation mode and products in full precision; leave both as they were found."""
    modules = [module for module in model.modules() if module.training] if isinstance(model, nn.Module) else []
    precision, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module in modules:
            module.training = True
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = cudnn

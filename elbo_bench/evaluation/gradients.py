"""`evaluation=gradients`: noise, direction and bias of each objective's gradient, on one batch."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Shaped
from pydantic import Field, PositiveInt
from torch import Tensor

from elbo_bench.draws import LatentVariableModel
from elbo_bench.evaluation.blocks import compute_blocks, default_workers, evaluating, placement, single_threaded
from elbo_bench.evaluation.estimate import Columns, Scores
from elbo_bench.evaluation.evaluator import Bound, Evaluation, Evaluator, Request
from elbo_bench.evaluation.finished_blocks import FinishedBlocks
from elbo_bench.evaluation.gradient_lab.estimates import Estimator, GradientBatch, LargeK, has_size
from elbo_bench.evaluation.gradient_lab.moments import NUM_GROUPS, Measured, cosine, measure_group, table_row
from elbo_bench.evaluation.metrics import plain_metric
from elbo_bench.metric import Metric

PARTS = ("encoder", "decoder")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gradients(Evaluator):
    r"""Compares gradient estimators on one batch and one checkpoint, separately for encoder and decoder.

    A gradient is that of the batch's mean value. The encoder's part, phi, is every parameter that q(z|x) depends on,
    the decoder's, theta, every one that p(x|z) or p(z) depends on; a shared one is in both. All estimators see the
    same noise, estimate by estimate, so that differences between them are paired. For each objective, K and part:

    - `variance`: :math:`\sum_j \mathrm{Var}(g_j)`;
    - `snr`: the mean of :math:`|\mathrm{E} g_j| / \mathrm{sd}(g_j)` (Rainforth et al., 2018, "Tighter variational
      bounds are not necessarily better") over the parameters j that vary; R estimates without any signal give
      the `snr_floor` that is reported beside it;
    - `cosine` :math:`\mathrm{E}[g'u/|g|]` and `dsnr` :math:`\mathrm{E}[|g_\parallel| / |g_\perp|]` (the same paper's
      directional SNR), towards the direction u of an oracle; `along` :math:`\mathrm{E}[g'u]`, and `along_snr`, its
      size over the standard deviation of g'u;
    - `bias`, along u, and `bias_random`, along a fixed random direction: the estimator less its reference, with
      z-scores. A reference is one of `references` that has the objective's value on the same draws; its gradient is
      that of its value, so its expectation is the truth. Against itself it shows 0; an objective of a value that no
      reference has shows none;
    - `oracle_bias`: :math:`\mathrm{E}[g'u]` less the oracle's: the bias with respect to log p(x).

    The oracle is the doubly reparameterised gradient of L_K at a large K. Its decoder part tends to the gradient of
    log p(x). Its encoder part tends to zero, as log p(x) does not depend on phi; what is left at a finite K points
    where L_K improves. `agreement`, the cosine between two independent oracles, says how well u is known.

    Attributes:
        objectives: Names of the objectives whose gradients are compared; `"bound"` is the run's own.
        references: Names of objectives whose gradient is that of their value, best first.
        num_samples: K of the objectives that have a field `num_samples`. Others are compared as they are.
        num_replicates: Independent estimates of each gradient, R.
        oracle_samples: K of the oracle.
        oracle_replicates: Estimates that give u. As many others give the oracle's projection on u.
        num_examples: Examples of the batch.
        block_size: Examples decoded at once. An objective with batch scope needs all of them in one block.
    """

    objectives: Annotated[tuple[str, ...], Field(min_length=1)] = ("elbo_mc", "iwae")
    references: tuple[str, ...] = ("elbo_mc", "iwae")
    num_samples: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 8, 64)
    num_replicates: Annotated[int, Field(ge=2 * NUM_GROUPS)] = 100
    oracle_samples: Annotated[int, Field(ge=2)] = 256
    oracle_replicates: Annotated[int, Field(ge=2 * NUM_GROUPS)] = 32
    num_examples: PositiveInt | None = 64

    allows_batch_scope: ClassVar[bool] = True

    @property
    def objective_names(self) -> tuple[str, ...]:
        """The objectives and the references."""
        return tuple(name for name in dict.fromkeys((*self.objectives, *self.references)) if name != "bound")

    @property
    def samples(self) -> int:
        """The largest K."""
        return max(self.num_samples)

    def check(self, request: Request) -> None:
        """Refuse objectives that cannot be compared.

        Raises:
            ValueError: A name is unknown or given twice, or an objective does not allow a K or a block size.
        """
        bounds = _bounds(request)
        for key in ("objectives", "references", "num_samples"):
            values = list(getattr(self, key))
            if len(set(values)) < len(values):
                raise ValueError(f"{key}={values} has an entry twice; name each once")
            missing = [name for name in values if key != "num_samples" and name not in bounds]
            if missing:
                raise ValueError(f"{key} names {missing[0]}, which was not passed in; there are {', '.join(bounds)}")
        self._estimators(bounds)
        if self.num_examples is not None:
            self._check_batch(bounds, self.num_examples)

    def evaluate(self, model: LatentVariableModel, x: Shaped[Tensor, "N *data"], request: Request) -> Evaluation:
        """Estimate the gradients."""
        if not len(x):
            raise ValueError("there is no example to score")
        self.check(request)
        bounds = _bounds(request)
        self._check_batch(bounds, len(x))
        device, dtype = placement(model, x)
        with evaluating(model), single_threaded():
            batch = GradientBatch.of(model, x.to(device, dtype), request.ids, self.block_size)
            estimators = self._estimators(bounds)
            references = {each: batch.reference(each, self._candidates(each, bounds)) for each in estimators}
            needed = dict.fromkeys([*estimators, *(each for each in references.values() if each is not None)])
            bench = _Bench(batch, request, self.workers, num_stages=2 + len(needed))

            oracle, count = Estimator.of("oracle", LargeK(self.oracle_samples), None), self.oracle_replicates
            nowhere = torch.zeros((0, *batch.parts.shape), dtype=torch.float64, device=device)
            towards = bench.run(0, oracle, "gradient-oracle", replicates=range(count), directions=nowhere).mean
            directions = torch.stack([batch.unit(towards.to(device)), batch.unit(batch.random_direction(request.seed))])
            truth = bench.run(1, oracle, "gradient-oracle", replicates=range(count, 2 * count), directions=directions)
            measured = {
                each: bench.run(stage, each, "gradients", replicates=range(self.num_replicates), directions=directions)
                for stage, each in enumerate(needed, start=2)
            }
            rows = self._rows(batch, measured, references, truth)

        parts = dict(zip(PARTS, batch.parts.cpu(), strict=True))
        decoded = sum(each.bound.samples_required for each in needed) * self.num_replicates
        diagnostics = {
            "table": rows,
            "num_replicates": self.num_replicates,
            "num_parameters": {name: int(part.sum()) for name, part in parts.items()}
            | {"shared": int(batch.parts.all(0).sum()), "neither": int((~batch.parts.any(0)).sum())},
            "oracle": {
                "num_samples": self.oracle_samples,
                "num_replicates": count,
                "agreement": {name: cosine(towards[part], truth.mean[part]) for name, part in parts.items()},
                "norm": {name: float(towards[part].norm()) for name, part in parts.items()},
            },
        }
        return Evaluation(
            scores=Scores({}, {"id": batch.numbers.numpy()}),
            metrics=_metrics(rows, self.num_replicates),
            tier="none",
            estimator="gradients",
            diagnostics=diagnostics,
            decoder_evaluations=2 * len(x) * (decoded + 2 * count * self.oracle_samples),
        )

    def _estimators(self, bounds: Mapping[str, Bound]) -> list[Estimator]:
        found: list[Estimator] = []
        for name in self.objectives:
            sizes = self.num_samples if has_size(bounds[name]) else (None,)
            found += [Estimator.of(name, bounds[name], size) for size in sizes]
        return found

    def _candidates(self, estimator: Estimator, bounds: Mapping[str, Bound]) -> list[Estimator]:
        """Return possible references: the estimator if it is one, else all references of as many samples."""
        if estimator.objective in self.references:
            return [estimator]
        count, found = estimator.bound.samples_required, []
        for name in self.references:
            try:
                found.append(Estimator.of(name, bounds[name], count))
            except ValueError:  # it cannot have this K
                continue
        return [each for each in found if each.bound.samples_required == count]

    def _check_batch(self, bounds: Mapping[str, Bound], count: int) -> None:
        for name in (*self.objectives, *self.references):
            if getattr(bounds[name], "scope", "example") == "batch" and self.block_size < count:
                raise ValueError(
                    f"block_size={self.block_size} is too small: {name} needs all {count} examples in one block"
                )

    def _rows(
        self,
        batch: GradientBatch,
        measured: Mapping[Estimator, Measured],
        references: Mapping[Estimator, Estimator | None],
        oracle: Measured,
    ) -> list[dict[str, Any]]:
        """Return the table: a row for each objective, K and part."""
        rounding = float(torch.finfo(batch.x.dtype).eps)
        rows: list[dict[str, Any]] = []
        for estimator, reference in references.items():
            for number, name in enumerate(PARTS):
                part = batch.parts[number].cpu()
                if part.any():
                    against = None if reference is None else measured[reference]
                    numbers = table_row(
                        measured[estimator], number, part, oracle=oracle, reference=against, eps=rounding
                    )
                    row = {"objective": estimator.objective, "num_samples": estimator.num_samples, "part": name}
                    rows.append(row | {"reference": None if reference is None else reference.objective} | numbers)
        return rows


@dataclasses.dataclass(frozen=True)
class _Bench:
    """Draws estimates in groups, which are shared out among processes and threads."""

    batch: GradientBatch
    request: Request
    workers: int | str
    num_stages: int

    def run(self, stage: int, estimator: Estimator, purpose: str, *, replicates: range, directions: Tensor) -> Measured:
        """Return the moments of one estimator, and its projections on each part's directions."""
        request, finished = self.request, FinishedBlocks(self.request.folder)
        threads = default_workers(self.batch.x.device) if isinstance(self.workers, str) else self.workers

        def compute(group: int) -> Columns:
            number = stage * NUM_GROUPS + group
            rows = finished.load(number)
            if rows is None:
                inside = torch.tensor(replicates).tensor_split(NUM_GROUPS)[group].tolist()
                gradients = (self.batch.gradient(estimator, request.seed, purpose, each) for each in inside)
                rows = measure_group(gradients, self.batch.parts, directions)
                finished.save(number, rows)
            return rows

        def progress(done: int, mine: int) -> None:
            if request.progress is not None:
                request.progress(stage * mine + done, self.num_stages * mine)

        return Measured.of(compute_blocks(compute, NUM_GROUPS, workers=threads, progress=progress))


def _bounds(request: Request) -> dict[str, Bound]:
    """Return the objectives by name; `"bound"` is the run's own."""
    return {**request.bounds, **({"bound": request.trained_with} if request.trained_with is not None else {})}


_UNITS = {"variance": "nats²", "along": "nats", "bias": "nats", "bias_random": "nats", "oracle_bias": "nats"}


def _metrics(rows: list[dict[str, Any]], count: int) -> dict[str, Metric]:
    """Return a metric for each number of the table that has an error, and for each z-score."""
    metrics: dict[str, Metric] = {}
    for row in rows:
        for name, value in row.items():
            if value is None or not (f"{name}_se_mc" in row or name.endswith("_z")):
                continue
            error, unit = (
                row.get(f"{name}_se_mc"),
                "standard errors" if name.endswith("_z") else _UNITS.get(name, "ratio"),
            )
            metric = f"{row['objective']}_k{row['num_samples']}/{row['part']}/{name}"
            # The batch is fixed, so all of the error is Monte Carlo error.
            label = f"{name} of the gradient of {row['objective']}, K={row['num_samples']}, {row['part']}"
            metrics[metric] = {**plain_metric(value, count, unit, label), "se_test": error, "se_mc": error}
    return metrics

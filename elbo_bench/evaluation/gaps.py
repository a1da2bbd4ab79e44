"""`evaluation=gaps`: how much of the ELBO gap is the family's fault, and how much the encoder's."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Shaped
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.distributions import Distribution

from elbo_bench.draws import LatentVariableModel, sample, score
from elbo_bench.evaluation.blocks import evaluating, placement, score_examples
from elbo_bench.evaluation.evaluator import Evaluation, Evaluator, Request, Tier
from elbo_bench.evaluation.exact import Exact, exact_log_p_x
from elbo_bench.evaluation.finished_blocks import Rows
from elbo_bench.evaluation.local_posterior import Family, LocalOptimiser, start
from elbo_bench.evaluation.metrics import exact_mean, means, plain_metric, trusted, weight_diagnostics
from elbo_bench.evaluation.pareto import pareto_k, tail_size
from elbo_bench.evaluation.refit import EncoderRefit
from elbo_bench.evaluation.streaming import NonFinite, PairedMoments, TailWeights
from elbo_bench.noise import Noise
from elbo_bench.numerics import log_mean_exp

PARTS = ("approximation_gap", "amortisation_gap")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gaps(Evaluator):
    r"""Splits the ELBO gap of each example in two, by the best member q* of a family of posteriors.

    .. math:: \log p(x) - L[q] = (\log p(x) - L[q^*]) + (L[q^*] - L[q])

    The first part, the approximation gap, is what no encoder can mend; the second, the amortisation gap, is what this
    encoder leaves undone (Cremer, Li & Duvenaud, 2018, "Inference suboptimality in variational autoencoders").
    The search for q* starts at the encoder's q(z|x) and ends at the best member it can climb to: where the
    posterior has several modes there may be a better one elsewhere, and the approximation gap is overstated.

    log p(x) is exact where the model allows it. Elsewhere the encoder, q* and the prior are pooled, always: the
    larger of several estimates, as in the source, is biased upwards. Importance sampling is biased low, and the
    approximation gap with it. An encoder whose q(z|x) is no member of the family can have an amortisation gap below
    zero.

    Attributes:
        num_samples: Samples by which each posterior is scored, K; none of them was used to find q*.
        chunk_size: Samples decoded at once for a block.
        family: What q* is sought in: normals with independent dimensions, or with a full covariance.
        lr: Adam's first step, in standard deviations of the encoder's q(z|x).
        lr_decay: What a window without improvement multiplies the step by.
        step_samples: Samples of a step's gradient, an even number.
        window: Steps whose average is a candidate for q*.
        patience: Windows in a row without improvement after which an example's search ends.
        tolerance: What is no improvement, in nats.
        max_steps: Where a search ends in any case.
        refit_steps: Steps by which a copy of the encoder is tuned on the scored examples, for columns of its own.
        refit_samples: K of the bound that it is tuned by.
        refit_batch_size: Examples of such a step.
        refit_lr: Adam's first step then.
    """

    num_examples: PositiveInt | None = 100
    num_samples: Annotated[int, Field(ge=2)] = 5000
    chunk_size: PositiveInt = 64
    family: Family = "diagonal"
    lr: PositiveFloat = 0.03
    lr_decay: Annotated[float, Field(gt=0, le=1)] = 0.5
    step_samples: Annotated[int, Field(ge=2, multiple_of=2)] = 8
    window: PositiveInt = 100
    patience: PositiveInt = 4
    tolerance: Annotated[float, Field(ge=0)] = 0.001
    max_steps: PositiveInt = 5000
    refit_steps: NonNegativeInt = 0
    refit_samples: PositiveInt = 16
    refit_batch_size: PositiveInt = 32
    refit_lr: PositiveFloat = 0.001

    @property
    def samples(self) -> int:
        """K."""
        return self.num_samples

    def evaluate(self, model: LatentVariableModel, x: Shaped[Tensor, "N *data"], request: Request) -> Evaluation:
        """Score the examples."""
        _check_posterior(model, x)
        exact = _log_p_x(model, x, self.workers, request)
        refit = EncoderRefit(
            steps=self.refit_steps, num_samples=self.refit_samples, batch_size=self.refit_batch_size, lr=self.refit_lr
        )
        refitted = refit.fit(model, x, request) if self.refit_steps else None
        optimiser = LocalOptimiser(
            family=self.family,
            lr=self.lr,
            lr_decay=self.lr_decay,
            step_samples=self.step_samples,
            window=self.window,
            patience=self.patience,
            tolerance=self.tolerance,
            max_steps=self.max_steps,
        )

        @torch.no_grad()  # and no inference mode: q* is found by gradients
        def score_block(x: Tensor, block: int) -> Rows:
            posterior = model.posterior(x)
            local = optimiser.fit(model, x, posterior, request.seed, block)
            proposals: dict[str, Distribution] = {"encoder": posterior, "local": local.posterior}
            if refitted is not None:
                proposals["refit"] = refitted.posterior(x)
            rows = score_posteriors(model, x, proposals, self.num_samples, self.chunk_size, request.seed, block)
            for flag in ("nan", "infinite", "zero"):
                rows[flag] = rows[flag] | getattr(local.broken, flag).cpu().numpy()
            rows["steps"] = local.steps.cpu().numpy()
            rows["decoded"] = np.full(len(x), local.decoder_evaluations + (len(proposals) + 1) * self.num_samples)
            return rows

        rows = score_examples(model, x, score_block, block_size=self.block_size, workers=self.workers, request=request)
        decoder_evaluations = int(rows.pop("decoded").sum())
        if refitted is not None:
            decoder_evaluations += refit.decoder_evaluations(len(x))
        if exact is not None:
            decoder_evaluations += exact.decoder_evaluations
        examples = decompose(rows, exact)
        tier: Tier = "importance" if bool(trusted(examples).all()) else "lower-bound-only"
        return Evaluation(
            examples=examples,
            metrics=_metrics(examples),
            tier="exact" if exact is not None else tier,
            estimator="importance, pooled" if exact is None else exact.method,
            diagnostics=self._diagnostics(examples, exact),
            decoder_evaluations=decoder_evaluations,
        )

    def _diagnostics(self, examples: Mapping[str, np.ndarray], exact: Exact | None) -> dict[str, Any]:
        return {
            "num_samples": self.num_samples,
            "family": self.family,
            "log_px": "encoder, q* and prior pooled" if exact is None else exact.method,
            "share_passing": None if exact is not None else float(trusted(examples).mean()),
            **weight_diagnostics(examples),
            "steps_max": int(examples["steps"].max()),
            "not_converged": int((examples["steps"] >= self.max_steps).sum()),
            **{f"{part}_below_zero": int((examples[part] < -2 * examples[f"{part}_se"]).sum()) for part in PARTS},
        }


def score_posteriors(
    model: LatentVariableModel,
    x: Shaped[Tensor, "B *data"],
    proposals: Mapping[str, Distribution],
    num_samples: int,
    chunk_size: int,
    seed: int,
    block: int,
) -> Rows:
    """Return log p(x) and the ELBO by each posterior, and the errors of their differences, a row an example.

    Posteriors that are transported from noise are scored by the same noise: their differences vary less. `log_px`
    pools the encoder, q* and the prior by the balance heuristic: a sample of any of them is weighed against their
    mixture, so what q* leaves out is still seen, and no weight exceeds 3 p(x|z).

    Args:
        model: The model.
        x: The examples of a block.
        proposals: Posteriors by name; `"encoder"` and `"local"` are among them.
        num_samples: K, of each proposal.
        chunk_size: Samples decoded at once.
        seed: Seed of the random numbers.
        block: Number of the block.
    """
    size, prior = len(x), model.prior()
    pool = [proposals["encoder"], proposals["local"], prior]
    streams = {name: Noise(seed, "gaps-score", block).stream() for name in proposals}
    prior_stream = Noise(seed, "gaps-score-prior", block).stream()
    moments = {name: PairedMoments(size, x.device) for name in (*proposals, "amortisation", "pool to encoder", "pool")}
    tail, broken = TailWeights(tail_size(num_samples) + 1, size, x.device), NonFinite(size, x.device)
    for first in range(0, num_samples, chunk_size):
        count = min(chunk_size, num_samples - first)
        z = {
            name: sample(each, count, streams[name], like=x, reparameterised=False) for name, each in proposals.items()
        }
        of_prior = sample(prior, count * size, prior_stream, like=x, reparameterised=False)
        z["prior"] = of_prior.unflatten(0, (count, size))
        log_w: dict[str, Tensor] = {}
        pooled: list[Tensor] = []
        for name, proposal in {**proposals, "prior": prior}.items():
            draws = score(model, proposal, x, z[name])
            log_joint = draws.log_p_x_given_z.double() + draws.log_p_z.double()
            log_w[name] = log_joint - draws.log_q_z_given_x.double()
            if name != "refit":
                pooled.append(log_joint - log_mean_exp(torch.stack([each.log_prob(z[name]).double() for each in pool])))
        log_px = log_mean_exp(torch.stack(pooled))
        for name in proposals:
            moments[name].update(log_w[name], log_w[name])
            broken.update(log_w[name])
        broken.update(log_px)
        tail.update(log_px)
        moments["pool"].update(log_px, log_w["local"])
        moments["pool to encoder"].update(log_px, log_w["encoder"])
        moments["amortisation"].update(log_px, log_w["local"] - log_w["encoder"])
    columns: dict[str, Tensor] = {}
    for name in ("pool", *proposals):
        log_px_name, elbo = ("log_px" if name == "pool" else f"log_px_{name}"), f"elbo_{name}".removesuffix("_encoder")
        moment = moments[name]
        columns |= {log_px_name: moment.log_mean_weight(), f"{log_px_name}_se": moment.log_mean_weight_se()}
        if name != "pool":
            columns |= {elbo: moment.mean(), f"{elbo}_se": moment.mean_se()}
    columns |= {
        "approximation_gap_se": moments["pool"].gap_se(),
        "amortisation_gap_se": moments["amortisation"].mean_se(),
        "elbo_gap_se": moments["pool to encoder"].gap_se(),
        "ess": moments["pool"].effective_sample_size(),
        "nan": broken.nan,
        "infinite": broken.infinite,
        "zero": broken.zero,
    }
    rows = {name: column.cpu().numpy() for name, column in columns.items()}
    return {**rows, "pareto_k": pareto_k(tail.sorted().cpu().numpy())}


def decompose(rows: Mapping[str, np.ndarray], exact: Exact | None) -> dict[str, np.ndarray]:
    """Return the columns of an evaluation: log p(x), exact or pooled, and the gaps below it.

    The ELBO gap is the sum of its parts to the last bit.
    """
    columns = dict(rows)
    # Second-order bias of the log of a mean (Burda et al., 2016); what is exact has none.
    columns["log_px_bias"] = -0.5 * rows["log_px_se"] ** 2
    if exact is not None:
        columns |= {"log_px_pool": rows["log_px"], "log_px_pool_se": rows["log_px_se"]}
        columns |= {"log_px": exact.log_px, "log_px_se": exact.error, "log_px_bias": np.zeros_like(exact.error)}
        columns["approximation_gap_se"] = np.hypot(rows["elbo_local_se"], exact.error)
        columns["elbo_gap_se"] = np.hypot(rows["elbo_se"], exact.error)
    columns["approximation_gap"] = columns["log_px"] - rows["elbo_local"]
    columns["amortisation_gap"] = rows["elbo_local"] - rows["elbo"]
    columns["elbo_gap"] = columns["approximation_gap"] + columns["amortisation_gap"]
    return columns


def _log_p_x(
    model: LatentVariableModel, x: Shaped[Tensor, "N *data"], workers: int | Literal["auto"], request: Request
) -> Exact | None:
    """Return exact log p(x) of every example, or None where it must be estimated."""
    return exact_log_p_x(model, x, workers=workers, request=dataclasses.replace(request, progress=None))


def _check_posterior(model: LatentVariableModel, x: Shaped[Tensor, "N *data"]) -> None:
    """Find out before anything is computed whether a normal can take the place of the encoder's q(z|x).

    Raises:
        ValueError: It cannot, or there is no encoder or no example.
    """
    if not len(x):
        raise ValueError("there is no example to score")
    if not isinstance(model, LatentVariableModel):
        raise ValueError("a gap is split in two by the model's posterior, prior and likelihood, and one is missing")
    device, dtype = placement(model, x)
    with evaluating(model), torch.no_grad():
        start(model.posterior(x[:1].to(device, dtype)))


def _metrics(examples: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    metrics = means(examples)
    count = len(examples["id"])
    metrics["ess"] = plain_metric(exact_mean(examples["ess"]), count, "samples")
    metrics["steps"] = plain_metric(math.fsum(examples["steps"].tolist()) / count, count, "steps")
    return metrics

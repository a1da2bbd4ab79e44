"""`evaluation=gaps`: the ELBO gap split into the share of the variational family and that of the encoder."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Shaped
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.distributions import Distribution

from elbo_bench.draws import LatentVariableModel, sample, score
from elbo_bench.evaluation.blocks import ScoredBlock, evaluating, placement, score_examples
from elbo_bench.evaluation.estimate import Estimate, Scores
from elbo_bench.evaluation.evaluator import Evaluation, Request, Tier
from elbo_bench.evaluation.exact.log_p_x import Exact, exact_log_p_x
from elbo_bench.evaluation.gap_parts.local_posterior import SearchKeys, fit_local, start
from elbo_bench.evaluation.gap_parts.refit import RefitKeys, refit_encoder
from elbo_bench.evaluation.importance_sampling.streaming import NonFinite, PairedMoments, WeightSummary
from elbo_bench.evaluation.metrics import column_metric, ess_metric, mean_metrics, passes_gate, weight_diagnostics
from elbo_bench.evaluation.scored_model import EncodedBlock
from elbo_bench.noise import Noise
from elbo_bench.numerics import log_mean_exp

PARTS = ("approximation_gap", "amortisation_gap")
_LABELS = {
    "log_px": "log p(x): exact, or q(z|x), q* and the prior pooled",
    "log_px_pool": "log p(x), by q(z|x), q* and the prior pooled",
    "log_px_encoder": "log p(x), by samples of the encoder's q(z|x)",
    "log_px_local": "log p(x), by samples of q*",
    "log_px_refit": "log p(x), by samples of an encoder that is refitted on these examples",
    "elbo": "ELBO of the encoder's q(z|x)",
    "elbo_local": "ELBO of q*, the best q of its family for each example",
    "elbo_refit": "ELBO of an encoder that is refitted on these examples",
    "elbo_gap": "ELBO gap: log p(x) - ELBO, in expectation KL(q(z|x) || p(z|x))",
    "approximation_gap": "approximation gap: log p(x) - ELBO of q*",
    "amortisation_gap": "amortisation gap: ELBO of q* - ELBO of q(z|x)",
}
_LOW = ("log_px", "elbo_gap", "approximation_gap")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gaps(SearchKeys, RefitKeys):
    r"""Splits the ELBO gap of each example in two, by the best member q* of a family of posteriors.

    .. math:: \log p(x) - L[q] = (\log p(x) - L[q^*]) + (L[q^*] - L[q])

    The first part, the approximation gap, remains for any encoder with this family. The second, the amortisation gap,
    is due to this encoder (Cremer, Li & Duvenaud, 2018, "Inference suboptimality in variational autoencoders"). The
    search for q* starts at the encoder's q(z|x) and finds a local optimum. Where the posterior has several modes a
    better one may exist, and the approximation gap is then too large.

    log p(x) is exact if the model allows it. Otherwise the samples of the encoder, q* and the prior are always pooled:
    the larger of several estimates, as in the source, is biased upwards. Importance sampling is biased low, and the
    approximation gap with it. An encoder whose q(z|x) is no member of the family can have an amortisation gap below
    zero. Further attributes are those of `SearchKeys` and `RefitKeys`.

    Attributes:
        num_samples: Samples that score each posterior, K. None of them is used to find q*.
        chunk_size: Samples decoded at once for a block.
    """

    num_examples: PositiveInt | None = 100
    num_samples: Annotated[int, Field(ge=2)] = 5000
    chunk_size: PositiveInt = 64

    @property
    def samples(self) -> int:
        """K."""
        return self.num_samples

    def evaluate(self, model: LatentVariableModel, x: Shaped[Tensor, "N *data"], request: Request) -> Evaluation:
        """Score the examples."""
        _check_posterior(model, x)
        exact = exact_log_p_x(self, model, x, dataclasses.replace(request, progress=None))
        refitted = refit_encoder(self, model, x, request) if self.refit_steps else None

        @torch.no_grad()  # and no inference mode: the search for q* uses gradients
        def score_block(model: LatentVariableModel, x: Tensor, number: int) -> ScoredBlock:
            block = EncodedBlock(model, x, model.posterior(x), model.prior())
            local = fit_local(self, block, lambda purpose: Noise(request.seed, purpose, number))
            proposals: dict[str, Distribution] = {"encoder": block.posterior, "local": local.posterior}
            if refitted is not None:
                proposals["refit"] = refitted.posterior(x)
            scores = self._score(block, proposals, local.broken, request.seed, number=number)
            decoded = local.decoder_evaluations + (len(proposals) + 1) * self.num_samples
            scores.columns.update(steps=local.steps.cpu().numpy(), decoded=np.full(len(x), decoded))
            return ScoredBlock(scores, local.broken, ("log_px", *(f"log_px_{name}" for name in proposals)))

        scores = score_examples(self, model, x, request, score=score_block)
        decoder_evaluations = int(scores.columns.pop("decoded").sum()) + self.refit_evaluations(len(x))
        if exact is not None:
            decoder_evaluations += exact.decoder_evaluations
        decompose(scores, exact)
        log_px, columns = scores.estimates["log_px"], scores.columns
        passing = passes_gate(log_px.se_mc, columns["pareto_k"])
        tier: Tier = "importance" if bool(passing.all()) else "lower-bound-only"
        parts = {part: scores.estimates[part] for part in PARTS}
        diagnostics: dict[str, Any] = {
            "num_samples": self.num_samples,
            "family": self.family,
            "log_px": "encoder, q* and prior pooled" if exact is None else exact.method,
            "share_passing": None if exact is not None else float(passing.mean()),
            **weight_diagnostics(columns),
            "steps_max": int(columns["steps"].max()),
            "not_converged": int((columns["steps"] >= self.max_steps).sum()),
            **{f"{name}_below_zero": int((part.value < -2 * part.se_mc).sum()) for name, part in parts.items()},
        }
        metrics = mean_metrics(scores, _LABELS, _LOW) | {"ess": ess_metric(columns)}
        return Evaluation(
            scores=scores,
            metrics=metrics | {"steps": column_metric(columns["steps"], "steps", "steps of the search for q*")},
            tier="exact" if exact is not None else tier,
            estimator="importance, pooled" if exact is None else exact.method,
            diagnostics=diagnostics,
            decoder_evaluations=decoder_evaluations,
        )

    def _score(
        self, block: EncodedBlock, proposals: Mapping[str, Distribution], broken: NonFinite, seed: int, *, number: int
    ) -> Scores:
        """Return log p(x) and the ELBO by each posterior, and the errors of their differences.

        Posteriors that are transported from noise use the same noise, so that their differences vary less. `log_px`
        pools the encoder, q* and the prior by the balance heuristic: a sample of any of them is weighted against
        their mixture. Mass that q* misses is then still seen, and no weight exceeds 3 p(x|z).

        Args:
            block: The examples.
            proposals: Posteriors by name; `"encoder"` and `"local"` are among them.
            broken: Takes in the log-weights.
            seed: Seed of the random numbers.
            number: Number of the block.
        """
        model, x, prior, size = block.model, block.x, block.prior, len(block.x)
        pool = [proposals["encoder"], proposals["local"], prior]
        streams = {name: Noise(seed, "gaps-score", number).stream() for name in proposals}
        prior_stream = Noise(seed, "gaps-score-prior", number).stream()
        weights = WeightSummary(size, self.num_samples, x.device)
        moments = {
            name: PairedMoments(size, x.device)
            for name in (*proposals, "approximation_gap", "amortisation_gap", "elbo_gap")
        }
        for first in range(0, self.num_samples, self.chunk_size):
            count = min(self.chunk_size, self.num_samples - first)
            z = {
                name: sample(each, count, streams[name], like=x, reparameterised=False)
                for name, each in proposals.items()
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
                    densities = [each.log_prob(z[name]).double() for each in pool]
                    pooled.append(log_joint - log_mean_exp(torch.stack(densities)))
            log_px = log_mean_exp(torch.stack(pooled))
            for name in proposals:
                moments[name].update(log_w[name], log_w[name])
                broken.update(log_w[name])
            broken.update(log_px)
            weights.update(log_px)
            moments["approximation_gap"].update(log_px, log_w["local"])
            moments["elbo_gap"].update(log_px, log_w["encoder"])
            moments["amortisation_gap"].update(log_px, log_w["local"] - log_w["encoder"])
        estimates = {"log_px": weights.estimate()}
        for name in proposals:
            estimates[f"log_px_{name}"] = moments[name].weights.estimate()
            estimates["elbo" if name == "encoder" else f"elbo_{name}"] = moments[name].estimate()
        # `decompose` replaces the values of the gaps.
        for gap in ("approximation_gap", "elbo_gap"):
            estimates[gap] = Estimate.of(moments[gap].mean(), moments[gap].gap_se())
        estimates["amortisation_gap"] = moments["amortisation_gap"].estimate()
        ess, pareto_k = weights.effective_sample_size(), weights.pareto_k()
        return Scores(estimates, {"ess": ess.cpu().numpy(), "pareto_k": pareto_k.cpu().numpy()})


def decompose(scores: Scores, exact: Exact | None) -> None:
    """Set log p(x), exact or pooled, and the gaps below it. The ELBO gap is the sum of its parts to the last bit."""
    estimates, columns = scores.estimates, scores.columns
    elbo, local = estimates["elbo"], estimates["elbo_local"]
    errors = {gap: estimates[gap].se_mc for gap in ("approximation_gap", "amortisation_gap", "elbo_gap")}
    columns["log_px_bias"] = estimates["log_px"].log_bias
    if exact is not None:
        estimates |= {"log_px_pool": estimates["log_px"], "log_px": exact.log_px}
        columns["log_px_bias"] = np.zeros_like(exact.log_px.value)
        errors["approximation_gap"] = np.hypot(local.se_mc, exact.log_px.se_mc)
        errors["elbo_gap"] = np.hypot(elbo.se_mc, exact.log_px.se_mc)
    approximation, amortisation = estimates["log_px"].value - local.value, local.value - elbo.value
    values = {"approximation_gap": approximation, "amortisation_gap": amortisation}
    values["elbo_gap"] = approximation + amortisation
    estimates |= {gap: Estimate(value, errors[gap]) for gap, value in values.items()}


def _check_posterior(model: LatentVariableModel, x: Shaped[Tensor, "N *data"]) -> None:
    """Check, before anything is computed, that a normal distribution can replace the encoder's q(z|x).

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

"""`evaluation=ais`: log p(x) by annealed importance sampling, for models that importance sampling cannot score."""

import dataclasses

import torch
from jaxtyping import Shaped
from torch import Tensor

from elbo_bench.draws import LatentVariableModel
from elbo_bench.evaluation.annealing.chains import AnnealingKeys, AnnealingPath, forward, mean_weight, non_finite, tune
from elbo_bench.evaluation.blocks import ScoredBlock, score_examples
from elbo_bench.evaluation.estimate import Scores
from elbo_bench.evaluation.evaluator import Evaluation, Request
from elbo_bench.evaluation.importance_sampling.pareto import pareto_k, tail_size
from elbo_bench.evaluation.metrics import (
    column_metric,
    ess_metric,
    exact_mean,
    mean_metrics,
    passes_gate,
    weight_diagnostics,
)
from elbo_bench.noise import Noise


@dataclasses.dataclass(frozen=True, kw_only=True)
class AIS(AnnealingKeys):
    """Estimates log p(x) from below by annealed importance sampling (Neal, 2001).

    The log of the mean weight of C chains is a stochastic lower bound, as in importance sampling. It is tight if the
    chains stay close to the path's densities. Wu, Burda, Salakhutdinov & Grosse (2017, "On the quantitative analysis of
    decoder-based generative models") take 16 chains, 10,000 temperatures of the sigmoid schedule and 10 leapfrog
    steps, from the prior: 1.6 million gradients for each example. For the same cost shorter trajectories at more
    temperatures came closer to log p(x) on the two MNIST models tried; the defaults take 48,000 gradients.

    From the encoder the path is far shorter, if q covers the posterior. From the prior the path uses only the scale of
    q. It then finds modes that q misses, which no weight of q would show. Measured on a 2-D latent: from the encoder
    two images of 50 came out 8 and 19 nats low with a standard error of 1, from the prior none.

    The attributes are those of `AnnealingKeys`. The gate needs k-hat, and k-hat needs 21 chains.
    """

    def evaluate(self, model: LatentVariableModel, x: Shaped[Tensor, "N *data"], request: Request) -> Evaluation:
        """Score the examples."""

        @torch.no_grad()
        def score(model: LatentVariableModel, x: Tensor, block: int) -> ScoredBlock:
            pilot = Noise(request.seed, "annealing-pilot", block).stream()
            path = AnnealingPath.of(model, x, self.start, pilot)
            steps = tune(self, path, pilot)
            run = forward(self, path, steps, Noise(request.seed, "annealing-forward", block).stream())
            log_px, ess = mean_weight(run.log_w)
            largest = run.log_w.sort(0).values[-tail_size(self.num_chains) - 1 :]
            columns = {
                "log_px_bias": log_px.log_bias,
                "ess": ess.cpu().numpy(),
                "acceptance": run.acceptance.mean(0).cpu().numpy(),
                "pareto_k": pareto_k(largest.cpu().numpy()),
            }
            return ScoredBlock(Scores({"log_px": log_px}, columns), non_finite(path, steps, run.log_w))

        scores = score_examples(self, model, x, request, score=score)
        columns, log_px = scores.columns, scores.estimates["log_px"]
        passing = passes_gate(log_px.se_mc, columns["pareto_k"])
        acceptance = column_metric(columns["acceptance"], "share", "accepted moves of Hamiltonian Monte Carlo")
        return Evaluation(
            scores=scores,
            metrics={
                **mean_metrics(scores, {"log_px": "log p(x): annealed importance sampling"}, low=("log_px",)),
                "ess": ess_metric(columns),
                "acceptance": acceptance,
            },
            tier="importance" if bool(passing.all()) else "lower-bound-only",
            estimator="ais",
            diagnostics={
                "num_samples": self.num_chains,
                "share_passing": float(passing.mean()),
                **weight_diagnostics(columns),
                "log_px_bias": exact_mean(columns["log_px_bias"]),
                "acceptance_min": float(columns["acceptance"].min()),
                "num_temperatures": self.num_temperatures,
            },
            decoder_evaluations=(self.run_evaluations + self.pilot_evaluations) * len(log_px.value),
        )

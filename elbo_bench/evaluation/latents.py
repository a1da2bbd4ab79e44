"""`evaluation=latents`: the content of the latent - active units, rate, distortion and mutual information."""

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from pydantic import Field
from torch import Tensor
from torch.distributions import Distribution

from elbo_bench.draws import Draws, LatentVariableModel, NoClosedFormError, draw, sample
from elbo_bench.errors import RunFailedError
from elbo_bench.evaluation.aggregated_posterior import AggregatedPosterior
from elbo_bench.evaluation.blocks import ScoredBlock, evaluating, placement, score_examples, single_threaded
from elbo_bench.evaluation.estimate import Estimate, Scores
from elbo_bench.evaluation.evaluator import Evaluation, Evaluator, Request
from elbo_bench.evaluation.importance_sampling.active_units import (
    active,
    active_unit_metrics,
    active_units_in_words,
    latent_layers,
    posterior_means,
    variance_of_mean,
)
from elbo_bench.evaluation.metrics import mean_metrics, mean_over_examples
from elbo_bench.noise import Noise

_LABELS = {
    "rate": "rate: KL(q(z|x) || p(z))",
    "distortion": "distortion: -E_q[log p(x|z)]",
    "log_q_z": "log-density of the aggregated posterior, log q(z)",
    "marginal_kl": "marginal KL: KL(q(z) || p(z)) of the aggregated posterior; rate = I(x; z) + this",
    "mutual_information": "mutual information I(x; z) under q; at most log N",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latents(Evaluator):
    r"""Computes how much the latent says about the data.

    The rate is the sum of the mutual information of x and z and the distance of the codes from the prior (Hoffman &
    Johnson, 2016, "ELBO surgery"; rate and distortion as in Alemi et al., 2018, "Fixing a broken ELBO"):

    .. math:: \mathrm{E}_x \mathrm{KL}(q(z|x) \| p(z)) = I_q(x; z) + \mathrm{KL}(q(z) \| p(z))

    q(z) is the mixture over all N examples that are scored, which costs N^2 K densities, and z is drawn from each
    q(z|x). For these N examples both terms are unbiased. As estimates for the population the mutual information is
    biased low, since it cannot exceed log N, and the marginal KL is biased high by as much. If the mutual information
    is within a nat or two of log N (`mutual_information_limit`), score more examples.

    With a closed form for the rate the mutual information is the rate less the sampled marginal KL, which is less
    noisy. Without one all three come from the same samples. Either way they add up for every example.

    Attributes:
        num_samples: Samples of q(z|x) for each example, K.
    """

    num_samples: Annotated[int, Field(ge=2)] = 16

    @property
    def samples(self) -> int:
        """K."""
        return self.num_samples

    def evaluate(self, model: LatentVariableModel, x: Shaped[Tensor, "N *data"], request: Request) -> Evaluation:
        """Score the examples."""
        aggregated = self._encode(model, x, request.ids)

        @torch.inference_mode()
        def score(model: LatentVariableModel, x: Tensor, block: int) -> ScoredBlock:
            noise = Noise(request.seed, "latents", block)
            posterior = model.posterior(x)
            draws = draw(model, x, self.num_samples, noise, posterior=posterior, reparameterised=False)
            scores = _score(draws, aggregated)
            means = posterior_means(posterior, Noise(request.seed, "latents/mean", block).stream(), like=x)
            if means is not None:
                scores.columns["posterior_mean"] = means.cpu().numpy()
            return ScoredBlock(scores)

        scores = score_examples(self, model, x, request, score=score)
        count, means, kl = len(x), scores.columns.pop("posterior_mean", None), scores.columns.pop("kl", None)
        metrics = mean_metrics(scores, _LABELS)
        if kl is not None:
            scores.columns.update({f"kl_{number:03d}": column for number, column in enumerate(kl.T)})
        diagnostics: dict[str, Any] = {
            "num_samples": self.num_samples,
            "rate": "closed form" if not scores.estimates["rate"].se_mc.any() else "sampled",
            "mutual_information_limit": math.log(count),
        }
        layers: dict[str, slice] = {}
        if means is not None:
            layers, units = latent_layers(model, means.shape[-1]), active(variance_of_mean(means)[0])
            metrics |= active_unit_metrics(units, layers, count)
            diagnostics |= {
                "posterior_mean": "closed form" if means.shape[1] == 1 else "sampled",
                "active_units": active_units_in_words(units, layers),
            }
        diagnostics["dimensions"] = _dimensions(means, kl, layers)
        return Evaluation(scores, metrics, "none", "latents", diagnostics, self.num_samples * count)

    @torch.inference_mode()
    def _encode(
        self, model: LatentVariableModel, x: Shaped[Tensor, "N *data"], ids: Int[Tensor, " N"] | None
    ) -> AggregatedPosterior:
        """Encode all examples, in the same blocks on every process.

        Raises:
            RunFailedError: A posterior has no density. It would spoil the mixture for all examples.
        """
        device, dtype = placement(model, x)
        numbers = torch.arange(len(x)) if ids is None else ids.cpu()
        posteriors: list[Distribution] = []
        with evaluating(model), single_threaded():
            for first in range(0, len(x), self.block_size):
                piece = x[first : first + self.block_size].to(device, dtype)
                posterior = model.posterior(piece)
                z = sample(posterior, 1, Noise(0, "rehearsal"), like=piece, reparameterised=False)
                log_q = posterior.log_prob(z)[0]
                if not (finite := log_q.isfinite()).all():
                    broken = int((~finite).nonzero()[0, 0])
                    raise RunFailedError(f"example {numbers[first + broken]}: log q(z|x) is {log_q[broken].item()}")
                posteriors.append(posterior)
        return AggregatedPosterior(tuple(posteriors))


def _score(draws: Draws, aggregated: AggregatedPosterior) -> Scores:
    """Return the scores of a block; errors are Monte Carlo standard errors, given the mixture."""
    codes = draws.z.flatten(0, 1)
    codes = codes if codes.is_floating_point() else codes.double()  # labels are scored as numbers
    log_q_z = aggregated.log_prob(codes).unflatten(0, draws.z.shape[:2])
    log_p_z, log_q_z_given_x = draws.log_p_z.double(), draws.log_q_z_given_x.double()
    estimates = {
        "distortion": Estimate.mean_of(-draws.log_p_x_given_z.double()),
        "log_q_z": Estimate.mean_of(log_q_z),
        "marginal_kl": Estimate.mean_of(log_q_z - log_p_z),
    }
    try:
        rate, marginal = Estimate.of(draws.analytic_kl().double()), estimates["marginal_kl"]
        estimates |= {"rate": rate, "mutual_information": Estimate(rate.value - marginal.value, marginal.se_mc)}
    except NoClosedFormError:
        estimates["rate"] = Estimate.mean_of(log_q_z_given_x - log_p_z)
        estimates["mutual_information"] = Estimate.mean_of(log_q_z_given_x - log_q_z)
    columns = {}
    with contextlib.suppress(NoClosedFormError):
        columns["kl"] = draws.analytic_kl_per_dim().double().cpu().numpy()
    return Scores(estimates, columns)


def _dimensions(
    means: Float[np.ndarray, "N M L"] | None, kl: Float[np.ndarray, "N L"] | None, layers: Mapping[str, slice]
) -> list[dict[str, Any]]:
    """Return for each dimension the variance of its posterior mean over x, and its rate, where they exist."""
    rows: list[dict[str, Any]] = []
    if means is not None:
        variance, error = variance_of_mean(means)
        columns = {"variance_of_mean": variance, "variance_of_mean_se_test": error, "active": active(variance)}
        rows = [{name: column[number].item() for name, column in columns.items()} for number in range(len(variance))]
    if kl is not None:
        metrics = [
            mean_over_examples(Estimate(column, np.zeros(len(column))), "KL of one dimension") for column in kl.T
        ]
        rates = [{"kl": metric["value"], "kl_se_test": metric["se_test"]} for metric in metrics]
        rows = [row | rate for row, rate in zip(rows or [{} for _ in rates], rates, strict=True)]
    names = {number: {"layer": name} for name, part in layers.items() for number in range(len(rows))[part]}
    return [{"dimension": number, **names.get(number, {}), **row} for number, row in enumerate(rows)]

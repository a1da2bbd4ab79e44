"""`evaluation=latents`: what the latent holds - active units, rate, distortion and mutual information."""

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

from elbo_bench.draws import LatentVariableModel, NoClosedFormError, draw_from, sample
from elbo_bench.errors import RunFailedError
from elbo_bench.evaluation.active_units import (
    active,
    active_unit_metrics,
    active_units_in_words,
    latent_layers,
    posterior_means,
    variance_of_mean,
)
from elbo_bench.evaluation.aggregated_posterior import AggregatedPosterior
from elbo_bench.evaluation.blocks import evaluating, placement, score_examples, single_threaded
from elbo_bench.evaluation.evaluator import Evaluation, Evaluator, Request
from elbo_bench.evaluation.finished_blocks import Rows
from elbo_bench.evaluation.metrics import mean_over_examples
from elbo_bench.noise import Noise


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latents(Evaluator):
    r"""Measures what the latent knows of the data.

    The rate splits into what z says of x and how far the codes lie from the prior (Hoffman & Johnson, 2016, "ELBO
    surgery"; rate and distortion as in Alemi et al., 2018, "Fixing a broken ELBO"):

    .. math:: \mathrm{E}_x \mathrm{KL}(q(z|x) \| p(z)) = I_q(x; z) + \mathrm{KL}(q(z) \| p(z))

    q(z) is the mixture over all N examples that are scored, which costs N^2 K densities, and z is drawn from each
    q(z|x). For these N examples both terms are unbiased; as estimates for the whole population the mutual information
    is biased low, as it cannot exceed log N, and the marginal KL is biased high by as much. A mutual information
    within a nat or two of log N (`mutual_information_limit`) says little but that: score more examples.

    With a closed form for the rate the mutual information is the rate less the sampled marginal KL, which is less
    noisy; without one all three come from the same samples. Either way they add up for every example.

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
        scorer = _Scorer(model, self._encode(model, x, request.ids), self.num_samples, request.seed)
        examples = score_examples(
            model, x, scorer.score, block_size=self.block_size, workers=self.workers, request=request
        )
        count, means, kl = len(x), examples.pop("posterior_mean", None), examples.pop("kl", None)
        metrics = {
            name: mean_over_examples(values, examples[f"{name}_se"])
            for name, values in examples.items()
            if f"{name}_se" in examples
        }
        if kl is not None:
            examples |= {f"kl_{number:03d}": column for number, column in enumerate(kl.T)}
        diagnostics: dict[str, Any] = {
            "num_samples": self.num_samples,
            "rate": "closed form" if not examples["rate_se"].any() else "sampled",
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
        return Evaluation(examples, metrics, "none", "latents", diagnostics, self.num_samples * count)

    @torch.inference_mode()
    def _encode(
        self, model: LatentVariableModel, x: Shaped[Tensor, "N *data"], ids: Int[Tensor, " N"] | None
    ) -> AggregatedPosterior:
        """Encode all examples, in the same blocks on every rank.

        Raises:
            RunFailedError: A posterior has no density; in the mixture it would be every example's.
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


@dataclasses.dataclass(frozen=True)
class _Scorer:
    """Scores a block of examples."""

    model: LatentVariableModel
    aggregated: AggregatedPosterior
    num_samples: int
    seed: int

    @torch.inference_mode()
    def score(self, x: Shaped[Tensor, "B *data"], block: int) -> Rows:
        """Return one row an example; errors are Monte Carlo standard errors, given the mixture."""
        posterior, noise = self.model.posterior(x), Noise(self.seed, "latents", block)
        draws = draw_from(self.model, posterior, x, self.num_samples, noise, reparameterised=False)
        codes = draws.z.flatten(0, 1)
        codes = codes if codes.is_floating_point() else codes.double()  # labels, too, are scored as numbers
        log_q_z = self.aggregated.log_prob(codes).unflatten(0, draws.z.shape[:2])
        log_p_z, log_q_z_given_x = draws.log_p_z.double(), draws.log_q_z_given_x.double()
        sampled = {
            "distortion": -draws.log_p_x_given_z.double(),
            "log_q_z": log_q_z,
            "marginal_kl": log_q_z - log_p_z,
        }
        try:
            exact = {"rate": draws.analytic_kl().double()}
        except NoClosedFormError:
            exact = {}
            sampled |= {"rate": log_q_z_given_x - log_p_z, "mutual_information": log_q_z_given_x - log_q_z}
        columns = {name: values.mean(0) for name, values in sampled.items()}
        columns |= {f"{name}_se": values.std(0) / math.sqrt(len(values)) for name, values in sampled.items()}
        for rate in exact.values():
            columns |= {"rate": rate, "rate_se": torch.zeros_like(rate)}
            columns["mutual_information"] = rate - columns["marginal_kl"]
            columns["mutual_information_se"] = columns["marginal_kl_se"]
        means = posterior_means(posterior, Noise(self.seed, "latents/mean", block).stream(), like=x)
        if means is not None:
            columns["posterior_mean"] = means
        with contextlib.suppress(NoClosedFormError):
            columns["kl"] = draws.analytic_kl_per_dim().double()
        return {name: column.cpu().numpy() for name, column in columns.items()}


def _dimensions(
    means: Float[np.ndarray, "N M L"] | None, kl: Float[np.ndarray, "N L"] | None, layers: Mapping[str, slice]
) -> list[dict[str, Any]]:
    """Return for each dimension how much its posterior mean varies over x, and its rate, as far as they exist."""
    rows: list[dict[str, Any]] = []
    if means is not None:
        variance, error = variance_of_mean(means)
        columns = {"variance_of_mean": variance, "variance_of_mean_se": error, "active": active(variance)}
        rows = [{name: column[number].item() for name, column in columns.items()} for number in range(len(variance))]
    if kl is not None:
        metrics = [mean_over_examples(column, np.zeros(len(column))) for column in kl.T]
        rates = [{"kl": metric["value"], "kl_se": metric["se"]} for metric in metrics]
        rows = [row | rate for row, rate in zip(rows or [{} for _ in rates], rates, strict=True)]
    names = {number: {"layer": name} for name, part in layers.items() for number in range(len(rows))[part]}
    return [{"dimension": number, **names.get(number, {}), **row} for number, row in enumerate(rows)]

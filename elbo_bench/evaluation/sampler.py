"""Importance sampling of one block of examples: every number about them, from one pass over K samples."""

import dataclasses
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from elbo_bench.draws import Draws, LatentVariableModel, NoClosedFormError, closed_form_kl, draw_from
from elbo_bench.evaluation.evaluator import Bound
from elbo_bench.evaluation.finished_blocks import Rows
from elbo_bench.evaluation.pareto import pareto_k, tail_size
from elbo_bench.evaluation.streaming import GroupedBound, GroupedWeights, NonFinite, PairedMoments, TailWeights
from elbo_bench.noise import Noise


@dataclasses.dataclass(frozen=True)
class ImportanceSampler:
    """Scores a block of examples by K samples of the encoder's q(z|x).

    Attributes:
        model: The model.
        num_samples: K.
        seed: Seed of the random numbers.
        chunk_size: Samples decoded at once.
        bounds: Further bounds to evaluate, by name.
    """

    model: LatentVariableModel
    num_samples: int
    seed: int
    chunk_size: int
    bounds: Mapping[str, Bound]

    @torch.inference_mode()
    def score(self, x: Float[Tensor, "B *data"], block: int) -> Rows:
        """Return one row an example, by name of the column; errors are Monte Carlo standard errors.

        `x` is encoded once; the samples are decoded in chunks; all sums are in float64.
        """
        size = len(x)
        posterior = self.model.posterior(x)
        noise = Noise(self.seed, "evaluate", block).stream()
        analytic_rate = _analytic_rate(posterior, self.model)

        def moments() -> PairedMoments:
            return PairedMoments(size, x.device)

        log_weights, distortion, sampled_rate, elbo_analytic = moments(), moments(), moments(), moments()
        curve = {k: GroupedWeights(k, size, x.device) for k in curve_sizes(self.num_samples)}
        bounds = {
            name: GroupedBound(bound, bound.samples_required, size, x.device) for name, bound in self.bounds.items()
        }
        tail = TailWeights(tail_size(self.num_samples) + 1, size, x.device)
        broken = NonFinite(size, x.device)
        for start in range(0, self.num_samples, self.chunk_size):
            count = min(self.chunk_size, self.num_samples - start)
            draws = draw_from(self.model, posterior, x, count, noise, reparameterised=False)
            log_p_x_given_z, log_ratio = draws.log_p_x_given_z.double(), _log_ratio(draws)
            log_w = log_p_x_given_z - log_ratio
            broken.update(log_w)
            log_weights.update(log_w, log_w)
            distortion.update(log_w, -log_p_x_given_z)
            sampled_rate.update(log_w, log_ratio)
            if analytic_rate is not None:
                elbo_analytic.update(log_w, log_p_x_given_z - analytic_rate)
            for group in curve.values():
                group.update(log_w)
            for bound in bounds.values():
                bound.update(draws)
            tail.update(log_w)

        columns: dict[str, Tensor] = {
            "log_px": log_weights.log_mean_weight(),
            "log_px_se": log_weights.log_mean_weight_se(),
            "ess": log_weights.effective_sample_size(),
        }
        # Second-order bias of the log of a mean; the jackknife estimates the same term (Burda 2016; Nowozin 2018).
        columns["log_px_bias"] = -0.5 * columns["log_px_se"].square()
        estimates = {"elbo_mc": log_weights, "distortion": distortion}
        if analytic_rate is not None:
            estimates["elbo_analytic"] = elbo_analytic
            columns |= {"rate": analytic_rate, "rate_se": torch.zeros_like(analytic_rate)}
        else:
            estimates["rate"] = sampled_rate
        estimates |= {f"L_{k}": group.moments for k, group in curve.items()}
        estimates |= {name: bound.moments for name, bound in bounds.items()}
        for name, estimate in estimates.items():
            columns |= {name: estimate.mean(), f"{name}_se": estimate.mean_se()}
        columns |= {f"L_{self.num_samples}": columns["log_px"], f"L_{self.num_samples}_se": columns["log_px_se"]}
        for gap, name in {"elbo_gap": "elbo_mc", **{f"{name}_gap": name for name in bounds}}.items():
            columns |= {gap: columns["log_px"] - columns[name], f"{gap}_se": estimates[name].gap_se()}
        columns |= {"nan": broken.nan, "infinite": broken.infinite, "zero": broken.zero}
        if (mean := _posterior_mean(posterior)) is not None:
            columns["posterior_mean"] = mean.flatten(1).double()
        rows = {name: column.cpu().numpy() for name, column in columns.items()}
        rows["pareto_k"] = pareto_k(tail.sorted().cpu().numpy())
        return rows


def curve_sizes(num_samples: int) -> list[int]:
    """Return 1, 2, 5, 10, ... up to K/2: sizes of which the samples hold at least two groups."""
    steps = [step * 10**power for power in range(12) for step in (1, 2, 5)]
    return [k for k in steps if 2 * k <= num_samples]


def _log_ratio(draws: Draws) -> Float[Tensor, "K B"]:
    """Return log q(z|x) - log p(z), in float64 before they are subtracted."""
    return draws.log_q_z_given_x.double() - draws.log_p_z.double()


def _analytic_rate(posterior: torch.distributions.Distribution, model: LatentVariableModel) -> Tensor | None:
    """Return KL(q(z|x) ‖ p(z)), or None where it has no closed form; the record says which it was."""
    try:
        return closed_form_kl(posterior, model.prior()).double()
    except NoClosedFormError:
        return None


def _posterior_mean(posterior: torch.distributions.Distribution) -> Tensor | None:
    try:
        return posterior.mean
    except (NotImplementedError, AttributeError):
        return None

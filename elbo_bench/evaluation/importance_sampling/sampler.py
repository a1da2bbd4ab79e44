"""Importance sampling of a block of examples: first by the encoder, then by a better proposal."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from elbo_bench.draws import LatentVariableModel
from elbo_bench.evaluation.blocks import ScoredBlock
from elbo_bench.evaluation.estimate import Columns, Estimate, Scores
from elbo_bench.evaluation.evaluator import ScoredBound
from elbo_bench.evaluation.importance_sampling.choice import Choice, choose
from elbo_bench.evaluation.importance_sampling.encoder_pass import Drawable, EncoderPass, log_weight_terms
from elbo_bench.evaluation.importance_sampling.keys import ImportanceKeys
from elbo_bench.evaluation.importance_sampling.proposals import NAMES, Name
from elbo_bench.evaluation.importance_sampling.streaming import WeightSummary
from elbo_bench.evaluation.scored_model import log_joint
from elbo_bench.noise import Noise, NoiseStream


@dataclasses.dataclass(frozen=True)
class ImportanceSampler:
    """Scores blocks of examples.

    Attributes:
        keys: Keys.
        bounds: The bounds to evaluate.
        seed: Seed of the random numbers.
    """

    keys: ImportanceKeys
    bounds: Sequence[ScoredBound]
    seed: int

    @torch.no_grad()
    @np.errstate(invalid="ignore")  # a bound may be -inf
    def score(self, model: LatentVariableModel | Drawable, x: Shaped[Tensor, "B *data"], block: int) -> ScoredBlock:
        """Return the scores of a block. The examples are encoded once and their samples decoded in chunks."""
        keys = self.keys
        encoder = EncoderPass(keys, model, x, self.bounds)
        estimates = encoder.run(Noise(self.seed, "evaluate", block).stream())
        columns = {
            "encoder_pareto_k": encoder.weights.pareto_k().cpu().numpy(),
            "encoder_ess": encoder.weights.effective_sample_size().cpu().numpy(),
        }
        choice: Choice | None = None
        if encoder.block is not None and (keys.proposal != "encoder" or keys.pilot_share):
            choice = choose(keys, encoder.block, Noise(self.seed, "pilot", block).stream(), encoder.broken)
        drawer = _Drawer(keys, encoder, choice, WeightSummary(len(x), keys.most_samples, x.device))
        drawer.draw_all(Noise(self.seed, "proposal", block).stream(), Noise(self.seed, "more", block).stream())
        by_encoder = (drawer.names == 0).cpu().numpy()
        count = encoder.weights.count.cpu().numpy()
        log_px, first = drawer.estimate(), estimates[f"L_{keys.num_samples}"]
        columns |= drawer.weight_columns() | {"log_px_bias": log_px.log_bias}
        columns["decoded"] = count + drawer.cost().cpu().numpy() + encoder.num_enumerated
        columns["proposal"] = drawer.names.double().cpu().numpy()
        if choice is not None:
            # The samples of a better proposal check the encoder's own estimate more sharply than the pilot does.
            better = excess(log_px, first)
            if choice.pilot is not None:
                columns |= excess(choice.pilot, log_px)
                by_pilot = excess(choice.pilot, first)
                better = {name: np.where(by_encoder, by_pilot[name], column) for name, column in better.items()}
            columns |= {f"encoder_{name}": column for name, column in better.items()}
        paired = {name: error.cpu().numpy() for name, error in encoder.gap_se().items()}
        for bound, gap in (("elbo_mc", "elbo_gap"), *((each.estimate, each.gap) for each in self.bounds)):
            value, paired_se = estimates[bound], paired.get(bound, first.se_mc)
            covariance = 0.5 * (first.se_mc**2 + value.se_mc**2 - paired_se**2) * (keys.num_samples / count)
            independent = log_px.se_mc**2 + value.se_mc**2
            variance = independent - np.where(by_encoder, 2 * covariance, 0.0)
            variance = np.where(by_encoder & (count == keys.num_samples), paired_se**2, variance)
            estimates[gap] = Estimate(log_px.value - value.value, _root(np.maximum(variance, 0)))
        if (mean := encoder.posterior_mean()) is not None:
            columns["posterior_mean"] = mean.cpu().numpy()
        columns["fit_problem"] = np.full(len(x), "" if choice is None else choice.fit_problem)
        return ScoredBlock(Scores(estimates | {"log_px": log_px}, columns), encoder.broken)


@dataclasses.dataclass(frozen=True)
class _Drawer:
    """Draws each example's samples from its proposal.

    Attributes:
        keys: Keys.
        encoder: The encoder's samples.
        choice: The proposals; None if all examples have the encoder's.
        others: Log-weights of the samples of other proposals.
    """

    keys: ImportanceKeys
    encoder: EncoderPass
    choice: Choice | None
    others: WeightSummary

    @property
    def names(self) -> Int[Tensor, " B"]:
        """Index of each example's proposal in `NAMES`."""
        return torch.zeros_like(self.others.count, dtype=torch.int64) if self.choice is None else self.choice.names

    def groups(self) -> list[tuple[Name, Bool[Tensor, " B"]]]:
        """Return each proposal with the examples that have it."""
        return [(name, self.names == index) for index, name in enumerate(NAMES)]

    def draw_all(self, stream: NoiseStream, more: NoiseStream) -> None:
        """Draw the samples of the proposals.

        With `target_se`, the number of samples of an example is then doubled until its error is below `target_se`.
        """
        for name, mine in self.groups():
            if self.choice is not None and name != "encoder" and bool(mine.any()):
                self._draw(name, mine.nonzero()[:, 0], self.choice.num_samples, stream)
        if self.keys.target_se is None:
            return
        for name, mine in self.groups():
            weights = self.encoder.weights if name == "encoder" else self.others
            while True:
                left = self.keys.most_samples - weights.count
                rows = (mine & (weights.log_mean_weight_se() > self.keys.target_se) & (left > 0)).nonzero()[:, 0]
                if not len(rows):
                    break
                self._draw(name, rows, int(torch.minimum(weights.count[rows], left[rows]).min()), more)

    def estimate(self) -> Estimate:
        """Return the estimate of log p(x), each example's by its proposal."""
        return self.encoder.weights.estimate().where((self.names == 0).cpu().numpy(), self.others.estimate())

    def weight_columns(self) -> Columns:
        """Return the diagnostics of the weights of that estimate."""

        def column(of_encoder: Tensor, of_others: Tensor) -> np.ndarray:
            return torch.where(self.names == 0, of_encoder, of_others).cpu().numpy()

        one, other = self.encoder.weights, self.others
        return {
            "ess": column(one.effective_sample_size(), other.effective_sample_size()),
            "largest_weight": column(one.largest_share(), other.largest_share()),
            "pareto_k": column(one.pareto_k(), other.pareto_k()),
        }

    def cost(self) -> Float[Tensor, " B"]:
        """Return the latents decoded for each example beside the encoder's samples."""
        return self.others.count if self.choice is None else self.choice.cost + self.others.count

    def _draw(self, name: Name, rows: Int[Tensor, " R"], count: int, stream: NoiseStream) -> None:
        """Draw `count` samples for some of the examples from their proposal."""
        block = self.encoder.block
        # Fewer examples are decoded with more samples at a time.
        size = max(1, self.keys.chunk_size * len(self.others.count) // len(rows))
        parts = [min(size, count - start) for start in range(0, count, size)]
        if name == "encoder":
            for part in parts:
                log_p_x_given_z, log_ratio = log_weight_terms(self.encoder.draw(part, stream, rows))
                self.encoder.broken.update_errors(log_p_x_given_z - log_ratio, rows)
                self.encoder.weights.update_rows(log_p_x_given_z - log_ratio, rows)
            return
        assert block is not None
        assert self.choice is not None
        proposal, x = self.choice.proposal(name, self.keys, block, rows), block.x[rows]
        for part in parts:
            z = proposal.draw(part, stream, x)
            log_w = log_joint(block.model, x, z, torch.float64) - proposal.log_prob(z)
            self.encoder.broken.update_errors(log_w, rows)
            self.others.update_rows(log_w, rows)


def excess(opinion: Estimate, estimate: Estimate) -> Columns:
    """Return by how much one estimate of log p(x) lies above another from other samples: nats and standard errors.

    The other samples then found mass that the estimate missed. An opinion of -inf, which found no mass, counts as 0.
    """
    nats = np.maximum(opinion.value - estimate.value, 0)
    errors = nats / np.maximum(_root(opinion.se_mc**2 + estimate.se_mc**2), 1e-9)
    return {"missed": nats, "missed_errors": np.where(nats > 0, errors, 0.0)}


def _root(variance: Float[np.ndarray, " B"]) -> Float[np.ndarray, " B"]:
    """Return the square root as torch rounds it, which NumPy does not for each number."""
    return torch.from_numpy(variance).sqrt().numpy()

"""Importance sampling of one block of examples: the encoder's pass, then draws of a better proposal."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from elbo_bench.draws import LatentVariableModel
from elbo_bench.evaluation.choice import Choice, choose, excess, num_pilot
from elbo_bench.evaluation.encoder_pass import Drawable, EncoderPass
from elbo_bench.evaluation.evaluator import Bound
from elbo_bench.evaluation.finished_blocks import Rows
from elbo_bench.evaluation.proposals import NAMES, Name
from elbo_bench.evaluation.streaming import WeightSummary
from elbo_bench.noise import Noise, NoiseStream


@dataclasses.dataclass(frozen=True)
class ImportanceSampler:
    """Scores a block of examples.

    Attributes:
        model: The model.
        num_samples: K, samples of q(z|x); the proposal gets as many, its pilot and its fitting counted.
        seed: Seed of the random numbers.
        chunk_size: Samples decoded at once.
        bounds: Further bounds to evaluate, by name.
        proposal: What log p(x) is estimated by.
        widening: How much wider than q a widened proposal is; None goes by the number of dimensions.
        prior_share: What a defensive mixture draws from the prior.
        pilot_share: Samples of the pilot, as a share of K.
        target_se: Standard error at which an example has had enough samples; None draws K.
        most_samples: Samples at which it gets no more.
    """

    model: LatentVariableModel | Drawable
    num_samples: int
    seed: int
    chunk_size: int
    bounds: Mapping[str, Bound]
    proposal: Name | Literal["auto"]
    widening: float | None
    prior_share: float
    pilot_share: float
    target_se: float | None
    most_samples: int

    @torch.no_grad()
    def score(self, x: Shaped[Tensor, "B *data"], block: int) -> Rows:
        """Return one row an example, by name of the column; errors are Monte Carlo standard errors.

        `x` is encoded once; the samples are decoded in chunks; all sums are in float64.
        """
        encoder = EncoderPass(self.model, x, self.num_samples, self.bounds, self.most_samples)
        encoder.run(Noise(self.seed, "evaluate", block).stream(), self.chunk_size)
        columns, gap_se = encoder.columns()
        own_shape, own_size = encoder.weights.pareto_k(), encoder.weights.effective_sample_size()
        choice = self._choose(x, encoder, block)
        chosen = choice.weights if choice is not None else encoder.weights
        by_encoder = torch.ones(len(x), dtype=torch.bool, device=x.device)
        if choice is not None:
            stream = Noise(self.seed, "proposal", block).stream()
            for name, rows in choice.groups():
                if name != "encoder":
                    by_encoder[rows] = False
                    self._draw(choice, name, rows, choice.num_samples, stream, x)
        self._draw_more(choice, encoder, by_encoder, block, x)
        columns |= self._estimates(encoder.weights, chosen, by_encoder)
        columns |= {"encoder_pareto_k": own_shape, "encoder_ess": own_size}
        columns |= self._gaps(columns, by_encoder, encoder.weights.count, {n: gap_se(n) for n in self._against()})
        if choice is not None:
            whole = f"L_{self.num_samples}"
            columns |= choice.second_opinion(columns["log_px"], columns["log_px_se"])
            own = choice.second_opinion(columns[whole], columns[f"{whole}_se"])
            # Of the encoder's own estimate, the draws of a better proposal have a sharper opinion than the pilot.
            better = excess(columns["log_px"], columns["log_px_se"], columns[whole], columns[f"{whole}_se"])
            columns |= {
                f"encoder_{name}": torch.where(by_encoder, own[name], better[name]) if own else better[name]
                for name in better
            }
            encoder.broken.merge(choice.broken)
        used = torch.zeros_like(columns["log_px"]) if choice is None else choice.names.double()
        extra = torch.zeros_like(columns["log_px"]) if choice is None else choice.cost + choice.weights.count
        columns |= {"proposal": used, "decoded": encoder.weights.count + extra + encoder.enumerated}
        broken = encoder.broken
        columns |= {"nan": broken.nan, "infinite": broken.infinite, "zero": broken.zero}
        problem = "" if choice is None else choice.fit_problem
        return {name: column.cpu().numpy() for name, column in columns.items()} | {
            "fit_problem": np.full(len(x), problem)
        }

    def _choose(self, x: Tensor, encoder: EncoderPass, block: int) -> Choice | None:
        if encoder.posterior is None or (self.proposal == "encoder" and not self.pilot_share):
            return None
        assert isinstance(self.model, LatentVariableModel)
        return choose(
            self.model,
            x,
            encoder.posterior,
            wanted=self.proposal,
            budget=self.num_samples,
            num_pilot=num_pilot(self.num_samples, self.pilot_share),
            widening=self.widening,
            prior_share=self.prior_share,
            most_samples=self.most_samples,
            chunk_size=self.chunk_size,
            stream=Noise(self.seed, "pilot", block).stream(),
        )

    def _draw(
        self, choice: Choice, name: Name, rows: Int[Tensor, " R"], count: int, stream: NoiseStream, x: Tensor
    ) -> None:
        """Draw from a proposal for some of the examples."""
        proposal, inputs = choice.proposal(name, rows), x[rows]
        # Fewer examples are decoded with more samples at a time.
        size = max(1, self.chunk_size * len(x) // len(rows))
        for start in range(0, count, size):
            z = proposal.draw(min(size, count - start), stream, inputs)
            log_w = choice.log_joint(inputs, z) - proposal.log_prob(z)
            choice.broken.update_rows(log_w, rows)
            choice.weights.update(log_w, rows)

    def _draw_more(
        self, choice: Choice | None, encoder: EncoderPass, by_encoder: Tensor, block: int, x: Tensor
    ) -> None:
        """Double the samples of an example until its standard error is small enough, up to the ceiling."""
        if self.target_se is None:
            return
        stream = Noise(self.seed, "more", block).stream()
        for name in NAMES:
            mine = by_encoder if choice is None else choice.names == NAMES.index(name)
            if choice is None and name != "encoder":
                continue
            weights = encoder.weights if name == "encoder" or choice is None else choice.weights
            while True:
                short = mine & (weights.log_mean_weight_se() > self.target_se) & (weights.count < self.most_samples)
                rows = short.nonzero()[:, 0]
                if not len(rows):
                    break
                count = int(torch.minimum(weights.count[rows], self.most_samples - weights.count[rows]).min())
                if name != "encoder" and choice is not None:
                    self._draw(choice, name, rows, count, stream, x)
                else:
                    self._draw_encoder(encoder, rows, count, stream, x)

    def _draw_encoder(
        self, encoder: EncoderPass, rows: Int[Tensor, " R"], count: int, stream: NoiseStream, x: Tensor
    ) -> None:
        part = EncoderPass(self.model, x[rows], 2, {}, 2)
        size = max(1, self.chunk_size * len(x) // len(rows))
        for start in range(0, count, size):
            draws = part.draw(min(size, count - start), stream)
            log_w = draws.log_p_x_given_z.double() + (draws.log_p_z.double() - draws.log_q_z_given_x.double())
            encoder.broken.update_rows(log_w, rows)
            encoder.weights.update(log_w, rows)

    def _estimates(self, encoder: WeightSummary, chosen: WeightSummary, by_encoder: Tensor) -> dict[str, Tensor]:
        def either(name: str) -> Tensor:
            one, other = getattr(encoder, name)(), getattr(chosen, name)()
            return torch.where(by_encoder, one, other)

        error = either("log_mean_weight_se")
        return {
            "log_px": either("log_mean_weight"),
            "log_px_se": error,
            # Second-order bias of the log of a mean; the jackknife estimates the same (Burda 2016; Nowozin 2018).
            "log_px_bias": -0.5 * error.square(),
            "ess": either("effective_sample_size"),
            "largest_weight": either("largest_share"),
            "pareto_k": either("pareto_k"),
        }

    def _against(self) -> dict[str, str]:
        """Return the name of each bound's gap."""
        return {"elbo_mc": "elbo_gap", **{name: f"{name}_gap" for name in self.bounds}}

    def _gaps(
        self, columns: dict[str, Tensor], by_encoder: Tensor, count: Tensor, paired: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return log p(x) - each bound, with its error.

        Where log p(x) comes from other samples than the bound the two errors are independent. Where it comes from the
        encoder's, `paired` is the error of their difference over the first K, from which their covariance follows.
        """
        gaps: dict[str, Tensor] = {}
        log_px, log_px_se = columns["log_px"], columns["log_px_se"]
        first_se = columns[f"L_{self.num_samples}_se"]
        for name, gap in self._against().items():
            own = columns[f"{name}_se"].square()
            covariance = 0.5 * (first_se.square() + own - paired[name].square()) * (self.num_samples / count)
            variance = log_px_se.square() + own - torch.where(by_encoder, 2 * covariance, 0.0)
            exactly = torch.where(by_encoder & (count == self.num_samples), paired[name].square(), variance)
            gaps |= {gap: log_px - columns[name], f"{gap}_se": exactly.clamp(min=0).sqrt()}
        return gaps


def ceiling(num_samples: int, max_samples: int | None, target_se: float | None) -> int:
    """Return the most samples that an example may get."""
    if target_se is None:
        return num_samples
    return 100 * num_samples if max_samples is None else max(max_samples, num_samples)

"""`evaluation=bdmc`: a lower and an upper bound on log p(x) of simulated data (bidirectional Monte Carlo)."""

import dataclasses
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Shaped
from pydantic import Field, PositiveInt
from torch import Tensor

from elbo_bench.draws import LatentVariableModel, draw, sample, score
from elbo_bench.errors import RunFailedError
from elbo_bench.evaluation.annealing.chains import (
    AnnealingKeys,
    AnnealingPath,
    Schedule,
    Start,
    forward,
    mean_weight,
    non_finite,
    reverse,
    tune,
)
from elbo_bench.evaluation.blocks import ScoredBlock, score_examples
from elbo_bench.evaluation.estimate import Estimate, Scores
from elbo_bench.evaluation.evaluator import Evaluation, Request
from elbo_bench.evaluation.metrics import column_metric, exact_mean, mean_metrics, mean_over_examples
from elbo_bench.metric import Metric
from elbo_bench.noise import Noise

DEFAULT_EXAMPLES = 100
_LABELS = {
    "log_px_lower": "stochastic lower bound on log p(x): forward AIS",
    "elbo_mc": "ELBO, by Monte Carlo",
}
_FROM_ONE_SAMPLE = {
    "log_px_upper": "stochastic upper bound on log p(x): reverse AIS from the exact sample",
    "width": "upper - lower bound",
    "eubo": "log p(x,z) - log q(z|x) at the exact z: an upper bound in expectation",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BDMC(AnnealingKeys):
    r"""Bounds log p(x) of data simulated from the model from both sides, by annealing from both ends.

    .. math::
        E \log \tfrac1C \sum_c w_c \le \log p(x) \le -E \log \tfrac1C \sum_c 1 / w'_c

    In a simulated pair (z*, x), z* is an exact sample of the posterior of x. The chains of w' start there and go down
    the path that the chains of w go up (Grosse, Ghahramani & Adams, 2015, "Sandwiching the marginal likelihood using
    bidirectional Monte Carlo"). The bounds hold in expectation for any chains, but only for simulated x. The width
    shows how well AIS with these settings works on this model, for real data that are like the simulated data.

    Only the number and the shape of the split's examples are used. The attributes are those of `AnnealingKeys`.
    """

    num_chains: Annotated[int, Field(ge=2)] = 4
    num_temperatures: PositiveInt = 500
    num_leapfrog: PositiveInt = 2
    schedule: Schedule = "linear"
    start: Start = "encoder"
    block_size: PositiveInt = 25

    def evaluate(self, model: LatentVariableModel, x: Shaped[Tensor, "N *data"], request: Request) -> Evaluation:
        """Simulate as many examples as there are in `x`, at most 100 if `num_examples` is not given, and score them."""
        if self.num_examples is None:
            x = x[:DEFAULT_EXAMPLES]

        @torch.no_grad()
        def score_block(model: LatentVariableModel, like: Tensor, block: int) -> ScoredBlock:
            z, simulated = simulate(model, like, Noise(request.seed, "bdmc-simulate", block))
            return self._score(model, simulated, z, seed=request.seed, block=block)

        # The simulated examples have no number in any data set.
        scores = score_examples(self, model, x, dataclasses.replace(request, ids=None), score=score_block)
        columns, count = scores.columns, len(scores.columns["id"])
        per_example = 2 * self.run_evaluations + self.pilot_evaluations + self.num_chains + 1
        return Evaluation(
            scores=scores,
            metrics={
                **mean_metrics(scores, _LABELS),
                **{name: _one_sample_metric(columns[name], label) for name, label in _FROM_ONE_SAMPLE.items()},
                **{
                    f"acceptance_{way}": column_metric(
                        columns[f"acceptance_{way}"], "share", f"accepted moves of Hamiltonian Monte Carlo, {way}"
                    )
                    for way in ("forward", "reverse")
                },
            },
            tier="sandwiched",
            estimator="bdmc",
            diagnostics={
                "num_samples": self.num_chains,
                "num_temperatures": self.num_temperatures,
                "width_mean": exact_mean(columns["width"]),
                "width_max": float(columns["width"].max()),
            },
            decoder_evaluations=per_example * count,
        )

    def _score(self, model: LatentVariableModel, x: Tensor, z: Tensor, *, seed: int, block: int) -> ScoredBlock:
        # The step sizes depend on x and on the pilot's noise, never on z, so both directions have the same steps.
        pilot = Noise(seed, "bdmc-pilot", block).stream()
        path = AnnealingPath.of(model, x, self.start, pilot)
        steps = tune(self, path, pilot)
        up = forward(self, path, steps, Noise(seed, "bdmc-forward", block).stream())
        chains, noise = z.expand(self.num_chains, *z.shape), Noise(seed, "bdmc-reverse", block).stream()
        down = reverse(self, path, steps, chains, noise=noise)
        lower, upper = mean_weight(up.log_w)[0], -mean_weight(-down.log_w)[0].value
        noise_of_elbo = Noise(seed, "bdmc-elbo", block)
        elbo = draw(
            model, x, self.num_chains, noise_of_elbo, posterior=path.posterior, reparameterised=False
        ).log_w.double()
        columns = {
            "log_px_upper": upper,
            "width": upper - lower.value,
            "eubo": score(model, path.posterior, x, z[None]).log_w[0].double().cpu().numpy(),
            "acceptance_forward": up.acceptance.mean(0).cpu().numpy(),
            "acceptance_reverse": down.acceptance.mean(0).cpu().numpy(),
        }
        met = non_finite(path, steps, torch.cat([up.log_w, down.log_w]))
        estimates = {"log_px_lower": lower, "elbo_mc": Estimate.mean_of(elbo)}
        return ScoredBlock(Scores(estimates, columns), met, always_finite=("log_px_lower", "log_px_upper"))


def simulate(
    model: LatentVariableModel, like: Shaped[Tensor, "B *data"], noise: Noise
) -> tuple[Float[Tensor, "B *event"], Shaped[Tensor, "B *data"]]:
    """Return pairs (z, x) of the model's joint distribution, in the number, shape and dtype of `like`."""
    stream = noise.stream()
    z = sample(model.prior(), len(like), stream, like=like, reparameterised=False)
    try:
        x = sample(model.likelihood(z), 1, stream, like=like, reparameterised=False)[0]
    except RuntimeError as error:  # torch refuses probabilities that are not in [0, 1]
        raise RunFailedError(f"the model cannot be sampled from: {str(error).splitlines()[0]}") from None
    return z, x.reshape(like.shape).to(like.dtype)


def _one_sample_metric(column: np.ndarray, label: str) -> Metric:
    """Return the mean of a column that stems from one exact sample for each example.

    All reverse chains start at that sample. They do not show its error, which is part of the error over the examples.
    """
    return {**mean_over_examples(Estimate(column, np.zeros_like(column)), label), "se_mc": None}

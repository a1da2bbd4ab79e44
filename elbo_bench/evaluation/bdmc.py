"""`evaluation=bdmc`: log p(x) of simulated data between a lower and an upper bound (bidirectional Monte Carlo)."""

import dataclasses
import math
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Shaped
from pydantic import Field, PositiveInt
from torch import Tensor

from elbo_bench.draws import LatentVariableModel, draw_from, sample, score
from elbo_bench.errors import RunFailedError
from elbo_bench.evaluation.ais import mean_weight
from elbo_bench.evaluation.annealing import Annealing, Path, Schedule, Start
from elbo_bench.evaluation.blocks import score_examples
from elbo_bench.evaluation.evaluator import Evaluation, Evaluator, Request
from elbo_bench.evaluation.finished_blocks import Rows
from elbo_bench.evaluation.metrics import exact_mean, mean_over_examples, plain_metric
from elbo_bench.noise import Noise

DEFAULT_EXAMPLES = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class BDMC(Evaluator):
    r"""Sandwiches log p(x) of data simulated from the model, by annealing from both ends.

    .. math::
        E \log \tfrac1C \sum_c w_c \le \log p(x) \le -E \log \tfrac1C \sum_c 1 / w'_c

    A pair (z*, x) of the model has in z* an exact sample of its posterior, and from there the chains of w' run down
    the path that those of w climb (Grosse, Ghahramani & Adams, 2015, "Sandwiching the marginal likelihood using
    bidirectional Monte Carlo"). The bounds hold in expectation, whatever the chains do, and only for such x: the
    width says how far AIS is to be trusted on this model and these settings, for real data like its own.

    The split gives the number and the shape of the examples and nothing else.

    Attributes:
        num_chains: Chains in each direction, C.
        num_temperatures: Steps from b = 0 to b = 1, T.
        num_leapfrog: Leapfrog steps of a trajectory, one trajectory a temperature.
        schedule: `linear`, or `sigmoid`, which is finer at both ends.
        start: The upper end of the sandwich's path: `prior`, or `encoder`, the model's q(z|x).
    """

    num_chains: Annotated[int, Field(ge=2)] = 4
    num_temperatures: PositiveInt = 500
    num_leapfrog: PositiveInt = 2
    schedule: Schedule = "linear"
    start: Start = "encoder"
    block_size: PositiveInt = 25

    @property
    def samples(self) -> int:
        """C."""
        return self.num_chains

    def evaluate(self, model: LatentVariableModel, x: Shaped[Tensor, "N *data"], request: Request) -> Evaluation:
        """Simulate as many examples as there are in `x`, at most 100 if `num_examples` is not given, and score them."""
        if self.num_examples is None:
            x = x[:DEFAULT_EXAMPLES]
        annealing = Annealing(
            num_chains=self.num_chains,
            num_temperatures=self.num_temperatures,
            num_leapfrog=self.num_leapfrog,
            schedule=self.schedule,
        )

        @torch.no_grad()
        def simulate_and_score(like: Tensor, block: int) -> Rows:
            z, x = simulate(model, like, Noise(request.seed, "bdmc-simulate", block))
            return _score(model, x, z, annealing, self.start, request.seed, block)

        # The simulated examples have no number in any data set.
        request = dataclasses.replace(request, ids=None)
        examples = score_examples(
            model, x, simulate_and_score, block_size=self.block_size, workers=self.workers, request=request
        )
        count, width = len(examples["id"]), examples["width"]
        per_example = 2 * annealing.run_evaluations + annealing.pilot_evaluations + self.num_chains + 1
        return Evaluation(
            examples=examples,
            metrics={
                **{
                    name: mean_over_examples(examples[name], examples[f"{name}_se"])
                    for name in ("log_px_lower", "elbo_mc")
                },
                # One exact sample an example, from which every reverse chain starts: the chains do not show its error,
                # which is part of the error over the examples.
                **{
                    name: {**mean_over_examples(examples[name], np.zeros(count)), "se_mc": None}
                    for name in ("log_px_upper", "width", "eubo")
                },
                **{
                    name: plain_metric(exact_mean(examples[name]), count, "share")
                    for name in ("acceptance_forward", "acceptance_reverse")
                },
            },
            tier="sandwiched",
            estimator="bdmc",
            diagnostics={
                "num_samples": self.num_chains,
                "num_temperatures": self.num_temperatures,
                "width_mean": exact_mean(width),
                "width_max": float(width.max()),
            },
            decoder_evaluations=per_example * count,
        )


def simulate(
    model: LatentVariableModel, like: Shaped[Tensor, "B *data"], noise: Noise
) -> tuple[Float[Tensor, "B *event"], Shaped[Tensor, "B *data"]]:
    """Return pairs (z, x) of the model's joint distribution, as many and of the shape and dtype of `like`."""
    stream = noise.stream()
    z = sample(model.prior(), len(like), stream, like=like, reparameterised=False)
    try:
        x = sample(model.likelihood(z), 1, stream, like=like, reparameterised=False)[0]
    except RuntimeError as error:  # torch's, of probabilities that are none
        raise RunFailedError(f"the model cannot be sampled from: {str(error).splitlines()[0]}") from None
    return z, x.reshape(like.shape).to(like.dtype)


def _score(
    model: LatentVariableModel, x: Tensor, z: Tensor, annealing: Annealing, start: Start, seed: int, block: int
) -> Rows:
    # The step sizes may depend on x and on the pilot's noise, never on z: the steps of both directions are the same.
    pilot = Noise(seed, "bdmc-pilot", block).stream()
    path = Path.of(model, x, start, pilot)
    steps = annealing.tune(path, pilot)
    chains = z.expand(annealing.num_chains, *z.shape)
    up = annealing.forward(path, steps, Noise(seed, "bdmc-forward", block).stream())
    down = annealing.reverse(path, steps, chains, Noise(seed, "bdmc-reverse", block).stream())
    lower, upper = mean_weight(up.log_w, "log_px_lower"), mean_weight(-down.log_w, "log_px_upper")
    noise = Noise(seed, "bdmc-elbo", block)
    elbo = draw_from(model, path.posterior, x, annealing.num_chains, noise, reparameterised=False).log_w.double()
    columns = {
        "log_px_lower": lower["log_px_lower"],
        "log_px_lower_se": lower["log_px_lower_se"],
        "log_px_upper": -upper["log_px_upper"],
        "width": -upper["log_px_upper"] - lower["log_px_lower"],
        "eubo": score(model, path.posterior, x, z[None]).log_w[0].double(),
        "elbo_mc": elbo.mean(0),
        "elbo_mc_se": elbo.std(0) / math.sqrt(len(elbo)),
        "acceptance_forward": up.acceptance.mean(0),
        "acceptance_reverse": down.acceptance.mean(0),
    }
    weights = torch.cat([up.log_w, down.log_w])
    unscaled = ~torch.isfinite(path.end_scale).flatten(1).all(1)
    columns["nan"] = torch.isnan(weights).any(0) | torch.isnan(steps).any(0) | unscaled
    columns["infinite"] = (weights == math.inf).any(0)
    columns["zero"] = (weights == -math.inf).any(0)
    return {name: column.cpu().numpy() for name, column in columns.items()}

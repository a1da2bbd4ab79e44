"""The proposal that each example is scored by, chosen by a pilot whose samples are in no estimate."""

import dataclasses
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution

from elbo_bench.errors import in_a_line
from elbo_bench.evaluation.estimate import Estimate
from elbo_bench.evaluation.evaluator import UnsuitableModelError
from elbo_bench.evaluation.importance_sampling.keys import ImportanceKeys
from elbo_bench.evaluation.importance_sampling.proposals import (
    NAMES,
    Name,
    Proposal,
    mixture,
    proposal_of,
    widen,
    widening_of,
)
from elbo_bench.evaluation.importance_sampling.refine import Effort, Refined, affordable, num_starts, refine
from elbo_bench.evaluation.importance_sampling.streaming import NonFinite, WeightSums
from elbo_bench.evaluation.scored_model import EncodedBlock
from elbo_bench.noise import NoiseStream

_TEMPER = 0.25  # power of the weights by which starts are drawn: some starts lie away from the best sample
_LEAST_DISTANCE = 0.35  # between starts, so that they are not all in the basin of the best one
_LEAST_SHARE_DRAWN = 0.25  # of the budget; the pilot and the fit may not take more than the rest


@dataclasses.dataclass(frozen=True)
class Choice:
    """The proposals of a block of B examples.

    Attributes:
        names: Index into `NAMES` of each example's proposal.
        num_samples: Samples to draw from a proposal.
        cost: Decoder evaluations spent on each example so far.
        pilot: The pilot's estimate of log p(x); None if there was no pilot.
        fit: The fitted distributions; None if there are none.
        fit_problem: Why nothing could be fitted; empty if something was, or nothing was to be.
    """

    names: Int[Tensor, " B"]
    num_samples: int
    cost: Float[Tensor, " B"]
    pilot: Estimate | None = None
    fit: Refined | None = None
    fit_problem: str = ""

    def proposal(self, name: Name, keys: ImportanceKeys, block: EncodedBlock, rows: Int[Tensor, " R"]) -> Proposal:
        """Return a proposal of some of the examples."""
        if name == "refined" or len(rows) == len(block.x):
            posterior = block.posterior  # a fit does not use it
        else:
            posterior = block.model.posterior(block.x[rows])
        fit = None if self.fit is None else self.fit.rows(rows)
        return proposal_of(name, keys, posterior, block.prior, fit=fit)


def choose(keys: ImportanceKeys, block: EncodedBlock, stream: NoiseStream, broken: NonFinite) -> Choice:
    r"""Return the proposal of each example: the one that the keys name, or for `auto` the best by the pilot.

    The pilot draws from q, from q widened, from the prior and from the prior widened. For `auto` it then draws from the
    fitted proposal too. Each candidate's second moment is estimated over *all* samples by the balance heuristic
    (Veach & Guibas, 1995),

    .. math:: E_{q_j}[w_j^2] \approx \frac1n \sum_i \frac{p(x, z_i)^2}{q_j(z_i) q_{pool}(z_i)}

    so that a proposal that is too narrow is judged by the samples of the others.

    Args:
        keys: Keys.
        block: The examples.
        stream: Source of random numbers.
        broken: Takes in the pilot's log-weights.

    Raises:
        ValueError: The proposal does not exist for this model, or the budget is too small for it.
    """
    wanted, num_pilot, x = keys.proposal, keys.num_pilot, block.x
    cost = torch.full((len(x),), float(num_pilot), dtype=torch.float64, device=x.device)
    names = torch.full((len(x),), 0 if wanted == "auto" else NAMES.index(wanted), device=x.device)
    if not num_pilot:
        return Choice(names, keys.num_samples, cost)
    pool = _pilot_pool(keys, block)
    z = pool.draw(num_pilot, stream, x)
    joint, log_pool = block.log_joint(z, keys.chunk_size), pool.log_prob(z)
    fit, fit_problem = None, ""
    effort = _affordable(block.posterior, keys) if wanted in ("refined", "auto") else None
    if effort is not None:
        try:
            fit = refine(block.model, x, *_starts(block, z, joint - log_pool, stream), effort=effort, stream=stream)
            cost = cost + fit.cost
        except Exception as error:  # derivatives of a user's model: without them the other proposals remain
            if wanted == "refined":
                raise UnsuitableModelError(f"proposal=refined: {in_a_line(error)}") from None
            fit_problem = in_a_line(error)
    if wanted == "auto":
        candidates: dict[Name, Proposal] = {}
        for name in NAMES:
            try:
                candidates[name] = proposal_of(name, keys, block.posterior, block.prior, fit=fit)
            except UnsuitableModelError:
                continue
        if fit is not None:
            count = max(2, num_pilot // 2)
            more = candidates["refined"].draw(count, stream, x)
            both = torch.tensor([len(z), count], dtype=torch.float64, device=x.device).log() - math.log(len(z) + count)
            z, joint = torch.cat([z, more]), torch.cat([joint, block.log_joint(more, keys.chunk_size)])
            log_pool = torch.logaddexp(pool.log_prob(z) + both[0], candidates["refined"].log_prob(z) + both[1])
            cost = cost + count
        moments = [torch.logsumexp(2 * joint - log_pool - each.log_prob(z), 0) for each in candidates.values()]
        best = torch.nan_to_num(torch.stack(moments), nan=math.inf).argmin(0)
        names = torch.tensor([NAMES.index(name) for name in candidates], device=x.device)[best]
    pilot = WeightSums(len(x), x.device)
    pilot.update(joint - log_pool)
    broken.update_errors(joint - log_pool)
    left = keys.num_samples - math.ceil(float(cost.max()))
    num_samples = max(2, math.ceil(_LEAST_SHARE_DRAWN * keys.num_samples), left)
    return Choice(names, num_samples, cost, pilot.estimate(), fit, fit_problem)


def check_proposal(posterior: Distribution, keys: ImportanceKeys) -> None:
    """Refuse a proposal that does not exist for a kind of latent, or that K samples do not pay for.

    Raises:
        ValueError: The proposal cannot be used. The message says what to change.
    """
    if keys.proposal in ("widened", "refined") and widen(posterior, 1.0) is None:
        raise UnsuitableModelError(
            f"proposal={keys.proposal}: it needs a latent that is a real vector, and a q(z|x) with mean and scale; "
            "did you mean proposal=mixture?"
        )
    if keys.proposal == "refined" and _affordable(posterior, keys) is None:
        sizes = (dataclasses.replace(keys, num_samples=k, pilot_share=0.1) for k in range(100, 10**7, 100))
        enough = next(each.num_samples for each in sizes if _affordable(posterior, each) is not None)
        raise ValueError(
            f"num_samples={keys.num_samples} does not pay for proposal=refined of {int(posterior.event_shape[0])} "
            f"latent dimensions: about {enough} do"
        )


def _pilot_pool(keys: ImportanceKeys, block: EncodedBlock) -> Proposal:
    """Return the mixture that the pilot draws from: q, q widened, the prior, and the prior widened.

    An unusual example may have its posterior five standard deviations out, where the prior never draws.
    """
    factor = widening_of(keys, block.posterior)
    wide, far = widen(block.posterior, factor), widen(block.prior, 1 + (factor - 1) / 2)
    if wide is None or far is None:
        return mixture((block.posterior, 0.5), (block.prior, 0.5))
    return mixture((block.posterior, 0.2), (wide, 0.3), (block.prior, 0.3), (far, 0.2))


def _affordable(posterior: Distribution, keys: ImportanceKeys) -> Effort | None:
    """Return the effort of fitting that K samples pay for; None if there is none or the latent has no gradient."""
    if widen(posterior, 1.0) is None or keys.num_pilot < num_starts(int(posterior.event_shape[0])):
        return None
    return affordable(int(posterior.event_shape[0]), keys.num_samples // 2 - keys.num_pilot)


def _starts(
    block: EncodedBlock, z: Float[Tensor, "P B D"], log_w: Float[Tensor, "P B"], stream: NoiseStream
) -> tuple[Float[Tensor, "S B D"], Float[Tensor, "B D"]]:
    """Return latents to start a fit from, and the scale of its steps.

    The starts are the encoder's mean, the pilot's best sample, and distant samples drawn by their tempered weights.
    """
    around = widen(block.posterior, 1.0)
    assert around is not None
    # Gumbel's trick: the largest of log-weights plus Gumbel noise are draws without replacement.
    gumbel = -torch.log(-torch.log(stream.uniform(log_w.shape, device=z.device).clamp(min=1e-12)))
    tempered = torch.nan_to_num(_TEMPER * log_w, nan=-math.inf) + gumbel
    column = torch.arange(len(block.x), device=z.device)
    tempered[log_w.argmax(0), column] = math.inf
    starts = [around.mean]
    for _ in range(num_starts(z.shape[-1]) - 1):
        starts.append(z[tempered.argmax(0), column])
        near = (z - starts[-1]).square().sum(-1) < _LEAST_DISTANCE**2
        tempered = torch.where(near, -math.inf, tempered)
    return torch.stack(starts), around.stddev.clamp(min=0.02)  # a collapsed q would not let the search move

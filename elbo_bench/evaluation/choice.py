"""Which proposal an example is scored by: chosen by a pilot whose draws are then thrown away."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.distributions import Distribution

from elbo_bench.draws import LatentVariableModel
from elbo_bench.errors import in_a_line
from elbo_bench.evaluation.evaluator import UnsuitableModelError
from elbo_bench.evaluation.proposals import NAMES, Name, Proposal, default_widening, of, widen
from elbo_bench.evaluation.refine import Effort, Refined, affordable, num_starts, refine
from elbo_bench.evaluation.streaming import NonFinite, WeightSummary
from elbo_bench.noise import NoiseStream

_TEMPER = 0.25  # power of the weights by which starts are drawn: some apart from the best
_MOST_PILOT = 1000  # samples of a pilot, which are held at once: memory must not grow with K
_APART = 0.35  # distance between starts, so that they are not all in the basin of the best
_LEAST_SHARE_DRAWN = 0.25  # of the budget; the pilot and the fitting may not take more than the rest


@dataclasses.dataclass
class Choice:
    """What a pilot found out about a block of B examples.

    Attributes:
        model: The model.
        x: The examples.
        names: Index into `NAMES` of the proposal of each example.
        num_samples: Samples that its proposal is to draw.
        cost: Decoder evaluations spent on each example so far.
        weights: Log-weights drawn from the proposals, other than the encoder's own.
        broken: What was met that is no number.
        pilot: The log-weights of the pilot, for a second opinion; None if there was none.
        refined: The distributions that were fitted, if any were.
        widening: How much wider than q a widened proposal is.
        prior_share: What a defensive mixture draws from the prior.
        fit_problem: Why nothing could be fitted; empty if something was, or nothing was to be.
    """

    model: LatentVariableModel
    x: Shaped[Tensor, "B *data"]
    names: Int[Tensor, " B"]
    num_samples: int
    cost: Float[Tensor, " B"]
    weights: WeightSummary
    broken: NonFinite
    pilot: WeightSummary | None
    refined: Refined | None
    widening: float
    prior_share: float
    fit_problem: str = ""

    def groups(self) -> Iterator[tuple[Name, Int[Tensor, " R"]]]:
        """Yield each proposal that some examples are scored by, with their rows."""
        for index, name in enumerate(NAMES):
            rows = (self.names == index).nonzero()[:, 0]
            if len(rows):
                yield name, rows

    def proposal(self, name: Name, rows: Int[Tensor, " R"]) -> Proposal:
        """Return a proposal of some of the examples."""
        return _proposal(name, self.model, self.x[rows], self.widening, self.prior_share, self.refined, rows)

    def log_joint(self, x: Shaped[Tensor, "R *data"], z: Shaped[Tensor, "K R *event"]) -> Float[Tensor, "K R"]:
        """Return log p(x, z) in nats, in float64."""
        return log_joint(self.model, x, z)

    def second_opinion(self, log_px: Float[Tensor, " B"], error: Float[Tensor, " B"]) -> dict[str, Tensor]:
        """Return by how much the pilot's estimate of log p(x) lies above another one: in nats, in standard errors.

        The pilot also looks where the encoder does not: from the prior, and around q. What it finds and the estimate
        did not is mass that was missed.
        """
        if self.pilot is None:
            return {}
        return excess(self.pilot.log_mean_weight(), self.pilot.log_mean_weight_se(), log_px, error)


def excess(
    opinion: Float[Tensor, " B"], own: Float[Tensor, " B"], log_px: Float[Tensor, " B"], error: Float[Tensor, " B"]
) -> dict[str, Tensor]:
    """Return by how much one estimate lies above another from other draws: in nats, and in standard errors."""
    nats = (opinion - log_px).clamp(min=0)  # an opinion of -inf, where nothing was hit, is none
    errors = nats / (own.square() + error.square()).sqrt().clamp(min=1e-9)
    return {"missed": nats, "missed_errors": torch.where(nats > 0, errors, 0.0)}


def choose(
    model: LatentVariableModel,
    x: Shaped[Tensor, "B *data"],
    posterior: Distribution,
    *,
    wanted: Name | Literal["auto"],
    budget: int,
    num_pilot: int,
    widening: float | None,
    prior_share: float,
    most_samples: int,
    chunk_size: int,
    stream: NoiseStream,
) -> Choice:
    r"""Return the proposal of each example: the one that is wanted, or for `auto` the best by the pilot.

    The pilot draws from q, from q widened, from the prior and from the prior widened; then, for `auto`, from the fitted
    proposal too. Each candidate's second moment is estimated over *all* draws by the balance heuristic (Veach & Guibas,
    1995),

    .. math:: E_{q_j}[w_j^2] \approx \frac1n \sum_i \frac{p(x, z_i)^2}{q_j(z_i) q_{pool}(z_i)}

    so that a proposal too narrow to see what it misses is judged by the draws of those that see it.

    Raises:
        ValueError: The proposal does not exist for this model, or the budget is too small for it.
    """
    size, device = len(x), x.device
    factor = default_widening(int(posterior.event_shape.numel())) if widening is None else widening
    rows = torch.arange(size, device=device)
    pool = _pilot_pool(model, posterior, factor, size, device)
    cost = torch.full((size,), float(num_pilot), dtype=torch.float64, device=device)
    refined: Refined | None = None
    fit_problem = ""
    if not num_pilot:
        return Choice(
            model=model,
            x=x,
            names=torch.full((size,), NAMES.index(wanted), device=device),
            num_samples=budget,
            cost=cost,
            weights=WeightSummary(size, most_samples, device),
            broken=NonFinite(size, device),
            pilot=None,
            refined=None,
            widening=factor,
            prior_share=prior_share,
        )
    z = pool.draw(num_pilot, stream, x)
    joint = _log_joint_in_chunks(model, x, z, chunk_size)
    log_pool = pool.log_prob(z)
    if wanted in ("refined", "auto"):
        effort = _affordable(posterior, budget, num_pilot)
        if effort is not None:
            try:
                refined = _fit(model, x, posterior, z, joint - log_pool, effort, stream)
                cost = cost + refined.cost
            except Exception as error:  # derivatives of a user's model: without them the other proposals remain
                if wanted == "refined":
                    raise UnsuitableModelError(f"proposal=refined: {in_a_line(error)}") from None
                fit_problem = in_a_line(error)
    names = torch.full((size,), 0 if wanted == "auto" else NAMES.index(wanted), device=device)
    if wanted == "auto":
        candidates: dict[Name, Proposal] = {}
        for name in NAMES:
            try:
                candidates[name] = _proposal(name, model, x, factor, prior_share, refined, rows)
            except ValueError:
                continue
        if refined is not None:
            count = max(2, num_pilot // 2)
            more = candidates["refined"].draw(count, stream, x)
            both = torch.tensor([len(z), count], dtype=torch.float64, device=device).log() - math.log(len(z) + count)
            z, joint = torch.cat([z, more]), torch.cat([joint, _log_joint_in_chunks(model, x, more, chunk_size)])
            log_pool = torch.logaddexp(pool.log_prob(z) + both[0], candidates["refined"].log_prob(z) + both[1])
            cost = cost + count
        moments = torch.stack(
            [torch.logsumexp(2 * joint - log_pool - each.log_prob(z), 0) for each in candidates.values()]
        )
        best = torch.nan_to_num(moments, nan=math.inf).argmin(0)
        names = torch.tensor([NAMES.index(name) for name in candidates], device=device)[best]
    pilot, broken = WeightSummary(size, len(z), device), NonFinite(size, device)
    pilot.update(joint - log_pool)
    broken.update(joint - log_pool)
    spent = math.ceil(float(cost.max()))
    return Choice(
        model=model,
        x=x,
        names=names,
        num_samples=max(2, math.ceil(_LEAST_SHARE_DRAWN * budget), budget - spent),
        cost=cost,
        weights=WeightSummary(size, most_samples, device),
        broken=broken,
        pilot=pilot,
        refined=refined,
        widening=factor,
        prior_share=prior_share,
        fit_problem=fit_problem,
    )


def num_pilot(num_samples: int, share: float) -> int:
    """Return the samples of a pilot: 0 for no share, else at least the two that an error takes."""
    return max(2, min(_MOST_PILOT, round(share * num_samples))) if share else 0


def check_proposal(posterior: Distribution, wanted: Name | Literal["auto"], num_samples: int, pilot: int) -> None:
    """Refuse a proposal that does not exist for a kind of latent, or that the samples do not pay for.

    Raises:
        ValueError: So it is; the line says what to change.
    """
    if wanted in ("widened", "refined") and widen(posterior, 1.0) is None:
        raise UnsuitableModelError(
            f"proposal={wanted}: it needs a latent that is a real vector, and a q(z|x) with mean and scale; "
            "did you mean proposal=mixture?"
        )
    if wanted == "refined" and _affordable(posterior, num_samples, pilot) is None:
        num_dims = int(posterior.event_shape[0])
        enough = next(k for k in range(100, 10**7, 100) if _affordable(posterior, k, k // 10) is not None)
        raise ValueError(
            f"num_samples={num_samples} does not pay for proposal=refined of {num_dims} latent dimensions: "
            f"about {enough} do"
        )


def log_joint(
    model: LatentVariableModel, x: Shaped[Tensor, "B *data"], z: Shaped[Tensor, "K B *event"]
) -> Float[Tensor, "K B"]:
    """Return log p(x, z) in nats, in float64."""
    return model.likelihood(z).log_prob(x).double() + model.prior().log_prob(z).double()


def _log_joint_in_chunks(model: LatentVariableModel, x: Tensor, z: Tensor, chunk_size: int) -> Float[Tensor, "K B"]:
    return torch.cat([log_joint(model, x, part) for part in z.split(chunk_size)])


def _pilot_pool(
    model: LatentVariableModel, posterior: Distribution, factor: float, size: int, device: torch.device
) -> Proposal:
    """Return where the pilot looks: at q and around it, over the prior, and beyond the prior's shoulders.

    An example unlike any other may have its posterior five standard deviations out, where the prior never draws.
    """
    prior = model.prior()
    wide, far = widen(posterior, factor), widen(prior, 1 + (factor - 1) / 2)
    if wide is None or far is None:
        return of((posterior, 0.5), (prior, 0.5), num_examples=size, device=device)
    return of((posterior, 0.2), (wide, 0.3), (prior, 0.3), (far, 0.2), num_examples=size, device=device)


def _proposal(
    name: Name,
    model: LatentVariableModel,
    x: Tensor,
    widening: float,
    prior_share: float,
    refined: Refined | None,
    rows: Tensor,
) -> Proposal:
    posterior, size, device = model.posterior(x), len(x), x.device
    if name == "encoder":
        return of((posterior, 1.0), num_examples=size, device=device)
    if name == "refined":
        if refined is None:
            raise UnsuitableModelError("proposal=refined: nothing was fitted")
        num_dims = refined.loc.shape[-1]
        # The tail that a normal distribution lacks; the more dimensions, the dearer.
        parts = refined.parts(rows, 1 + 0.7 / math.sqrt(num_dims), x.dtype)
        # Draws of the prior bound the weights, and in few dimensions find the mass that no start led to.
        share = 1 / (2 + num_dims / 2)
        shares = refined.log_shares[:, rows] + math.log(1 - share)
        last = torch.full((1, size), math.log(share), dtype=shares.dtype, device=device)
        return Proposal((*parts, model.prior()), torch.cat([shares, last]))
    wide = widen(posterior, widening)
    if name == "widened":
        if wide is None:
            raise UnsuitableModelError(
                "proposal=widened: q(z|x) is no distribution of real vectors with a mean and a scale"
            )
        return of((wide, 1.0), num_examples=size, device=device)
    around = posterior if wide is None else wide
    return of((around, 1 - prior_share), (model.prior(), prior_share), num_examples=size, device=device)


def _affordable(posterior: Distribution, budget: int, num_pilot: int) -> Effort | None:
    """Return the effort of fitting that the budget pays, or None if it pays none or the latent has no gradient."""
    if widen(posterior, 1.0) is None or num_pilot < num_starts(int(posterior.event_shape[0])):
        return None
    return affordable(int(posterior.event_shape[0]), budget // 2 - num_pilot)


def _fit(
    model: LatentVariableModel,
    x: Tensor,
    posterior: Distribution,
    z: Float[Tensor, "P B D"],
    log_w: Float[Tensor, "P B"],
    effort: Effort,
    stream: NoiseStream,
) -> Refined:
    """Fit from the encoder's mean, the pilot's best draw, and others apart from it, drawn by their tempered weights."""
    around = widen(posterior, 1.0)
    assert around is not None
    # Gumbel's trick: the largest of log-weights plus Gumbel noise are draws without replacement.
    gumbel = -torch.log(-torch.log(stream.uniform(log_w.shape, device=z.device).clamp(min=1e-12)))
    tempered = torch.nan_to_num(_TEMPER * log_w, nan=-math.inf) + gumbel
    column = torch.arange(len(x), device=z.device)
    tempered[log_w.argmax(0), column] = math.inf
    starts = [around.mean]
    for _ in range(num_starts(z.shape[-1]) - 1):
        starts.append(z[tempered.argmax(0), column])
        near = (z - starts[-1]).square().sum(-1) < _APART**2
        tempered = torch.where(near, -math.inf, tempered)
    scale = around.stddev.clamp(min=0.02)  # a q that has collapsed would not let the ascent move
    return refine(model, x, torch.stack(starts), scale, effort=effort, stream=stream)

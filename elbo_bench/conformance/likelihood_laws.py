"""Laws of p(x|z): it is normalised, and its samples are its own."""

import torch
from torch import Tensor
from torch.distributions import Distribution

from elbo_bench.conformance.data_kinds import DataKind
from elbo_bench.conformance.law import Law, LawBroken, one_line
from elbo_bench.conformance.mean_test import features, require_mean
from elbo_bench.conformance.model_subject import ModelSubject, sampled
from elbo_bench.draws import LatentVariableModel

S = ModelSubject
_TOLERANCE = 1e-4
_MOST_LEVELS = 32


def _few_values(subject: S) -> tuple[DataKind, LatentVariableModel] | str:
    """Return the model for data of one or two values, or why there is none."""
    for shape in ((2,), (1,)) if subject.kind.num_levels is not None else ((1,),):
        kind = subject.kind.of_shape(shape)
        if kind.num_levels is not None and kind.every_example() is None:
            continue
        try:
            return kind, subject.model(kind)
        except Exception as error:  # a model for images may fail in any way
            return f"it takes no data of {kind}: {one_line(error)}"
    return "its data have too many levels"


def _has_few_values(subject: S) -> str | None:
    found = _few_values(subject)
    return found if isinstance(found, str) else None


def _values(kind: DataKind, likelihood: Distribution) -> tuple[Tensor, float]:
    """Return points of x, `[G, *shape]`, and what each stands for in a sum or an integral."""
    every = kind.every_example()
    if every is not None:
        return every, 1.0
    drawn = sampled(likelihood, 4000, "values").flatten()
    if bool(((drawn >= 0) & (drawn <= 1)).all()):
        low, high = 0.0, 1.0
    else:
        low, high = float(drawn.mean() - 40 * drawn.std()), float(drawn.mean() + 40 * drawn.std())
    size = 200_000
    midpoints = low + (high - low) * (torch.arange(size, dtype=torch.float64) + 0.5) / size
    return midpoints.reshape(-1, *kind.shape), (high - low) / size


def _likelihood(subject: S) -> str:
    found = _few_values(subject)
    assert not isinstance(found, str)
    kind, model = found
    worst = smallest = 0.0
    for row in range(3):
        likelihood = model.likelihood(sampled(model.prior(), 3, "latents")[row])
        points, cell = _values(kind, likelihood)
        with torch.no_grad():
            probabilities = likelihood.log_prob(points).exp() * cell
        total = float(probabilities.sum())
        if not abs(total - 1) <= _TOLERANCE:
            raise LawBroken(f"p(x|z) sums to {total:.6g} over all x of {kind}")
        worst = max(worst, abs(total - 1))
        drawn = sampled(likelihood, subject.draws, "observations").flatten(1)
        centre, scale = drawn.mean(0), drawn.std(0) + 1e-12
        expected = probabilities @ features((points.flatten(1) - centre) / scale)
        smallest = max(smallest, require_mean(features((drawn - centre) / scale), expected, "samples of p(x|z)", 1e-3))
    return f"within {max(worst, 1e-16):.0e}; samples: sees {smallest:.2g} standard deviations"


def _of_many_values(subject: S) -> str | None:
    if not isinstance(_few_values(subject), str):
        return "it is summed up over one or two values"
    levels = subject.kind.num_levels
    return None if levels is not None and levels <= _MOST_LEVELS else f"its data are {subject.kind}"


def _odds(subject: S) -> str:
    r"""Hold the mean of r(x) / p(x|z) over samples x of p(x|z) against 1, for r normalised and close to it."""
    model, levels, smallest = subject.model(), subject.kind.num_levels or 0, 0.0
    for row in range(2):
        likelihood = model.likelihood(sampled(model.prior(), 2, "latents")[row])
        shape = torch.nn.functional.one_hot(sampled(likelihood, subject.draws, "fitted").long(), levels).double()
        log_r = ((shape.sum(0) + 1) / (len(shape) + levels)).log()
        drawn = sampled(likelihood, subject.draws, "observations")
        chosen = log_r.expand(len(drawn), *log_r.shape).gather(-1, drawn.long()[..., None])[..., 0]
        with torch.no_grad():
            odds = (chosen.flatten(1).sum(1) - likelihood.log_prob(drawn)).exp()
        smallest = max(smallest, require_mean(odds, 1.0, "the mean of r(x) / p(x|z), which is 1 for any normalised r,"))
    return f"sees {smallest:.1g} nats"


LIKELIHOOD_LAWS: tuple[Law[ModelSubject], ...] = (
    Law(
        name="p(x|z) sums to one, and its samples are its own",
        source="a likelihood is normalised",
        check=_likelihood,
        applies=_has_few_values,
    ),
    Law(
        name="p(x|z) of many values is normalised as its samples say",
        source="a likelihood is normalised",
        check=_odds,
        applies=_of_many_values,
    ),
)

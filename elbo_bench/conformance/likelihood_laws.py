"""Laws of p(x|z): it is normalised, and its samples follow it."""

import torch
from torch import Tensor
from torch.distributions import Distribution

from elbo_bench.conformance.data_kinds import DataKind
from elbo_bench.conformance.law import LawBroken, LawSkipped, law, skip_if
from elbo_bench.conformance.mean_test import require_mean, require_samples
from elbo_bench.conformance.model_subject import ModelSubject as S
from elbo_bench.conformance.model_subject import sampled
from elbo_bench.draws import LatentVariableModel
from elbo_bench.errors import in_a_line

_TOLERANCE = 1e-4
_MOST_LEVELS = 32


def _few_values(subject: S) -> tuple[DataKind, LatentVariableModel]:
    """Return the model for data of two values or one.

    Raises:
        LawSkipped: The model does not accept such data.
    """
    for shape in ((2,), (1,)) if subject.kind.num_levels is not None else ((1,),):
        kind = subject.kind.of_shape(shape)
        if kind.num_levels is not None and kind.every_example() is None:
            continue
        try:
            return kind, subject.model(kind)
        except Exception as error:  # a model for images may raise anything
            raise LawSkipped(f"it does not accept data of {kind}: {in_a_line(error)}") from None
    raise LawSkipped("its data have too many levels to sum over all values")


def _values(kind: DataKind, likelihood: Distribution) -> tuple[Tensor, float]:
    """Return points of x, `[G, *shape]`, and the volume of the cell of each (1 for discrete data)."""
    every = kind.every_example()
    if every is not None:
        return every, 1.0
    drawn = sampled(likelihood, 4000, "values").flatten()
    low, high = 0.0, 1.0
    if not bool(((drawn >= 0) & (drawn <= 1)).all()):
        low, high = float(drawn.mean() - 40 * drawn.std()), float(drawn.mean() + 40 * drawn.std())
    size = 200_000
    midpoints = low + (high - low) * (torch.arange(size, dtype=torch.float64) + 0.5) / size
    return midpoints.reshape(-1, *kind.shape), (high - low) / size


@law("p(x|z) sums to one, and its samples follow it", "a likelihood is normalised")
def _likelihood(subject: S) -> str:
    kind, model = _few_values(subject)
    worst = smallest = 0.0
    for row in range(3):
        likelihood = model.likelihood(sampled(model.prior(), 3, "latents")[row])
        points, cell = _values(kind, likelihood)
        with torch.no_grad():
            probabilities = likelihood.log_prob(points).exp() * cell
        error = abs(float(probabilities.sum()) - 1)
        if not error <= _TOLERANCE:
            raise LawBroken(f"p(x|z) sums to {float(probabilities.sum()):.6g} over all x of {kind}")
        worst = max(worst, error)
        drawn = sampled(likelihood, subject.draws, "observations")
        smallest = max(smallest, require_samples(drawn, points, probabilities, "samples of p(x|z)"))
    return f"sum within {max(worst, 1e-16):.0e}; samples: detects {smallest:.2g} standard deviations"


@law("p(x|z) of many values is normalised", "a likelihood is normalised")
def _many_values(subject: S) -> str:
    r"""Test that the mean of r(x) / p(x|z) over samples x of p(x|z) is 1, for a normalised r that is close to p."""
    try:
        _few_values(subject)
    except LawSkipped:
        pass
    else:
        raise LawSkipped("its sum over all values of one or two pixels is tested instead")
    levels = subject.kind.num_levels or 0
    skip_if(not 0 < levels <= _MOST_LEVELS, f"its data are {subject.kind}")
    model, smallest = subject.model(), 0.0
    for row in range(2):
        likelihood = model.likelihood(sampled(model.prior(), 2, "latents")[row])
        counts = torch.nn.functional.one_hot(sampled(likelihood, subject.draws, "fitted").long(), levels).double()
        log_r = ((counts.sum(0) + 1) / (len(counts) + levels)).log()
        drawn = sampled(likelihood, subject.draws, "observations")
        log_r_x = log_r.expand(len(drawn), *log_r.shape).gather(-1, drawn.long()[..., None])[..., 0]
        with torch.no_grad():
            ratio = (log_r_x.flatten(1).sum(1) - likelihood.log_prob(drawn)).exp()
        smallest = max(smallest, require_mean(ratio, 1.0, "the mean of r(x) / p(x|z), which is 1 for a normalised r,"))
    return f"detects {smallest:.1g} nats"

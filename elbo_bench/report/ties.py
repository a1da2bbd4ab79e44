r"""Which configurations are better than which beyond doubt, by paired comparison on identical examples.

An estimate of log p(x) is a stochastic lower bound. A low value may be the fault of the model or of the estimate, so
the test allows for the bias of the lower value. For configurations a and b, let :math:`\ell_{ai}` be the mean over
seeds of log p(x_i), and let :math:`\beta_{bi} \le 0` be the mean over seeds of the estimated bias of
:math:`\ell_{bi}`, which is 0 where log p(x) is exact. The evidence that a is better than b is

.. math:: d_i = \ell_{ai} - (\ell_{bi} - \beta_{bi}), \qquad D = \frac1N \sum_i d_i, \qquad
          \widehat{\mathrm{Var}}\, D = \frac{s^2_i(d_i)}{N} + \frac{s_a^2}{S_a} + \frac{s_b^2}{S_b}

with :math:`s_a` the standard deviation over the S_a seeds of a configuration's mean. An example of b is resolved if its
estimate passes the gate (`elbo_bench.evaluation.metrics.passes_gate`) in every seed, as most estimates of that run do.
Where it is not resolved,

.. math:: d_i = \min(0, \ell_{ai} - (\ell_{bi} - \beta_{bi})),

so that an unresolved example never counts as evidence that b is worse. Only D > 0 is evidence that a is better. At most
one of two configurations has such evidence against the other.

Test examples and seeds are crossed random factors. Their interaction is counted in both terms, which is conservative.
D over its standard error is compared with Student's t. The degrees of freedom are those of the spread over seeds
alone, by Welch (1947). The spread over examples is known better, so the ratio varies less than this t, also far out in
the tail. The two-sided p-values of all pairs are adjusted by Holm (1979). If the estimated biases are right, no
better-than of a table is wrong with probability 95 % or more.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import stdtr

LEVEL = 0.05
"""Largest probability that any better-than of a table is wrong."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Comparison of the R configurations of one data contract: log p(x), or another column of the examples.

    Attributes:
        mean: Mean over examples and seeds.
        evidence: D of the module's equation, that configuration a (row) is better than b (column).
        variance: Variance of D over the finite set of examples; NaN where it is not known.
        variance_to_first: Variance over the examples of the plain difference of `mean` to that of the first
            configuration; NaN where it is not known.
        paired: Whether the examples of a configuration are known.
        num_examples: N.
        seed_variance: Variance over seeds of a run's mean; NaN where there is one seed.
        num_seeds: Number of seeds.
    """

    mean: Float[np.ndarray, " R"]
    evidence: Float[np.ndarray, "R R"]
    variance: Float[np.ndarray, "R R"]
    variance_to_first: Float[np.ndarray, " R"]
    paired: Bool[np.ndarray, " R"]
    num_examples: int
    seed_variance: Float[np.ndarray, " R"]
    num_seeds: Float[np.ndarray, " R"]


def evidence(
    values: Float[np.ndarray, "R N"], upper: Float[np.ndarray, "S N"], resolved: Bool[np.ndarray, "S N"]
) -> tuple[Float[np.ndarray, "R S"], Float[np.ndarray, "R S"]]:
    """Return D for each pair of configurations, and its variance over the examples.

    Args:
        values: log p(x) of each configuration a.
        upper: log p(x) less its estimated bias, of each configuration b.
        resolved: Whether the estimate of each b can be trusted.
    """
    size = (len(values), len(upper))
    mean, variance = np.empty(size), np.empty(size)
    d = np.empty_like(values)  # of one b at a time: that of all pairs would fill the memory
    for index, (of_b, trusted) in enumerate(zip(upper, resolved, strict=True)):
        np.subtract(values, of_b, out=d)
        if not trusted.all():
            d[:, ~trusted] = np.minimum(d[:, ~trusted], 0.0)
        mean[:, index] = d.mean(axis=1)
        d -= mean[:, index, None]
        variance[:, index] = np.einsum("rn,rn->r", d, d) / (d.shape[1] - 1) / d.shape[1]
    return mean, variance


def better(scores: Comparison) -> Bool[np.ndarray, "R R"]:
    """Return whether configuration a (row) has a larger score than b (column), beyond doubt."""
    size = len(scores.mean)
    p = p_values(scores)
    pairs = np.triu_indices(size, 1)
    adjusted = np.ones((size, size))
    adjusted[pairs] = _holm(p[pairs])
    adjusted = np.minimum(adjusted, adjusted.T)
    return (adjusted <= LEVEL) & (scores.evidence > 0)


def p_values(scores: Comparison) -> Float[np.ndarray, "R R"]:
    """Return the p-value of each pair, not adjusted; 1 if there is no evidence that one of the two is better."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        seeds, df = _over_seeds(scores)
        error = np.sqrt(scores.variance + seeds)
        t = scores.evidence / error
    p = 2 * stdtr(df, -t)
    certain = np.where((error == 0) & (scores.evidence > 0), 0.0, 1.0)  # 1 also if the error is not known
    p = np.where(np.isfinite(error) & (error > 0) & np.isfinite(t) & (t > 0), p, certain)
    return np.minimum(p, p.T)


def to_first(scores: Comparison) -> tuple[Float[np.ndarray, " R"], Float[np.ndarray, " R"]]:
    """Return the plain difference of each mean to that of the first configuration, and its standard error."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        seeds, _ = _over_seeds(scores)
        return scores.mean - scores.mean[0], np.sqrt(scores.variance_to_first + seeds[:, 0])


def _over_seeds(scores: Comparison) -> tuple[Float[np.ndarray, "R R"], Float[np.ndarray, "R R"]]:
    """Return the variance of each difference over the seeds, and the degrees of freedom of t.

    If one of the two has a single seed, both get the pooled spread of all configurations. If no configuration
    has more than one seed, the variance is 0: these trained models are compared.
    """
    number, several = scores.num_seeds, scores.num_seeds > 1
    of_examples = np.full((len(number), len(number)), max(scores.num_examples - 1.0, 1.0))
    if not several.any():
        return np.zeros_like(of_examples), of_examples
    df = np.where(several, number - 1, 1.0)
    variance = np.where(several, scores.seed_variance, 0.0)
    pooled_df = df[several].sum()
    pooled = float((variance * df)[several].sum() / pooled_df)
    own = variance / number
    both = several[:, None] & several[None, :]
    together = np.where(both, own[:, None] + own[None, :], pooled * (1 / number[:, None] + 1 / number[None, :]))
    weight = own**2 / df
    welch = (own[:, None] + own[None, :]) ** 2 / (weight[:, None] + weight[None, :])
    sum_df = df[:, None] + df[None, :]
    freedom = np.where(both, np.where(np.isfinite(welch), welch, sum_df), pooled_df)
    return together, np.minimum(freedom, of_examples) if scores.num_examples > 1 else freedom


def _holm(p: Float[np.ndarray, " P"]) -> Float[np.ndarray, " P"]:
    """Return p-values adjusted for their number (Holm, 1979)."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted

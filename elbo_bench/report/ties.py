r"""Which configurations are better than which beyond doubt, by paired comparison on identical examples.

For configurations a and b, with :math:`\ell_{ai}` the mean over seeds of log p(x_i),

.. math:: D = \frac1N \sum_i (\ell_{ai} - \ell_{bi}), \qquad
          \widehat{\mathrm{Var}}\, D = \frac{s^2_i(\ell_{ai} - \ell_{bi})}{N} + \frac{s_a^2}{S_a} + \frac{s_b^2}{S_b}

with :math:`s_a` the standard deviation over the S_a seeds of a configuration's mean. Test examples and seeds are
crossed random factors; their interaction is counted in both terms, which errs to the safe side. D over its standard
error is held against Student's t with the degrees of freedom of the spread over seeds alone, by Welch (1947): a term
that is known better makes the ratio only less variable, so that this is safe even far out in the tail, where the
p-values of all pairs are adjusted by Holm (1979). With probability 95 % or more no better-than is wrong in a table.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import stdtr

LEVEL = 0.05
"""Probability, at most, that any better-than of a table is wrong."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """What is known of the configurations of one data contract, R of them; of log p(x), or of another number.

    Attributes:
        mean: Mean over examples and seeds, in nats.
        covariance: Of the examples' values, each a mean over seeds, between two configurations; NaN where they are
            not known of the same examples.
        num_examples: N.
        se_test: Standard error of the mean over the examples; it stands in for what is not known of them.
        seed_variance: Variance over seeds of a run's mean; NaN where there is one seed.
        num_seeds: Runs that the mean is of.
    """

    mean: Float[np.ndarray, " R"]
    covariance: Float[np.ndarray, "R R"]
    num_examples: int
    se_test: Float[np.ndarray, " R"]
    seed_variance: Float[np.ndarray, " R"]
    num_seeds: Float[np.ndarray, " R"]


def better(scores: Scores) -> Bool[np.ndarray, "R R"]:
    """Return whether configuration a (row) is better, that is, has more of it, than b (column) beyond doubt."""
    size = len(scores.mean)
    p = p_values(scores)
    pairs = np.triu_indices(size, 1)
    adjusted = np.ones((size, size))
    adjusted[pairs] = _holm(p[pairs])
    adjusted = np.minimum(adjusted, adjusted.T)
    return (adjusted <= LEVEL) & (scores.mean[:, None] > scores.mean[None, :])


def p_values(scores: Scores) -> Float[np.ndarray, "R R"]:
    """Return how probable a difference as large as that of configurations a and b is by chance, for each pair alone."""
    difference, error, df = differences(scores)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        t = np.abs(difference) / error
    p = 2 * stdtr(df, -t)
    certain = np.where((error == 0) & (difference != 0), 0.0, 1.0)  # or nothing is known of the error
    known = np.isfinite(error) & (error > 0) & np.isfinite(t)
    return np.where(known, p, certain)


def differences(
    scores: Scores,
) -> tuple[Float[np.ndarray, "R R"], Float[np.ndarray, "R R"], Float[np.ndarray, "R R"]]:
    """Return the difference a - b of each pair, its standard error, and the degrees of freedom of their ratio."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        seeds, df = _over_seeds(scores)
        error = np.sqrt(_over_examples(scores) + seeds)
        return scores.mean[:, None] - scores.mean[None, :], error, df


def _over_examples(scores: Scores) -> Float[np.ndarray, "R R"]:
    """Return the variance of each difference over the finite set of examples."""
    own = np.diag(scores.covariance)
    paired = np.maximum(own[:, None] + own[None, :] - 2 * scores.covariance, 0.0) / scores.num_examples
    alone = scores.se_test**2
    variance: Float[np.ndarray, "R R"] = np.where(np.isnan(paired), alone[:, None] + alone[None, :], paired)
    return variance


def _over_seeds(scores: Scores) -> tuple[Float[np.ndarray, "R R"], Float[np.ndarray, "R R"]]:
    """Return the variance of each difference over the seeds, and the degrees of freedom of t.

    Where one of the two has a single seed, both are given the spread that all configurations have in common; if none
    has more than one seed, the variance is 0, and what is compared are these trained models.
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
    """Return p-values that are adjusted for their number (Holm, 1979)."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted

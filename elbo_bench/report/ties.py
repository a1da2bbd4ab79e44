r"""Which configurations are better than which beyond doubt, by paired comparison on identical examples.

For configurations a and b, with :math:`\ell_{ai}` the mean over seeds of log p(x_i),

.. math:: D = \frac1N \sum_i (\ell_{ai} - \ell_{bi}), \qquad
          \widehat{\mathrm{Var}}\, D = \frac{s^2_i(\ell_{ai} - \ell_{bi})}{N} + \frac{s_a^2}{S_a} + \frac{s_b^2}{S_b}

with :math:`s_a` the standard deviation over the S_a seeds of a configuration's mean. Test examples and seeds are
crossed random factors; their interaction is counted in both terms, which errs to the safe side. D over its standard
error is held against Student's t with the degrees of freedom of Satterthwaite (1946), and the p-values of all pairs are
adjusted by Holm (1979): with probability 95 % or more no better-than is wrong in the whole table.
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
        examples: Mean over seeds of each example's value; a row of NaN where it is not known.
        se_test: Standard error of the mean over the examples; it stands in for what is not known of them.
        seed_variance: Variance over seeds of a run's mean; NaN where there is one seed.
        num_seeds: Runs that the mean is of.
    """

    mean: Float[np.ndarray, " R"]
    examples: Float[np.ndarray, "R N"]
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
    difference = scores.mean[:, None] - scores.mean[None, :]
    test, test_df = _test_variance(scores)
    seeds, seeds_df = _seed_variance(scores)
    variance = test + seeds[:, None] + seeds[None, :]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        df = variance**2 / (test**2 / test_df + (seeds**2 / seeds_df)[:, None] + (seeds**2 / seeds_df)[None, :])
        t = np.abs(difference) / np.sqrt(variance)
    p = 2 * stdtr(np.where(np.isfinite(df), df, test_df), -t)
    certain = np.where((variance == 0) & (difference != 0), 0.0, 1.0)  # or nothing is known of the variance
    return np.where(np.isfinite(variance) & (variance > 0), p, certain)


def _test_variance(scores: Scores) -> tuple[Float[np.ndarray, "R R"], float]:
    """Return the variance of each difference over the finite set of examples, and its degrees of freedom."""
    known = np.isfinite(scores.examples).all(axis=1)
    number = scores.examples.shape[1]
    with np.errstate(invalid="ignore"):
        alone = scores.se_test**2
    unpaired = alone[:, None] + alone[None, :]
    if number < 2:
        return unpaired, 1.0
    centred = scores.examples - scores.examples.mean(axis=1, keepdims=True)
    covariance = np.where(known[:, None], centred, 0.0) @ np.where(known[:, None], centred, 0.0).T / (number - 1)
    own = np.diag(covariance)
    paired = np.maximum(own[:, None] + own[None, :] - 2 * covariance, 0.0) / number
    return np.where(known[:, None] & known[None, :], paired, unpaired), number - 1.0


def _seed_variance(scores: Scores) -> tuple[Float[np.ndarray, " R"], Float[np.ndarray, " R"]]:
    """Return the variance of each mean over the seeds, and its degrees of freedom.

    A configuration with one seed is given what the others have in common; if there is none with more, it is 0, and
    what is compared are these trained models.
    """
    df = scores.num_seeds - 1
    several = df > 0
    variance = np.where(several, scores.seed_variance, 0.0)
    if several.any():
        pooled = float((variance * df).sum() / df[several].sum())
        variance = np.where(several, variance, pooled)
        df = np.where(several, df, df[several].sum())
    return variance / scores.num_seeds, np.maximum(df, 1.0)


def _holm(p: Float[np.ndarray, " P"]) -> Float[np.ndarray, " P"]:
    """Return p-values that are adjusted for their number (Holm, 1979)."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted

"""The plots of a leaderboard, one file each."""

from collections.abc import Sequence

from elbo_bench.report.charts import (
    gap_histogram,
    gap_over_log_px,
    gap_parts,
    gap_samples,
    k_curve,
    rate_distortion,
    tightness,
)
from elbo_bench.report.charts.plot import Plot
from elbo_bench.report.shown import Shown

_PLOTS = (k_curve, tightness, gap_samples, gap_parts, rate_distortion, gap_over_log_px, gap_histogram)


def plots(shown: Shown) -> Sequence[Plot]:
    """Return the plots that have data, in the order of the page."""
    made = [module.plot(shown) for module in _PLOTS]
    return [each for each in made if each is not None]

"""The ELBO gap as the sum of the approximation gap and the amortisation gap (Cremer et al., 2018)."""

import math
from typing import Any

from elbo_bench.report.charts.plot import PARTS, Plot, stacked_bars
from elbo_bench.report.shown import Shown

_PARTS = {"approximation_gap": "approximation gap: the family", "amortisation_gap": "amortisation gap: the encoder"}


def plot(shown: Shown) -> Plot | None:
    """Return stacked bars of the runs that have an `evaluation=gaps`; None if there is none."""
    rows: list[dict[str, Any]] = []
    for each in shown.series:
        scored = [result["metrics"] for result in each.evaluations("gaps")]
        for order, (key, name) in enumerate(_PARTS.items()):
            found = [metrics[key]["value"] for metrics in scored if key in metrics]
            if found:
                nats = math.fsum(found) / len(found)
                rows.append({"label": each.label, "part": name, "order": order, "nats": nats})
    if not rows:
        return None
    labels = [label for label in shown.labels if any(row["label"] == label for row in rows)]
    chart = stacked_bars(rows, labels, {name: PARTS[2 * order] for order, name in enumerate(_PARTS.values())})
    caption = (
        "KL(q(z|x) ‖ p(z|x)) of some test examples as a sum of two gaps (Cremer et al., 2018). The approximation gap "
        "is log p(x) - L[q*], where L is the ELBO and q* the best posterior of the family for each example. The "
        "amortisation gap is L[q*] - L[q], the cost of the encoder. `elbo-bench evaluate RUN evaluation=gaps` adds a "
        "run."
    )
    return Plot("gap-decomposition", "ELBO gap: approximation and amortisation", caption, chart, 34 * len(labels) + 30)

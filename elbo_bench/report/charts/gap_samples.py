"""The ELBO gap in parts: how much of it L_K closes as K grows."""

import itertools
from typing import Any

from elbo_bench.report.charts.plot import PARTS, Plot, stacked_bars
from elbo_bench.report.shown import Series, Shown

_STEPS = (5, 50)


def plot(shown: Shown) -> Plot | None:
    """Return stacked bars; None if no record has the ELBO gap."""
    rows: list[dict[str, Any]] = []
    names: list[str] = []
    for each in shown.series:
        parts = _parts(each)
        names += [name for name, _ in parts if name not in names]
        rows += [
            {"label": each.label, "part": name, "order": order, "nats": nats}
            for order, (name, nats) in enumerate(parts)
        ]
    if not rows:
        return None
    chart = stacked_bars(rows, shown.labels, dict(zip(names, PARTS, strict=False)))
    caption = (
        "A bar is the ELBO gap, log p(x) - ELBO = KL(q(z|x) ‖ p(z|x)). Its parts are the increases of the bound L_K "
        "with K samples of the same encoder, and the gap that is left at the largest K. If log p(x) is a lower bound "
        "only, the last part is at least that long."
    )
    return Plot("gap-by-samples", "ELBO gap: closed by more samples", caption, chart, 34 * len(shown.series) + 30)


def _parts(each: Series) -> list[tuple[str, float]]:
    log_px, elbo, sizes = each.mean("log_px"), each.mean("elbo_mc"), each.sample_sizes()
    if log_px is None or elbo is None or not sizes:
        return []
    parts, below = [], elbo
    steps = [(f"ELBO to L_{_STEPS[0]}", _STEPS[0])]
    steps += [(f"L_{low} to L_{high}", high) for low, high in itertools.pairwise(_STEPS)]
    for name, size in steps:
        if size in sizes and size < sizes[-1]:
            value = each.mean(f"L_{size}")
            assert value is not None
            parts.append((name, value - below))
            below = value
    last = each.mean(f"L_{sizes[-1]}")
    assert last is not None
    return [*parts, ("on to the largest K", last - below), ("left to log p(x)", log_px - last)]

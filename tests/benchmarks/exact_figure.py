"""Draw the README's figure: how far below the exact log p(x) each estimate lies, image by image.

    elbo-bench train experiment=mnist_latent2
    python tests/benchmarks/exact_figure.py runs/mnist_dynamic-mlp-... docs/exact.svg

It needs the extra `figures`.
"""

import sys
from pathlib import Path

import altair as alt
import numpy as np

from elbo_bench.results.record import read_examples, read_result

SMALLEST = 1e-3  # nats; what is closer counts as this


def draw(run: Path, target: Path) -> None:
    rows, samples = read_examples(run), read_result(run)["truth"]["num_samples"]
    estimates = {
        f"importance sampling, proposal chosen for each image (at most {samples:,} decoded)": "log_px_is",
        f"importance sampling, encoder's q(z|x), K = {samples:,}: the field's convention": f"L_{samples}",
        "ELBO: this distance is KL(q(z|x) ‖ p(z|x))": "elbo_mc",
    }
    points = []
    for words, name in estimates.items():
        short = np.sort(np.maximum(rows["log_px"] - rows[name], SMALLEST))[::-1]
        share = np.arange(1, len(short) + 1) / len(short)
        points += [{"estimate": words, "nats": float(n), "share": float(s)} for n, s in zip(short, share, strict=True)]
    chart = (
        alt.Chart(alt.Data(values=points))
        .mark_line(interpolate="step-after", strokeWidth=2)
        .encode(
            x=alt.X(
                "nats:Q",
                scale=alt.Scale(type="log", domain=[SMALLEST, 200], nice=False),
                title="nats below the exact log p(x)",
            ),
            y=alt.Y("share:Q", axis=alt.Axis(format="%"), title="share of images at least so far below"),
            color=alt.Color(
                "estimate:N",
                sort=list(estimates),
                scale=alt.Scale(range=["#0072B2", "#D55E00", "#009E73"]),
                legend=alt.Legend(orient="bottom", direction="vertical", title=None, labelLimit=600),
            ),
            strokeDash=alt.StrokeDash("estimate:N", sort=list(estimates), legend=None),
        )
        .properties(width=560, height=260, background="white")
        .configure_axis(labelFontSize=12, titleFontSize=13)
        .configure_legend(labelFontSize=12)
    )
    chart.save(str(target))


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))

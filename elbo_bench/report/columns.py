"""The columns of the leaderboard, and what each of them is in a line."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of the leaderboard.

    Attributes:
        key: Its name in JSON and CSV.
        title: Its heading in a table.
        meaning: What it is, in one line.
        digits: Digits behind the point; None for text.
    """

    key: str
    title: str
    meaning: str
    digits: int | None = None


COLUMNS: tuple[Column, ...] = (
    Column(
        "rank",
        "#",
        "1 + how many configurations are better beyond doubt (see below a table), or a rank above; = is shared",
    ),
    Column("objective", "objective", "What the runs were trained with"),
    Column("model", "model", "The model"),
    Column("settings", "settings", "What else tells rows of the same objective and model apart"),
    Column("seeds", "seeds", "The seeds of training whose mean the row is"),
    Column(
        "log_px",
        "log p(x)",
        "Mean test log p(x) in nats, exact or by importance sampling; '>=' marks a lower bound only",
        2,
    ),
    Column("se_mc", "± MC", "Its Monte Carlo error: of the samples that log p(x) is estimated by", 2),
    Column("se_test", "± test", "Its standard error over the finite set of test examples", 2),
    Column("se_seeds", "± seeds", "Its standard error over the seeds of training", 2),
    Column("behind", "to best", "Difference of log p(x) to the first row, in pairs on the same examples", 2),
    Column("behind_se", "± pair", "The standard error of that difference, over examples and seeds", 2),
    Column("bits_per_dim", "bits/dim", "-log2 p(x) / D; of the levels behind dequantised data at most that", 3),
    Column("truth", "truth", "What log p(x) stands on: exact, sandwiched, importance, or a lower bound only"),
    Column("elbo", "ELBO", "Evidence lower bound, whatever was trained with", 2),
    Column("elbo_gap", "ELBO gap", "log p(x) - ELBO = KL(q(z|x) ‖ p(z|x))", 2),
    Column(
        "bound",
        "bound",
        "Value of the bound trained with; '*' marks what is no bound on log p(x), '†' an ELBO with another weight",
        2,
    ),
    Column("bound_gap", "its gap", "log p(x) - the bound trained with", 2),
    Column("rate", "rate", "KL(q(z|x) ‖ p(z)), the KL inside the ELBO", 2),
    Column("distortion", "distortion", "-E_q[log p(x|z)]", 2),
    Column("active_units", "active", "Latent dimensions whose posterior mean varies over x", 0),
    Column("ess", "ESS", "Effective sample size of the importance weights", 1),
    Column("seconds", "s", "Seconds of training and evaluation", 1),
)

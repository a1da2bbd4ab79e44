"""A row of the leaderboard: its columns, and how a record becomes a row."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from elbo_bench import config
from elbo_bench.metric import Bias
from elbo_bench.results.record import Record, ScoredData

_CONTRACT = tuple(ScoredData.__annotations__)
_SETTINGS = ("optimizer", "module", "trainer", "evaluation")
_LONGEST = 60  # characters of an objective in a cell
_LOWER_BOUND = "lower-bound-only"
_WEAKEST_FIRST = (_LOWER_BOUND, "importance", "sandwiched", "exact")


def _first(values: Sequence[Any]) -> Any:
    return values[0]


def _mean(values: Sequence[Any]) -> Any:
    """Return the mean over seeds; None if a seed has no value."""
    return None if None in values else values[0] if len(values) == 1 else math.fsum(values) / len(values)


def _monte_carlo(values: Sequence[Any]) -> Any:
    """Return the Monte Carlo error of a mean over seeds, whose samples are independent."""
    return None if None in values else math.hypot(*values) / len(values)


def _weakest(tiers: Sequence[str]) -> str:
    return next((tier for tier in _WEAKEST_FIRST if tier in tiers), tiers[0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the leaderboard.

    Attributes:
        key: Attribute of `Row`, and name in JSON and CSV.
        title: Heading in a table.
        meaning: What the column is, in one line.
        digits: Digits after the decimal point; None for text.
        metric: Metric of the record that the column shows; None for a column that comes from elsewhere.
        part: Which part of the metric.
        merge: Returns the value of a configuration from the values of its seeds.
        bias: As of a metric: `low` is shown as `>=` and `high` as `<=` where log p(x) is a lower bound only.
        is_interval: Whether the column is empty where log p(x) is a lower bound only.
        explained: Whether the meaning is printed below a table on the terminal.
        in_papers: Whether the LaTeX table has the column.
        hide: Order in which a narrow terminal hides columns, 1 first; None for a column that is always shown.
    """

    key: str
    title: str
    meaning: str
    digits: int | None = None
    metric: str | None = None
    part: Literal["value", "se_mc", "se_test"] = "value"
    merge: Callable[[Sequence[Any]], Any] = _first
    bias: Bias | None = None
    is_interval: bool = False
    explained: bool = False
    in_papers: bool = True
    hide: int | None = None


def _column(title: str, meaning: str, *, default: Any = dataclasses.MISSING, **more: Any) -> Any:
    return dataclasses.field(default=default, metadata={"title": title, "meaning": meaning, **more})


def _metric(metric: str, title: str, meaning: str, **more: Any) -> Any:
    return _column(title, meaning, **{"metric": metric, "digits": 2, "merge": _mean, **more})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity:
    """What a run may be compared with, and what it may be merged with.

    Attributes:
        contract: Equal for runs that can be compared: the data, the protocol and the scored examples.
        group: Equal for runs that differ in nothing but their seed.
        seed: The seed of training.
        model_keys: Parameters of the model.
        settings: Parameters of the optimiser, module, trainer and evaluation.
    """

    contract: str
    group: str
    seed: int
    model_keys: dict[str, Any]
    settings: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A configuration on the leaderboard, or a single run whose seeds are not merged yet.

    Attributes:
        shared: Whether another row has the same rank.
        paired: Whether the row is compared example by example; None if it is not compared.
        direction: Of the objective: `lower`, `upper`, `unbiased` or `none`.
        weighted: Whether the objective is an ELBO with another weight.
        scope: `batch` if the objective of an example depends on its batch.
        log_px_sd: Standard deviation over seeds.
        copies: Number of runs of the data contract that are excluded as copies of another run.
    """

    rank: int = _column(
        "#",
        "1 + the number of configurations that are better beyond doubt (see below a table), and at least the rank of "
        "each row above; = marks a shared rank",
        default=0,
        digits=0,
    )
    objective: str = _column("objective", "Objective of training")
    model: str = _column("model", "Model")
    settings: str | None = _column(
        "settings", "Further settings, where rows have the same objective and model", default=None
    )
    seeds: str = _column("seeds", "Seeds of training; the row is their mean")
    log_px: float = _metric(
        "log_px",
        "log p(x)",
        "Mean test log p(x) in nats, exact or by importance sampling; '>=' marks a lower bound only",
        bias="low",
        explained=True,
    )
    se_mc: float | None = _metric(
        "log_px",
        "± MC",
        "Monte Carlo standard error of log p(x), from the samples that estimate it",
        part="se_mc",
        merge=_monte_carlo,
        is_interval=True,
        explained=True,
        hide=6,
    )
    # All seeds share the same examples, so their test-set errors are averaged, not divided by the root of the number.
    se_test: float | None = _metric(
        "log_px",
        "± test",
        "Standard error of log p(x) over the finite set of test examples",
        part="se_test",
        is_interval=True,
        explained=True,
    )
    se_seeds: float | None = _column(
        "± seeds", "Standard error of log p(x) over the seeds of training", default=None, digits=2, explained=True
    )
    behind: float | None = _column(
        "to best",
        "Difference of log p(x) to the first row, in pairs on the same examples",
        default=None,
        digits=2,
        explained=True,
        hide=10,
    )
    behind_se: float | None = _column(
        "± pair", "Standard error of that difference, over examples and seeds", default=None, digits=2, hide=9
    )
    bits_per_dim: float | None = _metric(
        "bits_per_dim",
        "bits/dim",
        "-log2 p(x) / D; an upper bound for the levels behind dequantised data",
        digits=3,
        bias="high",
        explained=True,
    )
    truth: str = _column(
        "truth",
        "Basis of log p(x): exact, sandwiched, importance, or a lower bound only",
        merge=_weakest,
        in_papers=False,
        hide=3,
    )
    # A metric that is -inf for an example is not recorded: the diagnostics of the record count such examples.
    elbo: float | None = _metric(
        "elbo_mc", "ELBO", "Evidence lower bound, of every run, whatever its objective", hide=8
    )
    elbo_gap: float | None = _metric(
        "elbo_gap", "ELBO gap", "log p(x) - ELBO = KL(q(z|x) ‖ p(z|x))", bias="low", explained=True
    )
    bound: float | None = _metric(
        "bound",
        "bound",
        "Value of the objective; '*' marks an objective that is no bound on log p(x), '†' an ELBO with another weight",
        explained=True,
        in_papers=False,
        hide=7,
    )
    bound_gap: float | None = _metric(
        "bound_gap", "its gap", "log p(x) - the value of the objective", bias="low", explained=True
    )
    rate: float | None = _metric(
        "rate", "rate", "KL(q(z|x) ‖ p(z)), the KL divergence inside the ELBO", explained=True, hide=11
    )
    distortion: float | None = _metric("distortion", "distortion", "-E_q[log p(x|z)]", in_papers=False, hide=4)
    active_units: int | float | None = _metric(
        "active_units", "active", "Latent dimensions whose posterior mean varies over x", digits=0, hide=5
    )
    ess: float | None = _metric(
        "ess", "ESS", "Effective sample size of the importance weights", digits=1, in_papers=False, hide=2
    )
    seconds: float = _column("s", "Seconds of training and evaluation", digits=1, merge=_mean, in_papers=False, hide=1)
    shared: bool = False
    paired: bool | None = None
    direction: str
    weighted: bool
    scope: str
    data: str
    protocol: str
    split: str
    num_examples: int
    test_sha256: str
    test_binarization: str
    run_ids: list[str]
    folders: list[str]
    num_seeds: int = 1
    log_px_sd: float | None = None
    elbo_gap_sd: float | None = None
    copies: int = 0
    identity: Identity

    @property
    def is_lower_bound(self) -> bool:
        """Whether log p(x) is a lower bound only, without an interval."""
        return self.truth == _LOWER_BOUND

    def as_dict(self) -> dict[str, Any]:
        """Return the row as JSON and CSV show it."""
        return {key: value for key, value in vars(self).items() if key != "identity"}


COLUMNS = tuple(Column(key=field.name, **field.metadata) for field in dataclasses.fields(Row) if field.metadata)


def contract(result: Record) -> str:
    """Return a text that is equal for results that can be compared. It begins with the name of the data."""
    data = result["data"]
    return json.dumps([data[key] for key in _CONTRACT], sort_keys=True)  # type: ignore[literal-required]


def row(result: Record, folder: str) -> Row:
    """Return one record as a row.

    Raises:
        KeyError: The record has no log p(x).
    """
    metrics, data, objective = result["metrics"], result["data"], result["objective"]
    identity = config.identity(result["cfg"])
    values: dict[str, Any] = {
        column.key: metrics[column.metric][column.part] if column.metric in metrics else None
        for column in COLUMNS
        if column.metric is not None
    }
    values["log_px"] = metrics["log_px"]["value"]
    if data["num_levels"] == 2:
        values["bits_per_dim"] = None  # of binary data it is log p(x) in another unit, which nobody uses
    return Row(
        **values,
        objective=objective_label(objective),
        model=result["model"],
        seeds=str(result["seed"]),
        truth=result["truth"]["tier"],
        seconds=result["compute"].get("train_seconds", 0.0) + result["compute"]["evaluate_seconds"],
        direction=objective["direction"],
        weighted=objective["name"] == "beta" and objective.get("beta") != 1 and objective["direction"] != "none",
        scope="batch" if objective.get("scope") == "batch" else "example",
        data=data["name"],
        protocol=data["protocol"],
        split=data["split"],
        num_examples=data["num_examples"],
        test_sha256=data["test_sha256"],
        test_binarization=data["test_binarization"],
        run_ids=[result["run_id"]],
        folders=[folder],
        identity=Identity(
            contract=contract(result),
            group=config.digest({**identity, "seed": None, "shown": [objective, result["model"]]}),
            seed=result["seed"],
            model_keys=_flat(_mapping(result["cfg"].get("model"))),
            settings={
                f"{group}.{key}": value
                for group in _SETTINGS
                for key, value in _flat({**_mapping(identity.get(group)), "name": None}).items()
            },
        ),
    )


def _mapping(node: object) -> dict[str, Any]:
    return node if isinstance(node, dict) else {}


def _flat(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a component's keys, and those of its parts under dotted names."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif prefix or key not in ("name", "target"):
            flat[f"{prefix}{key}"] = value
    return flat


def objective_label(objective: Mapping[str, Any]) -> str:
    """Return an objective with its parameters in a few characters: `iwae K=8`, `beta beta=4 kl=analytic`."""
    parts = [str(objective["name"])]
    for key, value in objective.items():
        if key in ("name", "samples_required", "direction", "scope", "latents"):
            continue
        if key == "num_samples":
            parts += [f"K={value}"] if value != 1 else []
        else:
            parts.append(f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}")
    return short(" ".join(parts))


def short(text: str) -> str:
    """Return text that fits into a cell."""
    label = "".join(sign if sign.isprintable() else "?" for sign in text)
    return label if len(label) <= _LONGEST else f"{label[: _LONGEST - 3]}..."

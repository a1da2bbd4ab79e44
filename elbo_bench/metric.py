"""A metric: a mean over examples, with its errors."""

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, with_config
from typing_extensions import TypedDict  # pydantic reads no `typing.TypedDict` before Python 3.12


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it cannot be printed")
    return text


Line = Annotated[str, AfterValidator(_printable)]
"""Text without control characters, which could move the cursor of a terminal."""
Number = Annotated[float, Field(gt=-1e300, lt=1e300)]
Bias = Literal["low", "high"]
"""The error of a metric where log p(x) is only a lower bound: `low` if the metric is too low, `high` if too high."""


@with_config(ConfigDict(strict=True, allow_inf_nan=False, extra="forbid"))
class Metric(TypedDict):
    """A mean over examples, or a count.

    Attributes:
        value: The value, in `unit`.
        se_test: Standard error over the finite set of examples; None if it has none.
        se_mc: Monte Carlo standard error, which more samples would remove; None if it has none.
        n: Number of examples.
        unit: Unit of the value, such as nats, bits/dim, samples, dimensions.
        label: What the metric is, in one line.
        bias: Direction of its error where log p(x) is only a lower bound; None if it has no direction.
    """

    value: Number
    se_test: Number | None
    se_mc: Number | None
    n: Annotated[int, Field(ge=0, lt=2**63)]
    unit: Line
    label: Line
    bias: Bias | None

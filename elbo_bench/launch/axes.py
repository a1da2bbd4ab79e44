"""One parameter of a sweep: its values, or the distribution that it is drawn from, as W&B names them."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from elbo_bench.errors import UsageError, nearest, shown

Quantile = Callable[[float], Any]
_LARGEST_GRID = 100_000


@dataclasses.dataclass(frozen=True)
class Axis:
    """One parameter of a sweep.

    Attributes:
        values: What a grid goes through; None if there is no end to them.
        quantile: The value at a probability between 0 and 1: what a random sweep draws.
        weighted: Whether values have probabilities, which a grid cannot heed.
    """

    values: Sequence[Any] | None
    quantile: Quantile
    weighted: bool = False


def read_axis(where: str, given: object) -> Axis:
    """Read and check one parameter of a sweep file.

    Args:
        where: File and parameter, for errors.
        given: What the file says: `value`, `values`, `min` and `max`, or a `distribution`.

    Raises:
        UsageError: The entry is not valid. The message says what is wrong and what is allowed.
    """
    if not isinstance(given, dict):
        raise UsageError(f"{where}: needs `value: ...`, `values: [...]`, or `min: ...` and `max: ...`")
    name = given["distribution"] if "distribution" in given else _implied(where, given)
    if not isinstance(name, str) or name not in _KEYS:
        raise UsageError(f"{where}: distribution {shown(name)}: no such distribution; {nearest(name, _KEYS)}")
    required, optional = _KEYS[name]
    for key in given:
        if key not in (*required, *optional, "distribution"):
            raise UsageError(f"{where}: {name} has no key {key}; {nearest(key, (*required, *optional))}")
    for key in required:
        if key not in given:
            raise UsageError(f"{where}: {name} needs `{key}`")
    if name == "constant":
        return Axis([given["value"]], lambda _: given["value"])
    if "values" in required:
        return _categorical(where, given)
    return _numeric(where, name, {**optional, **{key: given[key] for key in given if key != "distribution"}})


# What each distribution must be given, and what it may be, with defaults.
_RANGE: tuple[str, ...] = ("min", "max")
_QUANTISED: dict[str, float] = {"q": 1}
_NORMAL = {"mu": 0.0, "sigma": 1.0}
_BETA = {"a": 1.0, "b": 1.0}
_KEYS: dict[str, tuple[tuple[str, ...], dict[str, float]]] = {
    "constant": (("value",), {}),
    "categorical": (("values",), {}),
    "categorical_w_probabilities": (("values", "probabilities"), {}),
    "int_uniform": (_RANGE, {}),
    "uniform": (_RANGE, {}),
    "q_uniform": (_RANGE, _QUANTISED),
    "log_uniform": (_RANGE, {}),
    "q_log_uniform": (_RANGE, _QUANTISED),
    "inv_log_uniform": (_RANGE, {}),
    "log_uniform_values": (_RANGE, {}),
    "q_log_uniform_values": (_RANGE, _QUANTISED),
    "inv_log_uniform_values": (_RANGE, {}),
    "normal": ((), _NORMAL),
    "q_normal": ((), _NORMAL | _QUANTISED),
    "log_normal": ((), _NORMAL),
    "q_log_normal": ((), _NORMAL | _QUANTISED),
    "beta": ((), _BETA),
    "q_beta": ((), _BETA | _QUANTISED),
}


def _implied(where: str, given: Mapping[str, Any]) -> str:
    """Return the distribution that is meant where none is named."""
    if "values" in given:
        return "categorical_w_probabilities" if "probabilities" in given else "categorical"
    if "value" in given:
        return "constant"
    if "min" in given or "max" in given:
        integers = all(isinstance(given.get(key, 0), int) for key in _RANGE)
        return "int_uniform" if integers else "uniform"
    raise UsageError(f"{where}: needs `value: ...`, `values: [...]`, `min` and `max`, or a `distribution`")


def _categorical(where: str, given: Mapping[str, Any]) -> Axis:
    values = given["values"]
    if not isinstance(values, list) or not values:
        raise UsageError(f"{where}: `values` must be a list of at least one value")
    shares = given.get("probabilities", [1 / len(values)] * len(values))
    if not isinstance(shares, list) or len(shares) != len(values):
        raise UsageError(f"{where}: `probabilities` must be a list of {len(values)}, one for each of the values")
    shares = [_number(where, "probabilities", share) for share in shares]
    if min(shares) < 0 or abs(math.fsum(shares) - 1) > 1e-6:
        raise UsageError(f"{where}: `probabilities` must not be negative, and sum to 1")

    def quantile(probability: float) -> Any:
        below = 0.0
        for value, share in zip(values, shares, strict=True):
            below += share
            if probability < below:
                return value
        return next(value for value, share in zip(values[::-1], shares[::-1], strict=True) if share)

    return Axis(values, quantile, weighted="probabilities" in given)


def _numeric(where: str, name: str, given: Mapping[str, Any]) -> Axis:
    numbers = {key: _number(where, key, value) for key, value in given.items()}
    for key in ("sigma", "a", "b", "q"):
        if key in numbers and (numbers[key] < 0 if key == "sigma" else numbers[key] <= 0):
            raise UsageError(f"{where}: `{key}: {shown(given[key])}` must be {'>= 0' if key == 'sigma' else '> 0'}")
    if "min" in numbers and numbers["min"] > numbers["max"]:
        raise UsageError(f"{where}: min {shown(given['min'])} is greater than max {shown(given['max'])}")
    if name.endswith("_values") and numbers["min"] <= 0:
        raise UsageError(f"{where}: {name} needs a min > 0, not {shown(given['min'])}")
    if name == "int_uniform":
        if not all(isinstance(given[key], int) for key in _RANGE):
            raise UsageError(f"{where}: int_uniform needs integers as min and max")
        values = range(given["min"], given["max"] + 1)
        return Axis(values, lambda probability: values[min(int(probability * len(values)), len(values) - 1)])
    quantile = _quantile(name.removeprefix("q_"), numbers)
    try:
        quantile(0.0), quantile(1 - 2**-53)
    except OverflowError:
        raise UsageError(f"{where}: {name} goes beyond what a float can hold: its range is that of log x") from None
    if not name.startswith("q_"):
        return Axis(None, quantile)
    step = given["q"]
    grid = _steps(where, numbers["min"], numbers["max"], step) if name == "q_uniform" else None
    return Axis(grid, lambda probability: _rounded(quantile(probability), step))


def _number(where: str, key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"{where}: `{key}: {shown(value)}` must be a finite number")
    try:
        return float(value)
    except OverflowError:
        raise UsageError(f"{where}: `{key}` is too large") from None


def _rounded(value: float, step: int | float) -> int | float:
    """Return the nearest multiple of a step: a integers number if the step is one."""
    multiple = round(value / step) * step
    return multiple if isinstance(step, int) else float(f"{multiple:.12g}")  # 0.1 * 3 is 0.3


def _steps(where: str, least: float, most: float, step: int | float) -> list[int | float]:
    """Return what a grid goes through in steps of `q`: as in W&B's own grid, `max` itself is not reached."""
    count = math.ceil((most - least) / step - 1e-9)
    if count > _LARGEST_GRID:
        raise UsageError(f"{where}: a grid of {count} values; at most {_LARGEST_GRID}")
    integers = isinstance(step, int) and least.is_integer()
    return [int(least) + index * step if integers else float(f"{least + index * step:.12g}") for index in range(count)]


def _quantile(name: str, numbers: Mapping[str, float]) -> Quantile:
    """Return the quantile function of a continuous distribution."""
    if name in ("normal", "log_normal", "beta"):
        from scipy import stats  # takes a second to import, and most sweeps need none

        frozen = {
            "normal": lambda: stats.norm(numbers["mu"], numbers["sigma"]),
            "log_normal": lambda: stats.lognorm(s=numbers["sigma"], scale=math.exp(numbers["mu"])),
            "beta": lambda: stats.beta(numbers["a"], numbers["b"]),
        }[name]()
        if numbers.get("sigma") == 0:  # a point, for which SciPy has no distribution
            point = math.exp(numbers["mu"]) if name == "log_normal" else numbers["mu"]
            return lambda _: point
        return lambda probability: float(frozen.ppf(probability))
    least, most = numbers["min"], numbers["max"]
    if name == "uniform":
        return lambda probability: least + (most - least) * probability
    if name.endswith("_values"):
        least, most = math.log(least), math.log(most)
    if name.startswith("log_uniform"):
        return lambda probability: math.exp(least + (most - least) * probability)
    # inverse: log(1/x) is uniform; W&B's `inv_log_uniform` gives the range of log(1/x), `..._values` that of x.
    if name == "inv_log_uniform_values":
        least, most = -most, -least
    return lambda probability: math.exp(-(most - (most - least) * probability))

"""Checks that a likelihood is defined for the kind of data."""

from elbo_bench.data_info import DataInfo


def refuse_unless_binary(likelihood: str, info: DataInfo) -> None:
    """Require binary data.

    Raises:
        ValueError: The data are not binary. The message names the kind of data and the likelihoods for it.
    """
    if info.observation != "discrete" or info.num_levels != 2:
        raise ValueError(f"{likelihood} likelihood needs binary data, and this data is {_kind(info)}: {_suits(info)}")


def refuse_unless_continuous(likelihood: str, info: DataInfo) -> None:
    """Require continuous data. A density of discrete data is not comparable with a probability.

    Raises:
        ValueError: The data are discrete. The message names the likelihoods for them.
    """
    if info.observation != "continuous":
        raise ValueError(
            f"{likelihood} likelihood needs continuous data, and this data is {_kind(info)}: {_suits(info)}"
        )


def levels(likelihood: str, info: DataInfo) -> int:
    """Return the number of levels of discrete data.

    Raises:
        ValueError: The data are continuous or their levels are unknown. The message names the likelihoods for them.
    """
    if info.observation != "discrete" or info.num_levels is None:
        raise ValueError(f"{likelihood} likelihood needs discrete data, and this data is {_kind(info)}: {_suits(info)}")
    return info.num_levels


def _kind(info: DataInfo) -> str:
    if info.observation == "continuous":
        return "continuous"
    return "discrete with levels unknown" if info.num_levels is None else f"of {info.num_levels} levels"


def _suits(info: DataInfo) -> str:
    """Return advice which likelihoods of `conf/likelihood/` are for these data."""
    if info.observation == "continuous":
        return "take gaussian, or continuous_bernoulli if all of it lies in [0, 1]"
    if info.num_levels == 2:
        return "take bernoulli"
    return "take discretised_logistic, discretised_logistic_mixture or categorical, or dequantise the data"

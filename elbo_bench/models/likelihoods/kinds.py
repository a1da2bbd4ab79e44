"""Which data a likelihood is for, and what to say where it is not."""

from elbo_bench.data_info import DataInfo


def refuse_unless_binary(likelihood: str, info: DataInfo) -> None:
    """Refuse data that is not zeros and ones.

    Raises:
        ValueError: It is not; the line says what it is, and which likelihoods suit it.
    """
    if info.observation != "discrete" or info.num_levels != 2:
        raise ValueError(f"{likelihood} likelihood needs binary data, and this data is {_kind(info)}: {_suits(info)}")


def refuse_unless_continuous(likelihood: str, info: DataInfo) -> None:
    """Refuse data that has a probability mass: a density of it is not comparable with a probability.

    Raises:
        ValueError: It is discrete; the line says which likelihoods suit it.
    """
    if info.observation != "continuous":
        raise ValueError(
            f"{likelihood} likelihood needs continuous data, and this data is {_kind(info)}: {_suits(info)}"
        )


def levels(likelihood: str, info: DataInfo) -> int:
    """Return how many levels the data has.

    Raises:
        ValueError: It is not discrete, or does not say; the line says which likelihoods suit it.
    """
    if info.observation != "discrete" or info.num_levels is None:
        raise ValueError(f"{likelihood} likelihood needs discrete data, and this data is {_kind(info)}: {_suits(info)}")
    return info.num_levels


def _kind(info: DataInfo) -> str:
    if info.observation == "continuous":
        return "continuous"
    return "discrete with levels unknown" if info.num_levels is None else f"of {info.num_levels} levels"


def _suits(info: DataInfo) -> str:
    """Return the names, in `conf/likelihood/`, of what is for this data."""
    if info.observation == "continuous":
        return "take gaussian, or continuous_bernoulli if all of it lies in [0, 1]"
    if info.num_levels == 2:
        return "take bernoulli"
    return "take discretised_logistic, discretised_logistic_mixture or categorical, or dequantise the data"

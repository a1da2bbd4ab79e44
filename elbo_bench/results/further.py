"""Further evaluations of a run, recorded below its folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from elbo_bench.errors import UsageError
from elbo_bench.results.record import RESULT, Record, read_result


def further_results(folder: Path) -> list[Record]:
    """Return the records of the further evaluations of a run, as far as they score the run's own weights.

    A damaged record counts as missing.

    Raises:
        UsageError: The run's own record cannot be read.
    """
    weights = read_result(folder)["checkpoint"].get("weights_sha256")
    found = []
    for path in sorted(folder.glob(f"evaluations/*/{RESULT}")):
        try:
            result = read_result(path.parent)
        except UsageError:
            continue
        if result["checkpoint"].get("weights_sha256") == weights:
            found.append(result)
    return found


def missing_evaluations(folder: Path, wanted: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return those of the wanted evaluations of a run that have no record yet.

    Args:
        folder: The run's folder.
        wanted: Checked configurations of the group `evaluation`.

    Raises:
        UsageError: The run's own record cannot be read.
    """
    if not wanted:
        return []
    recorded = [result["cfg"].get("evaluation") for result in further_results(folder)]
    return [each for each in wanted if each not in recorded]

"""Further evaluations of a run, which follow its record: which of those that are wanted have none yet."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from elbo_bench.errors import UsageError
from elbo_bench.results.record import RESULT, read_result


def lacking(folder: Path, wanted: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return those evaluations of a recorded run, of its own weights, that have no record.

    Args:
        folder: The run's.
        wanted: Checked configurations of the group `evaluation`.

    Raises:
        UsageError: The run's own record cannot be read.
    """
    if not wanted:
        return []
    weights = read_result(folder)["checkpoint"].get("weights_sha256")
    found = []
    for place in folder.glob(f"evaluations/*/{RESULT}"):
        try:
            result = read_result(place.parent)
        except UsageError:  # damaged: as if it were not there
            continue
        if result["checkpoint"].get("weights_sha256") == weights:
            found.append(result["cfg"].get("evaluation"))
    return [each for each in wanted if each not in found]

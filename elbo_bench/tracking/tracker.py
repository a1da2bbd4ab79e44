"""The interface of experiment trackers, such as W&B."""

import abc
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """What a tracker knows of a run before the run starts.

    Attributes:
        run_id: The run's name.
        folder: The run's folder.
        group: Short name of the configuration without its seed. Runs that differ only in their seed share it.
        job_type: `"train"` or `"evaluate"`.
        cfg: The resolved configuration.
    """

    run_id: str
    folder: Path
    group: str
    job_type: str
    cfg: Mapping[str, Any]


class Session(abc.ABC):
    """One tracked run. No method raises, and no method waits for a network."""

    @abc.abstractmethod
    def log(self, values: Mapping[str, Any]) -> None:
        """Log values during training. The key `step` is the optimiser step."""

    @abc.abstractmethod
    def finish(self, folder: Path) -> None:
        """Log the record in a folder, and mark the run as finished."""

    @abc.abstractmethod
    def abandon(self, exit_code: int) -> None:
        """Mark a run without a record as failed."""


class Tracker(abc.ABC):
    """An experiment tracker."""

    @abc.abstractmethod
    def start(self, facts: RunFacts) -> Session:
        """Start to track a run."""
